"""What does everything but the model's own calls cost?

    python benchmarks/frame_cost.py CLIPS_FOLDER

Per frame of a whole render: the difference between a long and a short one, after a first one, so that start-up does not
count. One thread for the model.

- `ms`: on the clock with the settings' own lookahead, where flow, reading and encoding work beside the model, if the
  machine has another core; `beside_model` is the share of that in which the model does not work. `clock_ms` has its
  columns: what waits for reading and encoding stands under codec, and all that no other column has (predict, guided
  step, paste, colour, noise, and whatever nobody measured) under glue, whose share is `glue_share`.
- `named_ms`: processor time of the painting thread in each operation by name, and in the noise; `named_share` is what
  predict, guided step, paste, colour and noise together take of the frame's clock.
- `cpu_ms`: processor time of all threads by column, without lookahead, so that each stage's time is its own. What the
  stages leave over is the encoder and the journal and stands under codec.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results import write_result
from straight_line import CLIPS, SETTINGS

import flowguide
from flowguide import ops
from flowguide.diffusion import image_to_image
from flowguide.machine import keep_freed_memory
from flowguide.timing import MODEL_STAGES

COLUMNS = {
    "model": MODEL_STAGES,
    "flow": ("flow",),
    "cuts": ("cuts",),
    "colour": ("colour",),
    "glue": ("glue", "noise", "step"),
    "codec": ("read", "write", "journal"),
}
SHORT, LONG = 8, 40
OPERATIONS = ("predict", "guided_step", "paste", "to_model", "from_model", "warp", "compose", "fill")
NAMED = ("predict", "guided_step", "paste", "to_model", "from_model", "noise")
named: dict[str, float] = defaultdict(float)
"""Seconds of the painting thread by operation, since the start."""


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
    image_to_image.keyed_noise = counted("noise", image_to_image.keyed_noise)
    keep_freed_memory()  # as the command line does
    SETTINGS["runtime"] = chosen.runtime
    spent(chosen.clips / chosen.only[0], CLIPS[chosen.only[0]], SHORT)
    rows = [row(chosen.clips / name, CLIPS[name], chosen.frames) for _ in range(chosen.rounds) for name in chosen.only]
    write_result(chosen.out, rows, settings=SETTINGS)


def row(source: Path, start: float, frames: int) -> dict[str, Any]:
    together, alone = per_frame(source, start, frames), per_frame(source, start, frames, lookahead=0)
    codec = alone["cpu"] - sum(alone[name] for name in COLUMNS)
    waited = {name: together[name] for name in ("model", "flow", "cuts", "codec")}
    glue = together["clock"] - sum(waited.values())
    result = {
        "clip": source.name,
        "ms": together["clock"],
        "model_ms": together["model"],
        "beside_model": 1 - together["model"] / together["clock"],
        "clock_ms": waited | {"glue": glue},
        "glue_share": glue / together["clock"],
        "named_ms": {name: together[name] for name in (*OPERATIONS, "noise")},
        "named_share": sum(together[name] for name in NAMED) / together["clock"],
        "cpu_ms": {name: alone[name] for name in COLUMNS} | {"codec": alone["codec"] + codec},
        "cpu_beside_model": 1 - alone["model"] / alone["cpu"],
    }
    print(result, flush=True)
    return result


def per_frame(source: Path, start: float, most: int, **options: Any) -> dict[str, float]:
    """Milliseconds of each further frame: on the clock, of the processor, and per column."""
    short, long = (spent(source, start, frames, **options) for frames in (SHORT, most))
    return {name: 1000 * (long[name] - short[name]) / (most - SHORT) for name in long}


def spent(source: Path, start: float, frames: int, **options: Any) -> dict[str, float]:
    """Seconds on the clock, of processor time, and per column."""
    named.clear()
    with tempfile.TemporaryDirectory() as folder:
        clock, cpu = time.perf_counter(), time.process_time()
        report = flowguide.render(
            source, Path(folder) / "out.mp4", noise="per-frame", start_seconds=start, max_frames=frames, audio=False,
            threads=1, dtype="bfloat16", **options, **SETTINGS,
        )  # fmt: skip
        taken = {"clock": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
    for name, stages in COLUMNS.items():
        taken[name] = sum(report.stage_seconds.get(stage, 0.0) for stage in stages)
    return taken | {name: named[name] for name in (*OPERATIONS, "noise")}


def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, its processor time counted under `name` where the painting thread calls it."""

    def call(*given: Any, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return function(*given, **options)
        began = time.thread_time()
        try:
            return function(*given, **options)
        finally:
            named[name] += time.thread_time() - began

    return call


if __name__ == "__main__":
    main()
