"""Trains the learned confidence: `flowguide training confidence --data DATA --work WORK --minutes 25`.

Scenes with known flow are painted from photographs, several estimators find their flows, and the network learns from
what their errors look like. The same command goes on where it stopped. Everything about sample number i comes from
(seed, i), everything about a step from (seed, step).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..flow import estimator
from ..flow.accuracy import RIGHT_PX, endpoint_error
from ..flow.learned import CHANNELS, WEIGHTS, ConfidenceNetwork, evidence
from .drawn_scenes import drawn_pair, weathered
from .loop import Schedule, TrainingLoop

SIZES = ((288, 384), (320, 448), (384, 512))
CROP = 256
ESTIMATOR_SHARES = {"dis:medium": 0.6, "dis:fast": 0.15, "dis:ultrafast": 0.05, "farneback": 0.2}
OCCLUDED_WEIGHT = 2.5
"""Makes one half the threshold at which F1 of occlusion is best, not the one at which its probability is one half."""
LOWEST, HIGHEST = -1.3, 2.0
"""Evidence is stored in a byte per value between these."""


@dataclass(frozen=True)
class Settings:
    """Of one training."""

    samples: int = 2400
    steps: int = 4000
    batch: int = 8
    rate: float = 3e-3
    seed: int = 1


class Samples:
    """Crops of evidence and truth on disk, made in order and kept.

    Evidence uint8 [CHANNELS, CROP / 2, CROP / 2]; truth uint8 [2, CROP, CROP]: right, visible. A pair gives four.
    """

    PER_PAIR = 4

    def __init__(self, work: Path, photos: Sequence[Path], settings: Settings):
        work.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self._photos = photos
        self._count = work / "samples.json"
        self.made = json.loads(self._count.read_text())["made"] if self._count.exists() else 0
        mode = "r+" if (work / "evidence.npy").exists() else "w+"
        count, half = settings.samples, CROP // 2
        self.seen = np.lib.format.open_memmap(
            work / "evidence.npy", mode=mode, dtype=np.uint8, shape=(count, CHANNELS, half, half)
        )
        self.truth = np.lib.format.open_memmap(
            work / "truth.npy", mode=mode, dtype=np.uint8, shape=(count, 2, CROP, CROP)
        )

    def make(self, deadline: float) -> bool:
        """Make what is missing; False where time.monotonic() passed the deadline first."""
        while self.made < self.settings.samples:
            if time.monotonic() > deadline:
                return False
            for seen, truth in self._pair(self.made // self.PER_PAIR):
                self.seen[self.made], self.truth[self.made] = seen, truth
                self.made += 1
            if self.made % 40 == 0 or self.made == self.settings.samples:
                self._count.write_text(json.dumps({"made": self.made}))
        return True

    def _pair(self, number: int) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        random = np.random.default_rng([self.settings.seed, number])
        size = SIZES[int(random.integers(len(SIZES)))]
        pair = drawn_pair(self._photos, number, size, self.settings.seed, random)
        first, second = weathered(pair, random)
        name = str(random.choice(list(ESTIMATOR_SHARES), p=list(ESTIMATOR_SHARES.values())))
        forward, backward = estimator(name, confidence=None).both(first, second)
        directions = (
            (first, second, forward.uv, backward.uv, pair.forward, pair.forward_visible),
            (second, first, backward.uv, forward.uv, pair.backward, pair.backward_visible),
        )
        samples = []
        for at, to, uv, back, true, visible in directions:
            seen = evidence(at, to, uv, back)
            right = (endpoint_error(uv, true) <= RIGHT_PX) & visible
            truth = torch.stack([right, visible]).to(torch.uint8)
            for _ in range(self.PER_PAIR // 2):
                top, left = (2 * int(random.integers(0, (length - CROP) // 2 + 1)) for length in size)
                crop = seen[:, top // 2 : (top + CROP) // 2, left // 2 : (left + CROP) // 2]
                levels = ((crop - LOWEST) / (HIGHEST - LOWEST)).clamp(0, 1) * 255
                part = truth[:, top : top + CROP, left : left + CROP]
                samples.append((levels.round().to(torch.uint8).numpy(), part.numpy()))
        return samples

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Evidence float [N, CHANNELS, CROP / 2, CROP / 2] and truth float [N, 2, CROP, CROP] of a step."""
        random = np.random.default_rng([self.settings.seed, 1, step])
        chosen = np.sort(random.choice(self.made, self.settings.batch, replace=False))
        levels = torch.from_numpy(self.seen[chosen]).float()
        # The byte's rounding becomes noise, so that the network cannot learn the steps.
        levels += torch.from_numpy(random.random(levels.shape, dtype=np.float32)) - 0.5
        seen = levels / 255 * (HIGHEST - LOWEST) + LOWEST
        truth = torch.from_numpy(self.truth[chosen]).float()
        if random.random() < 0.5:
            seen, truth = seen.flip(3), truth.flip(3)
        if random.random() < 0.5:
            seen, truth = seen.flip(2), truth.flip(2)
        return seen, truth


def train(data: Path, work: Path, minutes: float, settings: Settings) -> ConfidenceNetwork:
    """Make samples, then train, for some minutes in all; the network with its averaged weights as they are then."""
    deadline = time.monotonic() + 60 * minutes
    samples = Samples(work, sorted((data / "photos").glob("*.jpg")), settings)
    torch.manual_seed(settings.seed)
    network = ConfidenceNetwork()

    def loss_at(model: nn.Module, step: int) -> dict[str, Tensor]:
        seen, truth = samples.batch(step)
        right, visible = model(seen, (CROP, CROP)).unbind(1)
        weight = 1 + (OCCLUDED_WEIGHT - 1) * (1 - truth[:, 1])
        of_right = F.binary_cross_entropy_with_logits(right, truth[:, 0])
        of_visible = F.binary_cross_entropy_with_logits(visible, truth[:, 1], weight)
        return {"loss": of_right + of_visible, "right": of_right.detach(), "visible": of_visible.detach()}

    if samples.make(deadline):
        schedule = Schedule(settings.steps, settings.rate, decay_share=0.6)
        loop = TrainingLoop(network, loss_at, schedule, work)
        loop.run(deadline)
        loop.averaged_model()
    return network


def save(network: ConfidenceNetwork, path: Path) -> None:
    """As float16 safetensors."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().half().contiguous() for name, value in network.state_dict().items()}, path)


def train_and_save(
    data: Path, work: Path, minutes: float, changes: dict[str, int], threads: int = 1, to: Path | None = None
) -> None:
    """Train with some settings changed and write the weights, to the bundled file where no other is named."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    save(train(data, work, minutes, replace(Settings(), **changes)), to or WEIGHTS)
