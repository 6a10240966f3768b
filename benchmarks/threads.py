"""How many threads should the model have on this CPU?

    python benchmarks/threads.py CLIP --frames 16

A whole render, from file to file, with 1, 2, … threads by turns; reading, flow and encoding run beside the model, so
the last core may bring less than it takes. `fps` is the median over the rounds, `cpu_seconds` the processor time of a
frame.
`choose_threads` in flowguide/machine.py is the rule that came of it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from results import write_result

import flowguide
from flowguide.machine import choose_threads, keep_freed_memory, usable_cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", default="384")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/threads-cpu.json"))
    chosen = parser.parse_args()
    keep_freed_memory()
    counts = sorted({1, *(2**power for power in range(8) if 2**power < usable_cores()), usable_cores()})
    painted(chosen.clip, chosen.size, 2, 1)
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    for number in range(chosen.rounds):
        for count in counts if number % 2 == 0 else counts[::-1]:
            found[count].append(painted(chosen.clip, chosen.size, chosen.frames, count))
    rows: list[dict[str, Any]] = [
        {
            "threads": count,
            "fps": statistics.median(fps for fps, _ in took),
            "fps_range": [min(fps for fps, _ in took), max(fps for fps, _ in took)],
            "cpu_seconds": statistics.median(cpu for _, cpu in took),
            "chosen": count == choose_threads(0),
        }
        for count, took in found.items()
    ]
    for row in rows:
        print(row)
    write_result(chosen.out, rows, size=chosen.size, frames=chosen.frames, rounds=chosen.rounds)


def painted(clip: Path, size: str, frames: int, threads: int) -> tuple[float, float]:
    """Frames a second, and processor seconds of a frame."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        report = flowguide.render(
            clip, Path(folder) / "out.mp4", size=size, max_frames=frames, threads=threads, audio=False
        )
        return report.frames_per_second, (time.process_time() - began) / report.frames


if __name__ == "__main__":
    main()
