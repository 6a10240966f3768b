"""Are all cuts found, and nothing else? Real clips with cuts known by eye; flashes, fades and cuts made of pictures.

    python benchmarks/shots.py DATA_FOLDER

Rows of clips: true cuts, missed and false ones, and how far from the thresholds the nearest true cut and the nearest
ordinary frame were. Rows of made clips: pans over two pictures with a flash, a fade out and in, or a hard cut between.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from results import write_result
from torch import Tensor

from flowguide.flow.shots import CutDetector
from flowguide.types import Frame
from flowguide.video import ClipReader

TRUE_CUTS = {
    "big-buck-bunny-480p.mp4": [285, 378, 553],
    "tears-of-steel-battle-clip-medium.webm": [
        *(52, 122, 158, 221, 309, 715, 788, 872, 901, 987, 1127, 1157, 1203, 1234, 1246, 1284, 1345),
        *(1378, 1430, 1472, 1525, 1571, 1618, 1650, 1689),
    ],
    "nasa-many-streams.mp4": [202],
    "people-static-camera.mp4": [],
    "flower.mp4": [],
    "friday.mp4": [],
    "hand-gesture.mkv": [],
    "chaplin.mp4": [],
    "cars-static-camera.mp4": [],
    "big-buck-bunny-720p.mp4": [],
}
SIZE = (270, 400)
FRAMES = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with clips/ and photos/")
    parser.add_argument("--made", type=int, default=60, help="clips of each kind made from pictures")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/shots.json"))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    cv2.setNumThreads(chosen.threads)
    rows = [clip_row(chosen.data / "clips" / name, cuts) for name, cuts in TRUE_CUTS.items()]
    photos = sorted((chosen.data / "photos").glob("*.jpg"))
    rows += [made_row(kind, photos, chosen.made) for kind in ("cut", "flash", "fade")]
    write_result(chosen.out, rows)


def clip_row(path: Path, true: list[int]) -> dict[str, Any]:
    with ClipReader(path) as reader:
        found, changes, frames, milliseconds = run(reader)
    at_cuts = [changes[i] for i in true]
    others = [change for i, change in changes.items() if i not in true]
    return {
        "clip": path.name,
        "frames": frames,
        "cuts": len(true),
        "missed": sorted(set(true) - set(found)),
        "false": sorted(set(found) - set(true)),
        "most_structure_at_a_cut": max((structure for structure, _ in at_cuts), default=None),
        "least_colours_at_a_cut": min((colours for _, colours in at_cuts), default=None),
        "least_structure_elsewhere_with_new_colours": min(
            (s for s, c in others if c > CutDetector().least_colours), default=None
        ),
        "most_colours_elsewhere_with_lost_structure": max(
            (c for s, c in others if s < CutDetector().least_structure), default=None
        ),
        "ms_per_frame": milliseconds,
    }


def made_row(kind: str, photos: list[Path], count: int) -> dict[str, Any]:
    random = np.random.default_rng(1)
    missed = false = 0
    for _ in range(count):
        pictures, cuts = made_clip(kind, photos, random)
        found, *_ = run(Frame(rgb, i) for i, rgb in enumerate(pictures))
        missed += len(set(cuts) - set(found))
        false += len(set(found) - set(cuts))
    return {"clip": f"made: {kind}", "frames": count * FRAMES, "clips": count, "missed": missed, "false": false}


def made_clip(kind: str, photos: list[Path], random: np.random.Generator) -> tuple[list[Tensor], list[int]]:
    """FRAMES pictures, and where a new shot begins."""
    shot = pan(photos, random)
    if kind == "cut":
        at = int(random.integers(2, FRAMES - 2))
        return shot[:at] + pan(photos, random)[at:], [at]
    level = float(random.choice([0, 255]))
    if kind == "fade":
        middle, length = FRAMES // 2, int(random.integers(2, FRAMES // 2))
        shares = [min(1.0, abs(i - middle) / length) for i in range(FRAMES)]
        return [levels(p, share, (1 - share) * level) for p, share in zip(shot, shares, strict=True)], []
    at, length = int(random.integers(2, FRAMES - 4)), int(random.integers(1, 4))
    gain, offset = random.uniform(0.8, 2.5), random.uniform(40, 160)
    if level == 0:
        gain, offset = random.uniform(0, 0.3), 0
    return [levels(p, gain, offset) if at <= i < at + length else p for i, p in enumerate(shot)], []


def pan(photos: list[Path], random: np.random.Generator) -> list[Tensor]:
    """A camera that moves over one photograph, up to 3 px a frame."""
    picture = cv2.imread(str(photos[int(random.integers(len(photos)))]), cv2.IMREAD_COLOR)
    assert picture is not None
    height, width = SIZE[0] + 3 * FRAMES, SIZE[1] + 3 * FRAMES
    large = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), (width, height), interpolation=cv2.INTER_AREA)
    canvas = torch.from_numpy(large).permute(2, 0, 1)
    down, right = (int(random.integers(0, 4)) for _ in range(2))
    noise = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(int(random.integers(1 << 30))))
    views = [canvas[:, i * down : i * down + SIZE[0], i * right : i * right + SIZE[1]] for i in range(FRAMES)]
    return [(v + 2 * noise.roll(i, 2)).clamp(0, 255).to(torch.uint8) for i, v in enumerate(views)]


def levels(picture: Tensor, gain: float, offset: float) -> Tensor:
    return (picture * gain + offset).clamp(0, 255).to(torch.uint8)


def run(frames: Iterable[Frame]) -> tuple[list[int], dict[int, tuple[float, float]], int, float]:
    """Cuts found, changes per frame, number of frames, milliseconds per frame."""
    detector = CutDetector()
    found: list[int] = []
    changes: dict[int, tuple[float, float]] = {}
    seconds, count = 0.0, 0
    for frame in frames:
        began = time.perf_counter()
        if detector.is_cut(frame):
            found.append(frame.index)
        seconds += time.perf_counter() - began
        if detector.last_change is not None:
            changes[frame.index] = detector.last_change.structure, detector.last_change.colours
        count += 1
    return found, changes, count, 1000 * seconds / max(count, 1)


if __name__ == "__main__":
    main()
