"""Which estimator carries a painting best, and at what cost? It decides which one is the default.

    python benchmarks/flow_steadiness.py DATA_FOLDER --frames 32

Clips are painted frame by frame by a feed-forward style network, which flickers. Each painted frame is then replaced,
where confidence says so, by the previous result carried along the flow: the barest form of guidance. Rows, one per
clip, estimator and metric: E_warp at lags 1 and 8 and flicker against those of the painting itself, sharpness, the
share of the picture that was carried, milliseconds of CPU time per frame for both flows. An estimator measured by
itself confirms itself: compare DIS rows where the metric is Farneback.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import onnxruntime
import torch
from results import write_result

from flowguide import ops
from flowguide.flow import FlowEstimator, estimator
from flowguide.metrics import measure
from flowguide.types import Frame
from flowguide.video import ClipReader

CLIPS = {
    "flower.mp4": 0,
    "people-static-camera.mp4": 430,
    "hand-gesture.mkv": 20,
    "big-buck-bunny-480p.mp4": 400,
    "tears-of-steel-battle-clip-medium.webm": 230,
}
"""Clip -> first frame of the measured part, within one shot."""
NAMES = ("dis:ultrafast", "dis:fast", "dis:medium", "dis-filled:fast", "dis-filled", "farneback")
METRICS = ("farneback", "dis")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with clips/ and painters/")
    parser.add_argument("--painter", default="mathura", help="name of a network in painters/")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--height", default="288")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(CLIPS))
    parser.add_argument("--estimators", nargs="*", default=list(NAMES))
    parser.add_argument("--confidence", nargs="*", default=["check"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/flow-steadiness.json"))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    cv2.setNumThreads(chosen.threads)
    rows = [row for clip in chosen.only for row in clip_rows(chosen, clip)]
    write_result(chosen.out, rows, painter=chosen.painter, height=chosen.height)


def clip_rows(chosen: argparse.Namespace, clip: str) -> Iterator[dict[str, Any]]:
    begin = CLIPS[clip]
    with ClipReader(chosen.data / "clips" / clip, size=chosen.height, max_frames=begin + chosen.frames) as reader:
        source = [frame for frame in reader if frame.index >= begin]
    painted = list(paint(source, chosen.data / "painters" / f"{chosen.painter}.onnx", chosen.threads))
    clips: dict[str, list[Frame]] = {"painted": painted}
    costs: dict[str, dict[str, float]] = {}
    for name in chosen.estimators:
        for confidence in chosen.confidence:
            key = f"{name}, {confidence}"
            clips[key], costs[key] = carry(source, painted, estimator(name, confidence=confidence))
    for metric in METRICS:
        report = measure(source, clips, estimator=metric, unguided="painted")
        plain = report["painted"]
        for key, cost in costs.items():
            found = report[key]
            name, confidence = key.split(", ")
            yield {
                "clip": clip,
                "estimator": name,
                "confidence": confidence,
                "metric": report.estimator,
                "e_warp_1_ratio": ratio(found.warp_error[1].l1, plain.warp_error[1].l1),
                "e_warp_8_ratio": ratio(found.warp_error[8].l1, plain.warp_error[8].l1),
                "flicker_ratio": ratio(found.flicker, plain.flicker),
                "sharpness": found.sharpness,
                **cost,
            }


def ratio(value: float | None, yardstick: float | None) -> float | None:
    return value / yardstick if value is not None and yardstick else None


def paint(source: list[Frame], network: Path, threads: int) -> Iterator[Frame]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
    for frame in source:
        height, width = frame.size
        padded = torch.nn.functional.pad(frame.rgb[None].float(), (0, -width % 4, 0, -height % 4), mode="replicate")
        answer = torch.from_numpy(session.run(None, {"rgb": padded.numpy()})[0])[0, :, :height, :width]
        yield Frame(answer.round().clamp(0, 255).to(torch.uint8).contiguous(), frame.index)


def carry(source: list[Frame], painted: list[Frame], flow: FlowEstimator) -> tuple[list[Frame], dict[str, float]]:
    """The clip, and what it cost: milliseconds per frame and the share that was carried."""
    carried, shares, seconds = [painted[0]], [], []
    before = painted[0].rgb.float()
    for index in range(1, len(source)):
        began = time.process_time()
        found, _ = flow.both(source[index], source[index - 1])
        seconds.append(time.process_time() - began)
        assert found.confidence is not None
        trusted = (found.confidence > 0.5).float()
        moved = ops.warp(before[None], found.uv[None], mode="bicubic")[0].clamp(0, 255)
        before = trusted * moved + (1 - trusted) * painted[index].rgb.float()
        carried.append(Frame(before.round().to(torch.uint8), painted[index].index))
        shares.append(float(trusted.mean()))
    return carried, {
        "carried_share": sum(shares) / len(shares),
        "cpu_ms_per_frame": 1000 * sorted(seconds)[len(seconds) // 2],
    }


if __name__ == "__main__":
    main()
