"""Does guidance leave ghosts, patches or drift? Scenes whose flow is known exactly, and one long real shot.

    python benchmarks/guidance_long.py ghost --frames 27
    python benchmarks/guidance_long.py patchwork --frames 27
    python benchmarks/guidance_long.py drift --frames 4500
    python benchmarks/guidance_long.py drift CLIP --frames 1394

`ghost`: slope of docs/math.md, section 8, over the pixels of the lake scene that come into view. The row `other noise`
is a second unguided rendering with other noise, which has no ghost at all: its slope is what the regression gives for
two paintings that do not know of each other. `ghost_unbiased` is the slope by an instrument, in which such a row gets
0; `ghost_content` leaves out too that what is carried from beside a pixel has the tone of the frame before
(benchmarks/ghosting.py). Their errors are standard errors over the frames of this one scene.

`patchwork`: squared difference of neighbouring pixels on the two sides of a border between regions that were painted
in different frames, relative to the same places in the unguided frames.

`drift`: one long take. Every frame is painted; every `--every` frames the pixels that have been in view ever since
the first frame are compared with it: mean colour in grey levels, and standard deviation of the luma as a ratio. On the
scene flow and visibility are exact; on a clip, places that are still and look as at first in the source count.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from ghosting import Slope, unbiased_ghosts
from results import write_result
from torch import Tensor

from flowguide import ops
from flowguide.config import RenderConfig
from flowguide.flow import TrueFlow, estimator
from flowguide.metrics import measure
from flowguide.renderer import Renderer, Styled
from flowguide.steady import Steadier
from flowguide.synthetic import demo, long_take
from flowguide.synthetic.film import TAKE_PERIOD
from flowguide.types import Frame
from flowguide.video import ClipReader

STRATEGIES: dict[str, dict[str, Any]] = {
    "previous": {"strategy": "previous"},
    "anchors": {"strategy": "anchors", "anchors": "8"},
    "references": {"strategy": "references"},
}
STILL_PX, SAME_LEVELS = 0.5, 12.0
"""A real pixel is compared with the first frame where flow and source have changed by less."""
FEW_STEPS = {"steps": 8, "strength": 0.5, "guidance_scale": 1.0}
"""Of the long takes: four executed steps, no classifier-free guidance."""
Looked = tuple[Tensor, Tensor]
"""(where in the first frame each pixel is [2, H, W], which pixels count [H, W])"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ghost", "patchwork", "drift"])
    parser.add_argument("clip", type=Path, nargs="?", help="a real shot for drift; default: the scene")
    parser.add_argument("--frames", type=int, default=27)
    parser.add_argument("--height", type=int, default=None, help="default: 256, for drift 128")
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--strategies", nargs="*", default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rows = {"ghost": ghost_rows, "patchwork": patchwork_rows, "drift": drift_rows}[chosen.what](chosen)
    kind = chosen.what if chosen.clip is None else f"{chosen.what}-{chosen.clip.stem}"
    settings = {"frames": chosen.frames, "threads": chosen.threads}
    write_result(chosen.out or Path(f"benchmarks/results/guidance-{kind}-cpu.json"), rows, settings=settings)


def ghost_rows(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    scene = demo(size=_size(chosen, 256), frames=chosen.frames)
    source = list(scene.frames())
    unguided = {"guidance": False}
    clips = {
        "unguided": _painted(source, chosen, **unguided),
        "other noise": _painted(source, chosen, seed=1, **unguided),
        "third noise": _painted(source, chosen, seed=2, **unguided),
    }
    for name in chosen.strategies or ["previous", "anchors"]:
        clips[name] = _painted(source, chosen, **STRATEGIES[name])
    clips["previous, exact flow"] = _painted(source, chosen, TrueFlow(scene.flow), strategy="previous")
    exact = TrueFlow(scene.flow)
    report = measure(source, clips, lags=(1, 8, 16), estimator=exact, unguided="unguided")
    unbiased = unbiased_ghosts(source, clips, exact, "unguided", ["other noise", "third noise"], report.shots)
    rows = [
        {"clip": clip.name, "ghost": clip.ghost, **_told(unbiased.get(clip.name, {})), "sharpness": clip.sharpness}
        | {f"e_warp_{lag}": error.l1 for lag, error in clip.warp_error.items()}
        for clip in report.clips
    ]
    for row in rows:
        print(row, flush=True)
    return rows


def _told(slopes: dict[str, Slope]) -> dict[str, float]:
    return {
        f"ghost_{kind}{ending}": number
        for kind, slope in slopes.items()
        for ending, number in (("", slope.value), ("_error", slope.error))
    }


def patchwork_rows(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    source = list(demo(size=_size(chosen, 256), frames=chosen.frames).frames())
    unguided = _painted(source, chosen, guidance=False)
    rows = []
    for name in chosen.strategies or list(STRATEGIES):
        renderer = Renderer(_config(chosen, **STRATEGIES[name]), explain=True)
        energies = torch.zeros(2, dtype=torch.float64)
        pixels = 0
        for styled, plain in zip(renderer(source), unguided, strict=True):
            regions = _regions(styled)
            if regions is not None:
                found = torch.stack([_border_energy(styled.frame().rgb, regions), _border_energy(plain.rgb, regions)])
                energies += found[:, 0]
                pixels += int(found[0, 1])
        ratio = float(energies[0] / energies[1]) if float(energies[1]) else None
        rows.append({"strategy": name, "patchwork": ratio, "border_pixels": pixels})
        print(rows[-1], flush=True)
    return rows


def _regions(styled: Styled) -> Tensor | None:
    """[H, W]: a number for the frame in which each pixel was painted; None where the frame began anew."""
    if styled.carried is None:
        return None
    painted_in = getattr(styled.carried, "painted_in", None)
    carried = styled.carried.guide.confidence >= 0.5
    return carried.long() if painted_in is None else torch.where(carried, painted_in, styled.source.index)


def _border_energy(rgb: Tensor, regions: Tensor) -> Tensor:
    """(sum over the borders of the squared difference of the luma on both sides, number of borders)."""
    luma = rgb.double().mean(0)
    regions = regions[: luma.shape[0], : luma.shape[1]]
    total = torch.zeros(2, dtype=torch.float64)
    for axis in (0, 1):
        border = regions.diff(dim=axis)
        across = luma.diff(dim=axis).square()[border != 0]
        total += torch.tensor([float(across.sum()), len(across)], dtype=torch.float64)
    return total


def drift_rows(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for name in chosen.strategies or ["previous", "anchors", "steady"]:
        source, look = _take(chosen)
        began = time.perf_counter()
        if name == "steady":
            painted: Iterator[Frame] = _steadied(source, chosen)
        else:
            renderer = Renderer(_config(chosen, **FEW_STEPS, **STRATEGIES[name]))
            painted = (styled.frame() for styled in renderer(source()))
        samples = list(_drift(source(), painted, look, chosen.every))
        rows.append(_summary(name, samples) | {"minutes": (time.perf_counter() - began) / 60.0})
        print({key: value for key, value in rows[-1].items() if key != "samples"}, flush=True)
    return rows


def _take(chosen: argparse.Namespace) -> tuple[Callable[[], Iterator[Frame]], Callable[[Frame, Frame], Looked]]:
    """(the shot, anew at each call; how a later frame lies in the first)."""
    if chosen.clip is None:
        scene = long_take(size=_size(chosen, 128), frames=chosen.frames)

        always = torch.ones(scene.size)
        for later in range(1, min(chosen.frames, TAKE_PERIOD // 2 + 1)):
            always *= scene.flow(0, later)[1]

        def exactly(frame: Frame, first: Frame) -> Looked:
            flow, seen = scene.flow(frame.index, first.index)
            return flow.uv, seen & (ops.warp(always[None, None], flow.uv[None])[0, 0] > 0.99)

        return scene.frames, exactly
    flow = estimator("dis")

    def read() -> Iterator[Frame]:
        with ClipReader(chosen.clip, size=chosen.height or 128, max_frames=chosen.frames) as reader:
            yield from reader

    def by_flow(frame: Frame, first: Frame) -> Looked:
        found = flow(frame, first)
        assert found.confidence is not None
        moved = ops.warp(first.rgb[None].float(), found.uv[None])[0]
        same = (frame.rgb.float() - moved).abs().mean(0) < SAME_LEVELS
        return found.uv, same & (found.confidence > 0.5) & (found.uv.square().sum(0) < STILL_PX**2)

    return read, by_flow


def _steadied(source: Callable[[], Iterator[Frame]], chosen: argparse.Namespace) -> Iterator[Frame]:
    """An unguided rendering, steadied."""
    renderer = Renderer(_config(chosen, **FEW_STEPS, guidance=False))
    given = (styled.frame() for styled in renderer(source()))
    for finished in Steadier()(source(), given):
        rgb = ops.from_model(finished.picture[None])[0]
        yield Frame(rgb, finished.frame.index, finished.frame.pts, finished.frame.time_base)


def _drift(
    source: Iterable[Frame], painted: Iterable[Frame], look: Callable[[Frame, Frame], Looked], every: int
) -> Iterator[dict[str, float]]:
    first: tuple[Frame, Frame] | None = None
    for frame, shown in zip(source, painted, strict=True):
        first = first or (frame, shown)
        if frame.index % every or not frame.index:
            continue
        uv, counted = look(frame, first[0])
        warped = ops.warp(first[1].rgb[None].float(), uv[None], mode="spline36")[0]
        now, then = shown.rgb.float()[:, counted].double(), warped[:, counted].double()
        colour = float((now.mean(1) - then.mean(1)).square().sum().sqrt())
        ratio = float(now.mean(0).std() / then.mean(0).std().clamp_min(1e-6))
        if frame.index % (20 * every) == 0:
            print(f"frame {frame.index}: {colour:.2f} grey levels, contrast {ratio:.3f}", flush=True)
        yield {"frame": frame.index, "colour": colour, "contrast": ratio, "share": float(counted.float().mean())}


def _summary(name: str, samples: list[dict[str, float]]) -> dict[str, Any]:
    last = samples[-max(1, len(samples) // 10) :]
    return {
        "strategy": name,
        "colour_at_the_end": math.fsum(sample["colour"] for sample in last) / len(last),
        "colour_at_most": max(sample["colour"] for sample in samples),
        "contrast_at_the_end": math.fsum(sample["contrast"] for sample in last) / len(last),
        "contrast_between": [fold(sample["contrast"] for sample in samples) for fold in (min, max)],
        "samples": samples,
    }


def _painted(source: list[Frame], chosen: argparse.Namespace, flow: Any = None, **options: Any) -> list[Frame]:
    return [styled.frame() for styled in Renderer(_config(chosen, **options), flow=flow)(source)]


def _config(chosen: argparse.Namespace, **options: Any) -> RenderConfig:
    return RenderConfig(noise="per-frame", threads=chosen.threads, **options)


def _size(chosen: argparse.Namespace, height: int) -> tuple[int, int]:
    side = chosen.height or height
    return side, side * 7 // 4 // 64 * 64


if __name__ == "__main__":
    main()
