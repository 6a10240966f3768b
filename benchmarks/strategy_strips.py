"""Strips for docs/guidance.md: what guided one frame of the synthetic film, under each strategy.

    python benchmarks/strategy_strips.py docs/images

Each strip shows source, reference, the reference moved here, confidence with holes in red, and the result, as
`flowguide render --explain` does; that of the passes shows the same place after one and after two passes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor

from flowguide.config import RenderConfig
from flowguide.diffusion.checkpoint import load_checkpoint
from flowguide.renderer import Renderer, Styled
from flowguide.runs.explain import strip
from flowguide.synthetic import demo

SIZE, FRAMES, SHOWN = (192, 320), 17, 12
QUALITY = 82
STRATEGIES: dict[str, dict[str, Any]] = {
    "previous": {"strategy": "previous"},
    "references": {"strategy": "references"},
    "anchors": {"strategy": "anchors", "anchors": "8"},
    "joint": {"strategy": "joint", "window": 3},
    "source": {"strategy": "source", "direct_stabilization_weight": "0.25"},
    "seed-v1": {"strategy": "seed-v1", "flow": "farneback"},
}
CROP = (slice(None), slice(20, 180), slice(10, 170))
"""The near tree, behind which the land comes into view."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[*STRATEGIES, "passes"])
    chosen = parser.parse_args()
    folder = chosen.folder
    checkpoint = load_checkpoint("painter", torch.bfloat16, torch.device("cpu"), RenderConfig())
    for name in chosen.only:
        if name in STRATEGIES:
            styled = painted(checkpoint, STRATEGIES[name])
            write(folder / f"strategy-{name}.jpg", strip(styled[SHOWN]))
    if "passes" not in chosen.only:
        return
    one, two = (painted(checkpoint, {"passes": passes, "window": FRAMES}) for passes in (1, 2))
    parts = [one[SHOWN].source.rgb, one[SHOWN].frame().rgb, two[SHOWN].frame().rgb]
    write(folder / "strategy-passes.jpg", enlarged(torch.cat([part[CROP] for part in parts], dim=2)))


def painted(checkpoint: Any, options: dict[str, Any]) -> list[Styled]:
    renderer = Renderer(RenderConfig(noise="per-frame", **options), checkpoint=checkpoint, explain=True)
    return list(renderer(list(demo(size=SIZE, frames=48).frames())[:FRAMES]))


def enlarged(picture: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(picture[None].float(), scale_factor=2, mode="nearest")[0].to(torch.uint8)


def write(path: Path, picture: Tensor) -> None:
    bgr = picture.permute(1, 2, 0).flip(2).contiguous().numpy()
    cv2.imwrite(str(path), bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    print(path, path.stat().st_size // 1000, "kB", flush=True)


if __name__ == "__main__":
    main()
