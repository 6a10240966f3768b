"""Does memory stay flat however long the clip is?

    python benchmarks/memory.py --frames 2000

Renders a clip of that many frames from file to file at a small size and reads the process's resident memory as it goes.
"""

from __future__ import annotations

import argparse
import tempfile
from fractions import Fraction
from pathlib import Path

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

    def watch(styled: flowguide.Styled) -> None:
        resident.append(process.memory_info().rss)
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
    }
    print(row)
    write_result(chosen.out, [row], size=SIZE)


if __name__ == "__main__":
    main()
