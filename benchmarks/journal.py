"""What does it cost that a run cannot be lost?

    python benchmarks/journal.py CLIP --frames 96 --size 256

Paints the same frames by turns into one file by one encoder, nothing kept, and as a run with its journal, and compares
what both take: in CPU time of the process, which other work on the machine does not touch, and on the clock. The
`waited` row is how long painting itself stood still for the journal.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from results import write_result

import flowguide
from flowguide.config import RenderConfig, render_config
from flowguide.renderer import Renderer
from flowguide.runs.clip import SEGMENT_FRAMES
from flowguide.runs.request import Request
from flowguide.video import ClipReader, ClipWriter


def paint_plainly(clip: Path, output: Path, config: RenderConfig) -> None:
    """All frames through one encoder."""
    renderer = Renderer(config)
    with (
        ClipReader(clip, size=config.size, max_frames=config.max_frames) as reader,
        ClipWriter(
            output, size=reader.info.size, time_base=reader.info.time_base, frame_rate=reader.info.frame_rate,
            audio_from=reader,
        ) as writer,
    ):  # fmt: skip
        for styled in renderer(reader):
            writer.write(styled.frame())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--frames", type=int, default=2 * SEGMENT_FRAMES)
    parser.add_argument("--size", default="256")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/journal-cpu.json"))
    chosen = parser.parse_args()
    config = render_config(size=chosen.size, max_frames=chosen.frames, threads=1)
    folder = Path(tempfile.mkdtemp())
    # The first frames of a process cost more than all later ones.
    paint_plainly(chosen.clip, folder / "warm.mp4", config.model_copy(update={"max_frames": 8}))
    rows = []
    for turn in range(chosen.turns):
        cpu, began = time.process_time(), time.perf_counter()
        paint_plainly(chosen.clip, folder / "plain.mp4", config)
        plain_cpu, plain_seconds = time.process_time() - cpu, time.perf_counter() - began
        cpu, began = time.process_time(), time.perf_counter()
        report = flowguide.render(chosen.clip, folder / "run.mp4", config=config, request=Request(overwrite=True))
        kept_cpu, kept_seconds = time.process_time() - cpu, time.perf_counter() - began
        row = {
            "turn": turn,
            "frames": report.frames,
            "plain_cpu_seconds": plain_cpu,
            "journalled_cpu_seconds": kept_cpu,
            "cpu_overhead": kept_cpu / plain_cpu - 1,
            "clock_overhead": kept_seconds / plain_seconds - 1,
            "waited": report.stage_seconds["journal"] / report.seconds,
        }
        rows.append(row)
        print(row, flush=True)
    write_result(chosen.out, rows, size=chosen.size, segment_frames=SEGMENT_FRAMES)


if __name__ == "__main__":
    main()
