"""What does everything but the model's own calls cost?

    python benchmarks/frame_cost.py CLIPS_FOLDER

Per frame of a whole render: the difference between a long and a short one, after a first one, so that start-up does not
count. One thread for the model.

- `ms`: on the clock, where flow, reading and encoding work beside the model if the machine has another core;
  `beside_model` is the share of that in which the model does not work.
- `cpu_ms`: processor time by column, which a busy machine disturbs less. Flow is what its thread takes for it; model,
  cuts and colour are the painting thread's; all else that this thread does is glue (predict, guided step, paste, noise,
  and whatever nobody named); what other threads take besides (decoding, conversion, x264, journal) is codec.
  `glue_share` is glue and colour in the painting thread's time, which is the frame's where a core is free for the rest;
  `cpu_beside_model` everything but the model in the time of all threads.
- `named_ms`: the painting thread's time in each operation by name, and in the noise; `named_share`: predict, guided
  step, paste, colour and noise together, in the painting thread's time.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from results import write_result
from straight_line import CLIPS, SETTINGS

import flowguide
from flowguide import ops
from flowguide.diffusion import image_to_image
from flowguide.flow.lookahead import Lookahead
from flowguide.machine import keep_freed_memory
from flowguide.timing import MODEL_STAGES, StageClock

SHORT, LONG = 8, 40
OPERATIONS = ("predict", "guided_step", "paste", "to_model", "from_model", "warp", "compose", "fill")
NAMED = ("predict", "guided_step", "paste", "to_model", "from_model", "noise")
spent_by: dict[str, float] = defaultdict(float)
"""Processor seconds by stage, by operation, and of flow."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, help="folder with the clips")
    parser.add_argument("--only", nargs="*", default=list(CLIPS), help="names of clips")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--frames", type=int, default=LONG, help="of the longer of the two renders")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/frame-cost-cpu.json"))
    chosen = parser.parse_args()
    for name in OPERATIONS:
        setattr(ops, name, counted(name, getattr(ops, name)))
    image_to_image.keyed_noise = counted("noise", image_to_image.keyed_noise)  # type: ignore[assignment]
    Lookahead._several = counted("find flow", Lookahead._several)  # type: ignore[method-assign]
    StageClock.__call__ = stage_by_processor  # type: ignore[method-assign]
    keep_freed_memory()  # as the command line does
    SETTINGS["runtime"] = chosen.runtime
    spent(chosen.clips / chosen.only[0], CLIPS[chosen.only[0]], SHORT)
    rows = [row(chosen.clips / name, CLIPS[name], chosen.frames) for _ in range(chosen.rounds) for name in chosen.only]
    write_result(chosen.out, rows, settings=SETTINGS)


def row(source: Path, start: float, frames: int) -> dict[str, Any]:
    short, long = (spent(source, start, count) for count in (SHORT, frames))
    each = {name: 1000 * (long[name] - short.get(name, 0.0)) / (frames - SHORT) for name in long}
    model = sum(each.get(stage, 0.0) for stage in MODEL_STAGES)
    flow, cuts, colour = (each.get(name, 0.0) for name in ("find flow", "cuts", "colour"))
    waits = sum(each.get(name, 0.0) for name in ("flow", "read", "write", "journal"))
    glue = each["painting"] - model - cuts - colour - waits
    result = {
        "clip": source.name,
        "ms": each["clock"],
        "beside_model": 1 - each["model clock"] / each["clock"],
        "cpu_ms": {"model": model, "flow": flow, "cuts": cuts, "colour": colour, "glue": glue,
                   "codec": each["cpu"] - each["painting"] - flow + waits},
        "cpu_beside_model": 1 - model / each["cpu"],
        "glue_share": (glue + colour) / each["painting"],
        "named_ms": {name: each.get(name, 0.0) for name in (*OPERATIONS, "noise")},
        "named_share": sum(each.get(name, 0.0) for name in NAMED) / each["painting"],
    }  # fmt: skip
    print(result, flush=True)
    return result


def spent(source: Path, start: float, frames: int) -> dict[str, float]:
    """Seconds on the clock and of processor time: of all threads, of the painting one, and of its parts."""
    spent_by.clear()
    with tempfile.TemporaryDirectory() as folder:
        clock, cpu, painting = time.perf_counter(), time.process_time(), time.thread_time()
        report = flowguide.render(
            source, Path(folder) / "out.mp4", noise="per-frame", start_seconds=start, max_frames=frames, audio=False,
            threads=1, dtype="bfloat16", **SETTINGS,
        )  # fmt: skip
        taken = {
            "clock": time.perf_counter() - clock,
            "cpu": time.process_time() - cpu,
            "painting": time.thread_time() - painting,
            "model clock": sum(report.stage_seconds.get(stage, 0.0) for stage in MODEL_STAGES),
        }
    return taken | spent_by


def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, its processor time counted under `name` where the painting thread calls it; that of the flow where
    any does."""

    def call(*given: Any, **options: Any) -> Any:
        if name != "find flow" and threading.current_thread() is not threading.main_thread():
            return function(*given, **options)
        began = time.thread_time()
        try:
            return function(*given, **options)
        finally:
            spent_by[name] += time.thread_time() - began

    return call


@contextmanager
def stage_by_processor(clock: StageClock, stage: str) -> Iterator[None]:
    """A stage of the clock, its processor time counted as well."""
    started, began = time.perf_counter(), time.thread_time()
    try:
        yield
    finally:
        spent_by[stage] += time.thread_time() - began
        clock.seconds[stage] += time.perf_counter() - started


if __name__ == "__main__":
    main()
