"""Does memory stay flat, and each frame take the same time, however long the clip is?

    python benchmarks/memory.py --frames 5000

Renders a clip of that many frames from file to file at a small size and reads the process's resident memory as it goes,
the clock and its processor time. `residual`: how far the time at which a frame was finished lies from a straight line
through all of them, at most, as a share of the whole; of processor time as well, since others use the machine too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import torch
from results import write_result

import flowguide
from flowguide.synthetic import translation
from flowguide.types import Frame
from flowguide.video import ClipWriter

SIZE = (64, 96)
EARLY = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/memory-cpu.json"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    clip = folder / "long.mp4"
    scene = translation(SIZE, (0.5, 0.25), frames=64)
    with ClipWriter(clip, size=SIZE, time_base=Fraction(1, 25), frame_rate=Fraction(25)) as writer:
        for index in range(chosen.frames):
            there_and_back = index % 126 if index % 126 < 64 else 126 - index % 126
            writer.write(Frame(scene.frame(there_and_back), index, index, Fraction(1, 25)))
    process = psutil.Process()
    resident: list[int] = []
    peak_at: dict[int, int] = {}
    clock: list[float] = []
    processor: list[float] = []

    def watch(styled: flowguide.Styled) -> None:
        resident.append(process.memory_info().rss)
        clock.append(time.perf_counter())
        processor.append(time.process_time())
        done = styled.source.index + 1
        if done in (EARLY, chosen.frames):
            peak_at[done] = max(resident)

    report = flowguide.render(clip, folder / "out.mp4", threads=1, noise="per-frame", on_frame=watch)
    growth = peak_at[chosen.frames] / peak_at[EARLY] - 1.0
    row = {
        "frames": report.frames,
        "peak_mib_after_100": peak_at[EARLY] / 2**20,
        "peak_mib_at_the_end": peak_at[chosen.frames] / 2**20,
        "growth": growth,
        "fps": report.frames_per_second,
        "residual": residual(clock),
        "residual_of_processor_time": residual(processor),
    }
    print(row)
    write_result(chosen.out, [row], size=SIZE)


def residual(times: list[float]) -> float:
    """Largest distance of `times` from their straight line, as a share of the whole time."""
    frames = np.arange(len(times))
    line = np.polyval(np.polyfit(frames, times, 1), frames)
    return float(np.abs(np.array(times) - line).max() / (times[-1] - times[0]))


if __name__ == "__main__":
    main()
