"""How much of a painted clip's unsteadiness does guidance take away, and does it stay sharp? Real clips, one run.

    python benchmarks/guidance.py steady CLIPS_FOLDER PAINTERS_FOLDER --frames 25
    python benchmarks/guidance.py render CLIPS_FOLDER --frames 25
    python benchmarks/guidance.py strategies CLIPS_FOLDER --frames 25 --only flower.mp4 hand-gesture.mkv

`steady`: clips painted frame by frame by ONNX style networks (input `rgb` float [N, 3, H, W] in 0..255, output the
same), and by the bundled model without guidance under fixed and per-frame noise, then steadied. A row's excess is
(E - E_source) / (E_painted - E_source), E being E_warp with flow and mask of the source (docs/math.md, section 8), by
two estimators, of which the first did not guide. `moved` is the first painting moved along the second estimator's own
flow with one interpolation: what that metric leaves where nobody disagrees about the flow. `structure` is the
correlation of the strength of edges with the source's.

`render`: clips painted by the bundled model under per-frame noise, unguided and by each strategy, anchors every 8
frames. Excess likewise, against the unguided render. `strategies`: the same with those of FURTHER.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from results import write_result

from flowguide.config import RenderConfig
from flowguide.flow import FlowEstimator, estimator
from flowguide.guidance.anchors import Finished
from flowguide.metrics import NOTHING_TO_STEADY, Report, measure
from flowguide.ops import compose, from_model, to_model, warp
from flowguide.renderer import Renderer
from flowguide.steady import Steadier
from flowguide.types import Flow, Frame
from flowguide.video import ClipReader

CLIPS = {
    "flower.mp4": 0.0,
    "people-static-camera.mp4": 9.0,
    "hand-gesture.mkv": 0.0,
    "big-buck-bunny-480p.mp4": 4.0,
    "tears-of-steel-battle-clip-medium.webm": 14.5,
    "chaplin.mp4": 1.0,
    "cars-static-camera.mp4": 3.0,
    "friday.mp4": 0.0,
}
"""Clip -> second at which the measured part begins: one shot in which something moves."""
LAGS = (1, 4, 16)
STRATEGIES: dict[str, dict[str, Any]] = {
    "unguided": {"guidance": False},
    "seed-v1": {"strategy": "seed-v1", "flow": "farneback"},
    "previous": {"strategy": "previous"},
    "anchors": {"strategy": "anchors", "anchors": "8"},
}
FURTHER: dict[str, dict[str, Any]] = {
    **{name: STRATEGIES[name] for name in ("unguided", "previous")},
    "references": {"strategy": "references"},
    "previous, 2 passes": {"strategy": "previous", "passes": 2, "window": 12},
    "references, 2 passes": {"strategy": "references", "passes": 2, "window": 12},
    "joint": {"strategy": "joint"},
    "joint, every frame": {"strategy": "joint", "joint_every": 1},
    "by source": {"strategy": "source"},
    "by source, direct .25": {"strategy": "source", "direct_stabilization_weight": "0.25"},
    "by source, edge 2": {"strategy": "source", "edge_stabilization_weight": "2"},
    "by source, flow 0, direct 1": {
        "strategy": "source",
        "flow_stabilization_weight": "0",
        "direct_stabilization_weight": "1",
    },
}
"""The other strategies beside `previous`, for the mode `strategies`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steady", "render", "strategies"])
    parser.add_argument("clips", type=Path, help="folder with the clips")
    parser.add_argument("painters", type=Path, nargs="?", help="folder with the ONNX painters")
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--only", nargs="*", default=list(CLIPS), help="names of clips")
    parser.add_argument("--strategies", nargs="*", help="those beside unguided, by the names below; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.what == "steady":
        painters = sorted(chosen.painters.glob("*.onnx"))
        rows = [row for name in chosen.only for row in steady_rows(chosen, name, painters)]
    else:
        strategies = STRATEGIES if chosen.what == "render" else FURTHER
        if chosen.strategies:
            strategies = {name: strategies[name] for name in ("unguided", *chosen.strategies)}
        rows = [render_row(name, read(chosen, name), chosen.threads, strategies) for name in chosen.only]
    out = chosen.out or Path(f"benchmarks/results/guidance-{chosen.what}-cpu.json")
    write_result(out, rows, settings={"frames": chosen.frames, "height": chosen.height, "threads": chosen.threads})


def read(chosen: argparse.Namespace, name: str) -> list[Frame]:
    part = {"start_seconds": CLIPS[name], "max_frames": chosen.frames}
    with ClipReader(chosen.clips / name, size=chosen.height, **part) as reader:
        return [_cropped(frame) for frame in reader]


def render_row(
    name: str, source: list[Frame], threads: int, strategies: dict[str, dict[str, Any]] = STRATEGIES
) -> dict[str, Any]:
    clips: dict[str, list[Frame]] = {}
    row: dict[str, Any] = {"clip": name, "noise": "per-frame"}
    for strategy, options in strategies.items():
        renderer = Renderer(RenderConfig(noise="per-frame", threads=threads, **options))
        began = time.perf_counter()
        clips[strategy] = [styled.frame() for styled in renderer(source)]
        seconds = time.perf_counter() - began
        stages = {stage: 1000.0 * spent / len(source) for stage, spent in renderer.clock.seconds.items()}
        row[strategy] = {"fps": len(source) / seconds, "stages_ms": stages}
    for name_of_flow in ("farneback", "dis"):
        report = measure(source, clips, lags=LAGS, estimator=name_of_flow, unguided="unguided")
        for strategy in list(clips)[1:]:
            measured = {f"excess_{lag}": _excess(report, lag, "unguided", strategy) for lag in LAGS}
            row[strategy][f"by_{name_of_flow}"] = measured
            row[strategy] |= {"sharpness": report[strategy].sharpness, "colour_drift": report[strategy].colour_drift}
        row["note"] = report["unguided"].note
    if "anchors" in clips:
        row["speed_up"] = row["anchors"]["fps"] / row["unguided"]["fps"]
    told = {key: {k: v for k, v in row[key].items() if k != "stages_ms"} for key in clips}
    print(name, row.get("speed_up"), told, flush=True)
    return row


def steady_rows(chosen: argparse.Namespace, name: str, painters: Sequence[Path]) -> list[dict[str, Any]]:
    source = read(chosen, name)
    given = {painter.stem: paint(source, painter, chosen.threads) for painter in painters}
    for noise in ("fixed", "per-frame"):
        renderer = Renderer(RenderConfig(noise=noise, threads=chosen.threads, guidance=False))
        given[f"bundled, {noise} noise"] = [styled.frame() for styled in renderer(source)]
    clips, made = dict(given), {}
    for painter, painted in given.items():
        began = time.perf_counter()
        steadier = Steadier()
        clips[f"{painter} steady"] = [_frame(finished) for finished in steadier(source, painted)]
        made[painter] = {"anchors": steadier.anchors, "ms": 1000.0 * (time.perf_counter() - began) / len(source)}
    dis = _Once("dis")
    clips |= {f"{painter} moved": _moved(source, painted[0], dis) for painter, painted in given.items()}
    reports = {flow.name: measure(source, clips, lags=LAGS, estimator=flow) for flow in (_Once("farneback"), dis)}
    return [_steady_row(name, painter, source, clips, reports) | made[painter] for painter in given]


def _steady_row(
    name: str, painter: str, source: list[Frame], clips: dict[str, list[Frame]], reports: dict[str, Report]
) -> dict[str, Any]:
    steady = f"{painter} steady"
    row: dict[str, Any] = {"clip": name, "painter": painter}
    for flow, report in reports.items():
        floor, plain = report["source"].warp_error[1].l1, report[painter].warp_error[1].l1
        row[flow] = {
            "e_warp_1": {clip: report[clip].warp_error[1].l1 for clip in ("source", painter, steady)},
            **{f"excess_{lag}": _excess(report, lag, painter, steady) for lag in LAGS},
            "excess_1_moved": _excess(report, 1, painter, f"{painter} moved"),
            "nothing_to_steady": floor is not None and plain is not None and plain < NOTHING_TO_STEADY * floor,
        }
    last = list(reports.values())[-1]
    for key, clip in (("sharpness", steady), ("sharpness_moved", f"{painter} moved")):
        row[key] = last[clip].laplacian_energy / last[painter].laplacian_energy
    row["flicker"] = {clip: last[clip].flicker for clip in ("source", painter, steady)}
    row["structure"] = {clip: _structure(source, clips[clip]) for clip in (painter, steady)}
    told = {flow: {key: row[flow][key] for key in ("excess_1", "excess_16", "excess_1_moved")} for flow in reports}
    print(name, painter, told, row["sharpness"], row["structure"], flush=True)
    return row


def _structure(source: Sequence[Frame], clip: Sequence[Frame]) -> float:
    """Mean correlation of the strength of edges in the clip and in its source."""
    found = []
    for ours, theirs in zip(source, clip, strict=True):
        found.append(np.corrcoef([_edges(ours).ravel(), _edges(theirs).ravel()])[0, 1])
    return float(np.mean(found))


def _edges(frame: Frame) -> Any:
    grey = cv2.GaussianBlur(frame.rgb.float().mean(0).numpy(), (0, 0), 1.5)
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))


def _moved(source: Sequence[Frame], painting: Frame, flow: FlowEstimator) -> list[Frame]:
    """The first painting moved along the flow that measures, one interpolation each: what the metric leaves then."""
    picture, composed, moved = to_model(painting.rgb[None]), None, [painting]
    for before, frame in itertools.pairwise(source):
        step = flow(frame, before).uv[None]
        composed = step if composed is None else compose(step, composed)[0]
        rgb = from_model(warp(picture, composed, mode="spline36").clamp(-1.0, 1.0))[0]
        moved.append(Frame(rgb, frame.index, frame.pts, frame.time_base))
    return moved


class _Once:
    """An estimator that looks at each pair of frames once."""

    def __init__(self, name: str):
        self.name, self._estimator = name, estimator(name)
        self._found: dict[tuple[int, int], Flow] = {}

    def __call__(self, at: Frame, to: Frame) -> Flow:
        if (at.index, to.index) not in self._found:
            self._found[at.index, to.index] = self._estimator(at, to)
        return self._found[at.index, to.index]

    def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        return self(at, to), self(to, at)


def paint(source: Sequence[Frame], painter: Path, threads: int) -> list[Frame]:
    """Each frame by itself through the style network."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(painter), options, providers=["CPUExecutionProvider"])
    painted = []
    for frame in source:
        (found,) = session.run(None, {"rgb": frame.rgb[None].numpy().astype(np.float32)})
        rgb = torch.from_numpy(np.clip(np.rint(found[0]), 0, 255).astype(np.uint8))
        painted.append(Frame(rgb, frame.index, frame.pts, frame.time_base))
    return painted


def _excess(report: Report, lag: int, plain: str, guided: str) -> float | None:
    floor, before, after = (report[name].warp_error[lag].l1 for name in ("source", plain, guided))
    return None if floor is None or before is None or after is None else (after - floor) / (before - floor)


def _cropped(frame: Frame) -> Frame:
    """The style networks take sides that are multiples of 4."""
    height, width = (side // 4 * 4 for side in frame.size)
    return Frame(frame.rgb[:, :height, :width].contiguous(), frame.index, frame.pts, frame.time_base)


def _frame(finished: Finished) -> Frame:
    rgb = from_model(finished.picture[None])[0]
    assert isinstance(rgb, torch.Tensor)
    return Frame(rgb, finished.frame.index, finished.frame.pts, finished.frame.time_base)


if __name__ == "__main__":
    main()
