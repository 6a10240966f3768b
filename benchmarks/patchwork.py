"""Do regions that `references` takes from different frames show a border? Gradient energy there, relative to unguided.

    python benchmarks/patchwork.py CLIPS_FOLDER --only hand-gesture.mkv

The border: pixels of one reference beside pixels of another. Its gradient energy is taken in the finished frames, in
those of `previous`, which has no such borders, and in the unguided ones, at the same places: all three are painted with
the same noise, fresh for each frame. Without a clip the synthetic film is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from results import write_result
from torch import Tensor

import flowguide.guidance.references as references
from flowguide.config import RenderConfig
from flowguide.diffusion.checkpoint import load_checkpoint
from flowguide.renderer import Renderer
from flowguide.synthetic import demo
from flowguide.types import Frame
from flowguide.video import ClipReader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="?")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/patchwork-cpu.json"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    clips = {"synthetic film": list(demo(size=(192, 320), frames=48).frames())[: chosen.frames]}
    for name in chosen.only:
        with ClipReader(chosen.clips / name, size=256, max_frames=chosen.frames) as reader:
            clips[name] = list(reader)
    rows = [row(name, frames) for name, frames in clips.items()]
    write_result(chosen.out, rows, settings={"frames": chosen.frames})


def row(name: str, frames: Sequence[Frame]) -> dict[str, Any]:
    checkpoint = load_checkpoint("painter", torch.bfloat16, torch.device("cpu"), RenderConfig())

    def painted(**options: Any) -> list[Tensor]:
        renderer = Renderer(RenderConfig(noise="per-frame", **options), checkpoint=checkpoint)
        return [styled.picture for styled in renderer(frames)]

    origins: list[Tensor | None] = []
    plain_rule = references.closest_first

    def noting(trusts: Tensor) -> Tensor:
        shares = plain_rule(trusts)
        origins[-1] = torch.where(trusts.amax(0) >= 0.5, shares.argmax(0), -1)
        return shares

    references.closest_first = noting
    renderer = Renderer(RenderConfig(noise="per-frame", strategy="references"), checkpoint=checkpoint)
    several = []
    for frame in frames:
        origins.append(None)
        several.append(renderer.render(frame).picture)
    references.closest_first = plain_rule
    clips = {"references": several, "previous": painted(), "unguided": painted(guidance=False)}
    energy = dict.fromkeys(clips, 0.0)
    pixels = 0
    for index, origin in enumerate(origins):
        if origin is None:
            continue
        height, width = frames[index].size
        border = borders(origin[:height, :width])
        pixels += int(border.sum())
        for clip, pictures in clips.items():
            energy[clip] += float(gradient_energy(pictures[index])[border].sum())
    found = {clip: energy[clip] / energy["unguided"] for clip in ("references", "previous")}
    print(name, pixels, found, flush=True)
    return {"clip": name, "border_pixels": pixels, "relative_to_unguided": found}


def borders(origin: Tensor) -> Tensor:
    """bool [H, W]: pixels of one reference beside those of another; -1 is none."""
    closest, further = ((region.float()[None, None]) for region in (origin == 0, origin > 0))
    grown = [F.max_pool2d(region, 3, 1, 1)[0, 0] > 0 for region in (closest, further)]
    return ((origin == 0) & grown[1]) | ((origin > 0) & grown[0])


def gradient_energy(picture: Tensor) -> Tensor:
    """Squared gradient of the mean of the channels, [H, W]."""
    grey = picture.mean(0)
    across, down = F.pad(grey[:, 1:] - grey[:, :-1], (0, 1)), F.pad(grey[1:] - grey[:-1], (0, 0, 0, 1))
    return across.square() + down.square()


if __name__ == "__main__":
    main()
