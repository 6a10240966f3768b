"""How much of a painted clip's unsteadiness does guidance take away, and does it stay sharp? Real clips, one run.

    python benchmarks/guidance.py steady CLIPS_FOLDER PAINTERS_FOLDER --frames 32
    python benchmarks/guidance.py render CLIPS_FOLDER --frames 25
    python benchmarks/guidance.py strategies CLIPS_FOLDER --frames 25 --only flower.mp4 hand-gesture.mkv

`steady`: clips painted frame by frame by ONNX style networks (input `rgb` float [N, 3, H, W] in 0..255, output the
same), then steadied. A row's excess is (E - E_source) / (E_painted - E_source), E being E_warp with flow and mask of
the source (docs/math.md, section 8), by an estimator that did not guide. `excess_same_flow` is of the same strategy
guided and measured by one estimator: what resampling leaves even where nobody disagrees about the flow.

`render`: clips painted by the bundled model under per-frame noise, unguided and by each strategy, anchors every 8
frames. Excess likewise, against the unguided render. `strategies`: the same with those of FURTHER.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import write_result

from flowguide.config import RenderConfig, SteadyConfig
from flowguide.guidance.anchors import Finished
from flowguide.metrics import Report, measure
from flowguide.ops import from_model
from flowguide.renderer import Renderer
from flowguide.steady import Steadier
from flowguide.types import Frame
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
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--only", nargs="*", default=list(CLIPS), help="names of clips")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.what == "steady":
        painters = sorted(chosen.painters.glob("*.onnx"))
        rows = [row for name in chosen.only for row in steady_rows(chosen, name, painters)]
    else:
        strategies = STRATEGIES if chosen.what == "render" else FURTHER
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
    for estimator in ("farneback", "dis"):
        report = measure(source, clips, lags=LAGS, estimator=estimator, unguided="unguided")
        for strategy in list(clips)[1:]:
            measured = {f"excess_{lag}": _excess(report, lag, "unguided", strategy) for lag in LAGS}
            row[strategy][f"by_{estimator}"] = measured
            row[strategy] |= {"sharpness": report[strategy].sharpness, "colour_drift": report[strategy].colour_drift}
        row["note"] = report["unguided"].note
    if "anchors" in clips:
        row["speed_up"] = row["anchors"]["fps"] / row["unguided"]["fps"]
    told = {key: {k: v for k, v in row[key].items() if k != "stages_ms"} for key in clips}
    print(name, row.get("speed_up"), told, flush=True)
    return row


def steady_rows(chosen: argparse.Namespace, name: str, painters: Sequence[Path]) -> list[dict[str, Any]]:
    source = read(chosen, name)
    return [steady_row(name, source, painter, chosen.threads) for painter in painters]


def steady_row(name: str, source: list[Frame], painter: Path, threads: int) -> dict[str, Any]:
    painted = paint(source, painter, threads)
    began = time.perf_counter()
    steadier = Steadier()
    steady = [_frame(finished) for finished in steadier(source, painted)]
    milliseconds = 1000.0 * (time.perf_counter() - began) / len(source)
    report = _measured(source, painted, steady, "farneback")
    same = {flow: [_frame(done) for done in Steadier(SteadyConfig(flow=flow))(source, painted)] for flow in ("dis",)}
    row: dict[str, Any] = {
        "clip": name,
        "painter": painter.stem,
        "flow_of_metric": report.estimator,
        "e_warp_1": {clip.name: clip.warp_error[1].l1 for clip in report.clips},
        **{f"excess_{lag}": _excess(report, lag) for lag in LAGS},
        **{f"excess_{lag}_by_dis": _excess(_measured(source, painted, steady, "dis"), lag) for lag in (1, 16)},
        "excess_1_same_flow": _excess(_measured(source, painted, same["dis"], "dis"), 1),
        "sharpness": report["steady"].sharpness,
        "flicker": {clip.name: clip.flicker for clip in report.clips},
        "colour_drift": report["steady"].colour_drift,
        "note": report["painted"].note,
        "anchors": steadier.anchors,
        "ms_per_frame": milliseconds,
    }
    print({key: value for key, value in row.items() if key not in ("anchors", "flicker")}, flush=True)
    return row


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


def _measured(source: Sequence[Frame], painted: Sequence[Frame], steady: Sequence[Frame], estimator: str) -> Report:
    clips = {"painted": painted, "steady": steady}
    return measure(source, clips, lags=LAGS, estimator=estimator, unguided="painted")


def _excess(report: Report, lag: int, plain: str = "painted", guided: str = "steady") -> float | None:
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
