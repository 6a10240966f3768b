"""Where no truth is known: how alike are the pictures along the flow, over the pixels that a measure trusts most?

    python benchmarks/confidence_real.py CLIPS_FOLDER

For pairs of frames of real clips, DIS medium: the share of pixels that the plain forward-backward check trusts (above
one half) is taken as the coverage, and every measure gets to choose that many pixels. Rows: mean absolute difference
(0..255) of the frame and the other one warped onto it over those pixels. The fused check looks at that very
difference, the forward-backward check does not, the learned measure does among other things.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import torch
from results import write_result
from torch import Tensor

from flowguide import ops
from flowguide.flow import DIS
from flowguide.flow.confidence import CONFIDENCE
from flowguide.types import Frame
from flowguide.video import ClipReader

CLIPS = (
    "flower.mp4",
    "people-static-camera.mp4",
    "hand-gesture.mkv",
    "big-buck-bunny-480p.mp4",
    "tears-of-steel-battle-clip-medium.webm",
    "chaplin.mp4",
)
FIRST, EVERY, PAIRS = 20, 12, 6
SAME_SHOT = 120
"""No frame after this one is looked at: the clips have no cut before it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--lags", nargs="*", type=int, default=[1, 4])
    parser.add_argument("--height", default="384")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/confidence-real.json"))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    cv2.setNumThreads(chosen.threads)
    rows = []
    for name in CLIPS:
        with ClipReader(chosen.clips / name, size=chosen.height, max_frames=SAME_SHOT) as reader:
            frames = list(reader)
        rows += [row(name, frames, lag) for lag in chosen.lags]
    write_result(chosen.out, rows, height=chosen.height)


def row(name: str, frames: list[Frame], lag: int) -> dict[str, Any]:
    errors: dict[str, list[float]] = {measure: [] for measure in CONFIDENCE}
    coverage = []
    pairs = [(i, i - lag) for i in range(FIRST, len(frames), EVERY)][:PAIRS]
    # tears-of-steel has its first cut at 52
    if name.startswith("tears"):
        pairs = [pair for pair in pairs if pair[0] < 52 or pair[1] >= 52]
    for at, to in pairs:
        uv, back = DIS("medium", confidence=None).displacements(frames[at], frames[to])
        difference = unlike(frames[at], frames[to], uv)
        found = {measure: rule(frames[at], frames[to], uv, back) for measure, rule in CONFIDENCE.items()}
        trusted = int((found["forward-backward"] > 0.5).sum())
        coverage.append(trusted / difference.numel())
        for measure, confidence in found.items():
            order = confidence.flatten().argsort(descending=True, stable=True)[:trusted]
            errors[measure].append(float(difference.flatten()[order].mean()))
    means = {f"difference_{measure}": sum(values) / len(values) for measure, values in errors.items()}
    return {"clip": name, "lag": lag, "pairs": len(pairs), "coverage": sum(coverage) / len(coverage), **means}


def unlike(at: Frame, to: Frame, uv: Tensor) -> Tensor:
    """[H, W]: mean absolute difference over the channels, 0..255."""
    return (ops.warp(to.rgb[None].float(), uv[None])[0] - at.rgb.float()).abs().mean(0)


if __name__ == "__main__":
    main()
