"""Trains flowguide-flow: `flowguide training flow --data DATA --work WORK --minutes 30`.

Pairs of known flow are painted once and kept; each step sees some of them, turned, mirrored and with their colours
exchanged. The same command goes on where it stopped. Everything about pair number i comes from (seed, i), everything
about a step from (seed, step).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..flow.accuracy import endpoint_error
from ..flow.flowguide_flow import WEIGHTS, NetworkFlow, save_weights
from ..flow.network import CELL, FlowNetwork, Judgement
from ..machine import has_fast_bfloat16
from .drawn_scenes import drawn_pair, weathered
from .flow_scenes import DIFFICULTIES, make_pair
from .loop import Schedule, TrainingLoop

Parts = dict[str, NDArray[Any]]
"""Of one pair, as they are stored: pictures, flows, visible."""

SIZES = ((256, 256), (320, 384), (384, 512))
CROP = 256
MEASURED_SIZE = (256, 320)
MEASURED_SEED = 70_000
OCCLUDED_SHARE = 0.4
"""How much the flow of a pixel that is covered in the other frame counts."""
SYMMETRIES = tuple(
    (turned, down, right) for turned in (False, True) for down in (False, True) for right in (False, True)
)


@dataclass(frozen=True)
class FlowSettings:
    """Of one training. The defaults suit one CPU core; for_this_machine() enlarges them on a GPU."""

    pairs: int = 700
    steps: int = 3000
    batch: int = 4
    rate: float = 6e-4
    seed: int = 5
    measure_every: int = 250

    @classmethod
    def for_this_machine(cls, **changes: int) -> FlowSettings:
        """Settings for the GPU where there is one, else for the CPU; changes win."""
        large = {"pairs": 6000, "steps": 40_000, "batch": 16, "measure_every": 1000}
        return cls(**{**(large if torch.cuda.is_available() else {}), **changes})


@dataclass(frozen=True)
class Batch:
    """Pairs and their truth; of 2N, first the N forward ones, then the same backward."""

    first: Tensor
    """float [N, 3, CROP, CROP] in 0..255."""
    second: Tensor
    truth: Tensor
    """float [2N, 2, CROP, CROP] in pixels."""
    visible: Tensor
    """bool [2N, CROP, CROP]."""


class Pairs:
    """Pairs of known flow on disk, made in order and kept."""

    def __init__(self, work: Path, photos: Sequence[Path], settings: FlowSettings):
        work.mkdir(parents=True, exist_ok=True)
        self.settings, self._photos = settings, photos
        self._count = work / "pairs.json"
        self.made = json.loads(self._count.read_text())["made"] if self._count.exists() else 0
        parts = {
            "pictures": (np.uint8, (2, 3, CROP, CROP)),
            "flows": (np.float16, (2, 2, CROP, CROP)),
            "visible": (np.bool_, (2, CROP, CROP)),
        }
        self._stored = {}
        for name, (dtype, shape) in parts.items():
            mode = "r+" if (work / f"{name}.npy").exists() else "w+"
            path = work / f"{name}.npy"
            self._stored[name] = np.lib.format.open_memmap(path, mode, dtype, (settings.pairs, *shape))

    def make(self, deadline: float, processes: int = 1) -> bool:
        """Make what is missing; False where time.monotonic() passed the deadline first."""
        painted = partial(_painted, list(self._photos), self.settings.seed)
        if processes == 1:
            return self._keep(map, painted, 20, deadline)
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            return self._keep(pool.map, painted, 20 * processes, deadline)

    def _keep(
        self, each: Callable[..., Iterator[Parts]], painted: Callable[[int], Parts], at_once: int, deadline: float
    ) -> bool:
        while self.made < self.settings.pairs:
            if time.monotonic() > deadline:
                return False
            numbers = range(self.made, min(self.made + at_once, self.settings.pairs))
            for number, parts in zip(numbers, each(painted, numbers), strict=True):
                for name, value in parts.items():
                    self._stored[name][number] = value
            self.made = numbers.stop
            self._count.write_text(json.dumps({"made": self.made}))
        return True

    def batch(self, step: int) -> Batch:
        """What a step sees."""
        random = np.random.default_rng([self.settings.seed, 1, step])
        chosen = np.sort(random.choice(self.made, self.settings.batch, replace=False))
        pictures, flows, visible = (torch.from_numpy(self._stored[name][chosen]) for name in self._stored)
        turned, down, right = SYMMETRIES[int(random.integers(len(SYMMETRIES)))]
        colours = torch.from_numpy(random.permutation(3))
        pictures = _turned(pictures[:, :, colours].float(), turned, down, right)
        flows = _turned(flows.float(), turned, down, right)
        if turned:
            flows = flows.flip(2)
        flows = flows * torch.tensor([-1.0 if right else 1.0, -1.0 if down else 1.0]).view(1, 1, 2, 1, 1)
        truth, seen = flows.transpose(0, 1).flatten(0, 1), _turned(visible, turned, down, right).transpose(0, 1)
        return Batch(pictures[:, 0], pictures[:, 1], truth, seen.flatten(0, 1))


def _turned(value: Tensor, turned: bool, down: bool, right: bool) -> Tensor:
    value = value.transpose(-1, -2) if turned else value
    return value.flip([axis for axis, chosen in ((-2, down), (-1, right)) if chosen])


def _painted(photos: list[Path], seed: int, number: int) -> Parts:
    """The parts of pair `number`, a crop of a drawn scene."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    random = np.random.default_rng([seed, number])
    size = SIZES[int(random.integers(len(SIZES)))]
    pair = drawn_pair(photos, number, size, seed, random)
    first, second = weathered(pair, random)
    top, left = (int(random.integers(0, length - CROP + 1)) for length in size)
    part = (..., slice(top, top + CROP), slice(left, left + CROP))
    return {
        "pictures": torch.stack([first.rgb, second.rgb])[part].numpy(),
        "flows": torch.stack([pair.forward, pair.backward])[part].numpy(),
        "visible": torch.stack([pair.forward_visible, pair.backward_visible])[part].numpy(),
    }


def losses(found: Judgement, batch: Batch) -> dict[str, Tensor]:
    """What is minimised ("loss"), and its parts: endpoint errors in pixels, likelihoods, matching and visibility."""
    counts = torch.where(batch.visible, 1.0, OCCLUDED_SHARE)
    matched, corrected, near = (
        _mean_error(flow, batch, counts, only_visible=place == 0) for place, flow in enumerate(found.coarse)
    )
    error = (found.uv - batch.truth).square().sum(1).add(1e-6).sqrt()
    log_scale = found.log_scale[:, 0]
    likelihood = ((error * (-log_scale).exp() + 2 * log_scale) * counts).mean()
    seen = F.binary_cross_entropy_with_logits(found.visible[:, 0], batch.visible.float())
    matching = _matching(found.matches, batch)
    error = (error * counts).mean()
    loss = 0.1 * (matched + corrected + near) + 0.2 * error + 0.3 * likelihood + 0.3 * matching + 0.5 * seen
    parts = {"matched": matched, "corrected": corrected, "near": near, "error": error, "matching": matching}
    parts |= {"likelihood": likelihood, "seen": seen}
    return {"loss": loss, **{name: part.detach() for name, part in parts.items()}}


def _mean_error(flow: Tensor, batch: Batch, counts: Tensor, only_visible: bool) -> Tensor:
    """Of a flow on a coarser grid, against the truth at the middle of its cells."""
    truth, weight = (_at_cells(value, CROP // flow.shape[2]) for value in (batch.truth, counts))
    if only_visible:
        weight = (weight == 1).float()
    error = (flow - truth).square().sum(1).add(1e-6).sqrt()
    return (error * weight).sum() / weight.sum().clamp(min=1)


def _at_cells(value: Tensor, stride: int) -> Tensor:
    return value[..., stride // 2 :: stride, stride // 2 :: stride]


def _matching(matches: Tensor, batch: Batch) -> Tensor:
    """Mean of -log of the probability given to the four places around where each visible place went."""
    side = CROP // CELL
    here = torch.arange(side, device=matches.device, dtype=torch.float32)
    truth = _at_cells(batch.truth, CELL) / CELL
    x, y = here + truth[:, 0], here[:, None] + truth[:, 1]
    inside = (x >= 0) & (x <= side - 1) & (y >= 0) & (y <= side - 1) & _at_cells(batch.visible, CELL)
    left, top = (place.clamp(0, side - 1.001).floor() for place in (x, y))
    probability: Tensor = torch.zeros_like(x)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = (1 - (x - left - right).abs()).clamp(min=0) * (1 - (y - top - down).abs()).clamp(min=0)
        place = ((top + down) * side + left + right).long().flatten(1)
        given = matches.gather(2, place[..., None])[..., 0].view_as(x).exp()
        probability = probability + share * given
    return -((probability + 1e-6).log() * inside).sum() / inside.sum().clamp(min=1)


def train_flow(
    data: Path, work: Path, minutes: float, settings: FlowSettings, processes: int = 1, to: Path = WEIGHTS
) -> bool:
    """Make pairs, then train, for some minutes in all; True when the training is complete.

    data holds photos/. work gets the pairs, checkpoints, the log of the losses and epe.jsonl, the errors on scenes of
    the benchmark's classes. The averaged weights are written to `to`.
    """
    deadline = time.monotonic() + 60 * minutes
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = device.type == "cuda" or has_fast_bfloat16()
    pairs = Pairs(work, sorted((data / "photos").glob("*.jpg")), settings)
    if not pairs.make(deadline, processes):
        return False
    torch.manual_seed(settings.seed)
    network = FlowNetwork().to(device)

    def loss_at(model: nn.Module, step: int) -> dict[str, Tensor]:
        batch = pairs.batch(step)
        batch = Batch(*(value.to(device, non_blocking=True) for value in vars(batch).values()))
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            found = model(batch.first, batch.second)
        return losses(found, batch)

    schedule = Schedule(settings.steps, settings.rate, warm_up=100, decay_share=0.6)
    loop = TrainingLoop(network, loss_at, schedule, work, average=0.998)
    while not loop.finished and time.monotonic() < deadline:
        _run_to(loop, loop.step - loop.step % settings.measure_every + settings.measure_every, deadline)
        measured = FlowNetwork().to(device)
        measured.load_state_dict({name: value.clone() for name, value in loop.averaged.items()})
        save_weights(measured, to)
        with (work / "epe.jsonl").open("a") as file:
            file.write(json.dumps({"step": loop.step, **measure(measured)}) + "\n")
    return loop.finished


def _run_to(loop: TrainingLoop[FlowNetwork], step: int, deadline: float) -> None:
    """Until that step, or the end, or the deadline."""
    step = min(step, loop.schedule.steps)
    began = time.monotonic()
    while loop.step < step and time.monotonic() < deadline:
        window = [loop.take_step() for _ in range(min(loop.log_every, step - loop.step))]
        loop.write_log(window, time.monotonic() - began)
        loop.save()


def measure(network: FlowNetwork, per_class: int = 3) -> dict[str, float]:
    """Mean endpoint error in pixels on procedural scenes of each of the benchmark's classes, and over all."""
    found = NetworkFlow(network=network, confidence=None)
    errors: dict[str, float] = {}
    for difficulty in DIFFICULTIES:
        total = 0.0
        for number in range(per_class):
            pair = make_pair(difficulty, number, MEASURED_SIZE, seed=MEASURED_SEED)
            uv, _ = found.displacements(pair.first, pair.second)
            total += float(endpoint_error(uv, pair.forward).mean())
        errors[difficulty] = round(total / per_class, 4)
    return {"all": round(sum(errors.values()) / len(errors), 4), **errors}
