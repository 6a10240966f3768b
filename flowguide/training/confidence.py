"""Trains the learned confidence: `python -m flowguide.training.confidence --data DATA --work WORK --minutes 25`.

Scenes with known flow are painted from photographs, several estimators find their flows, and the network learns from
what their errors look like. The same command goes on where it stopped. Everything about sample number i comes from
(seed, i), everything about a step from (seed, step).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
from ..types import Frame
from .flow_scenes import Difficulty, Pair, from_pictures, make_pair, procedural
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
        # Few photographs per scene: what moves often looks like what it moves over.
        chosen = random.choice(len(self._photos), int(random.integers(1, 5)))
        photographs = from_pictures([self._photos[index] for index in chosen])
        texture = procedural if random.random() < 0.15 else photographs
        pair = make_pair(drawn_difficulty(random), number, size, seed=self.settings.seed, texture=texture)
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


def drawn_difficulty(random: np.random.Generator) -> Difficulty:
    """Any mixture of everything, between far too easy and hopeless."""

    def between(low: float, high: float) -> float:
        return float(np.exp(random.uniform(np.log(low), np.log(high))))

    layers = int(random.integers(1, 13))
    smallest = between(0.02, 0.2)
    faintest = between(0.04, 0.9)
    return Difficulty(
        layers=(layers, layers),
        layer_size=(smallest, smallest * random.uniform(1, 3)),
        camera=between(0.001, 0.08),
        shift=between(0.003, 0.12),
        turn=between(0.002, 0.08),
        wave=between(0.003, 0.03) if random.random() < 0.4 else 0.0,
        contrast=(faintest, min(1.0, 2 * faintest)),
    )


def weathered(pair: Pair, random: np.random.Generator) -> tuple[Frame, Frame]:
    """What happens to real video: dim light, a shadow over the second frame, motion blur, compression."""
    dim = random.uniform(0.3, 1) if random.random() < 0.3 else 1.0
    shade = random.uniform(-0.35, 0.35, 2) if random.random() < 0.3 else np.zeros(2)
    quality = int(random.integers(25, 95)) if random.random() < 0.5 else None
    smear = _smear(random) if random.random() < 0.2 else None
    taken = []
    for frame, slope in ((pair.first, np.zeros(2)), (pair.second, shade)):
        picture = np.asarray(frame.rgb.permute(1, 2, 0).numpy() * dim, np.float32)
        if smear is not None:
            picture = np.asarray(cv2.filter2D(picture, -1, smear, borderType=cv2.BORDER_REPLICATE), np.float32)
        y = np.linspace(-0.5, 0.5, picture.shape[0])[:, None, None]
        x = np.linspace(-0.5, 0.5, picture.shape[1])[None, :, None]
        levels = np.clip(np.rint(picture * (1 + slope[0] * x + slope[1] * y)), 0, 255).astype(np.uint8)
        if quality is not None:
            _, coded = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, quality])
            levels = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)
        taken.append(Frame(torch.from_numpy(levels).permute(2, 0, 1).contiguous(), frame.index))
    return taken[0], taken[1]


def _smear(random: np.random.Generator) -> NDArray[np.float32]:
    """The kernel of a camera that moves by up to 12 pixels while the shutter is open."""
    length, angle = random.uniform(2, 6), random.uniform(0, np.pi)
    along = np.linspace(-length, length, 49)
    x, y = 6 + along * np.cos(angle), 6 + along * np.sin(angle)
    kernel = np.zeros((13, 13), np.float32)
    np.add.at(kernel, (np.rint(y).astype(int), np.rint(x).astype(int)), 1 / 49)
    return kernel


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with photos/")
    parser.add_argument("--work", type=Path, required=True, help="folder for samples and checkpoints")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--samples", type=int, default=Settings.samples)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--to", type=Path, default=WEIGHTS, help="file to write the weights to")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    cv2.setNumThreads(chosen.threads)
    settings = Settings(samples=chosen.samples, steps=chosen.steps)
    save(train(chosen.data, chosen.work, chosen.minutes, settings), chosen.to)


if __name__ == "__main__":
    main()
