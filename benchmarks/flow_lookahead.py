"""How much wall time does flow add to a render when it is found ahead?

    python benchmarks/flow_lookahead.py CLIP --frames 40

The frames of a clip go through a model that keeps an accelerator busy and this processor idle, for `--longer` times as
long as the flow of a pair takes. Rows: seconds for the clip without flow, with flow found when it is needed, and with
flow found ahead; the last two also as shares of the first. Runs take turns, and the least of them counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from results import write_result

from flowguide.flow import estimator
from flowguide.flow.lookahead import Ahead
from flowguide.types import Frame
from flowguide.video import ClipReader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--height", default="512")
    parser.add_argument("--flow", default="dis")
    parser.add_argument("--longer", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/flow-lookahead.json"))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    cv2.setNumThreads(chosen.threads)
    with ClipReader(chosen.clip, size=chosen.height, max_frames=chosen.frames) as reader:
        frames = list(reader)
    made = estimator(chosen.flow)
    flow_seconds = sorted(seconds(lambda: made.both(frames[1], frames[0])) for _ in range(9))[4]
    model_seconds = chosen.longer * flow_seconds
    runs: dict[str, float] = {}
    for _ in range(chosen.rounds):
        for name, depth in (("without_flow", None), ("when_needed", 0), ("ahead", 4)):
            taken = render_seconds(
                frames, None if depth is None else Ahead(made, depth, lambda frame: frame), model_seconds
            )
            runs[name] = min(taken, runs.get(name, float("inf")))
    row = {"clip": chosen.clip.name, "flow": made.name, "size": list(frames[0].size), "frames": len(frames)}
    row |= {"flow_ms": 1000 * flow_seconds, "model_ms": 1000 * model_seconds}
    row |= {f"seconds_{name}": taken for name, taken in runs.items()}
    row |= {f"share_{name}": runs[name] / runs["without_flow"] - 1 for name in ("when_needed", "ahead")}
    write_result(chosen.out, [row])


def render_seconds(frames: list[Frame], flow: Ahead | None, model_seconds: float) -> float:
    began = time.perf_counter()
    if flow is None:
        for _ in frames:
            time.sleep(model_seconds)
        return time.perf_counter() - began
    before = None
    with flow.over(frames) as ready:
        for frame in ready:
            if before is not None:
                flow.both(frame, before)
            time.sleep(model_seconds)
            before = frame
    return time.perf_counter() - began


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
