"""Does the card decode and encode what the CPU does, and how fast?

    python benchmarks/card_video.py

Per codec a clip is written by the CPU, read by the CPU and by NVDEC, and compared: times, mean difference of 255,
frames a second. Then NVENC writes a segment that the CPU reads. What cannot be had has its reason in the row.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from results import write_result

from flowguide.errors import FlowguideError
from flowguide.synthetic import demo
from flowguide.types import Frame
from flowguide.video import CODECS, ClipReader, ClipWriter, Codec
from flowguide.video.nvenc import NvencSegment, nvenc_for
from flowguide.video.nvidia import capabilities

CLIPS = {
    "h264": (".mp4", CODECS["h264"]),
    "hevc": (".mp4", CODECS["hevc"]),
    "hevc 10 bit": (
        ".mp4", Codec("libx265", "yuv420p10le", {"crf": "14", "x265-params": "log-level=error"}, mp4_tag="hvc1")
    ),
    "av1 10 bit": (".mkv", CODECS["av1"]),
    "vp9": (".webm", CODECS["vp9"]),
}  # fmt: skip
TIME_BASE = Fraction(1, 25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/card-video.json"))
    chosen = parser.parse_args()
    size = chosen.height, chosen.height * 16 // 9
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    scene = demo(0, size, 12)
    frames = [Frame(scene.frame(index % 12), index, index, TIME_BASE) for index in range(chosen.frames)]
    with tempfile.TemporaryDirectory() as folder:
        rows = [tried({"can": "card"}, capabilities)]
        for name, (suffix, codec) in CLIPS.items():
            path = Path(folder) / f"{name.replace(' ', '-')}{suffix}"
            rows.append(tried({"decode": name}, lambda path=path, codec=codec: decoded(path, codec, frames, device)))
        for name in ("h264", "hevc"):
            path = Path(folder) / f"card-{name}.mp4"
            rows.append(tried({"encode": name}, lambda path=path, name=name: encoded(path, name, frames, device)))
    write_result(chosen.out, rows, size=size, frames=chosen.frames)


def tried(row: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """`row` with what `work` found, or with the reason why it found nothing."""
    try:
        row = {**row, **work()}
    except (FlowguideError, RuntimeError, AssertionError, OSError) as error:
        row = {**row, "reason": str(error).splitlines()[0] if str(error) else type(error).__name__}
    print(row, flush=True)
    return row


def decoded(path: Path, codec: Codec, frames: list[Frame], device: torch.device) -> dict[str, Any]:
    with ClipWriter(path, size=frames[0].size, time_base=TIME_BASE, frame_rate=1 / TIME_BASE, codec=codec) as writer:
        for frame in frames:
            writer.write(frame)
    (by_cpu, cpu_fps), (by_card, card_fps) = read(path, "cpu", device), read(path, "nvdec", device)
    assert [frame.pts for frame in by_cpu] == [frame.pts for frame in by_card], "times differ"
    return {"mean_difference_of_255": apart(by_cpu, by_card), "cpu_fps": cpu_fps, "card_fps": card_fps}


def encoded(path: Path, name: str, frames: list[Frame], device: torch.device) -> dict[str, Any]:
    codec, size = CODECS[name], frames[0].size
    nvenc_for("nvenc", path, codec, size, device)
    on_card = [Frame(frame.rgb.to(device), frame.index, frame.pts, TIME_BASE) for frame in frames]
    began = time.perf_counter()
    with NvencSegment(path, path, codec, size=size, time_base=TIME_BASE, rate=1 / TIME_BASE, device=device) as segment:
        for frame in on_card:
            segment.write(frame)
        segment.finish()
    fps = len(frames) / (time.perf_counter() - began)
    found, _ = read(path, "cpu", device)
    return {"mean_difference_of_255": apart(frames, found), "card_fps": fps, "bytes": path.stat().st_size}


def read(path: Path, decoder: str, device: torch.device) -> tuple[list[Frame], float]:
    began = time.perf_counter()
    with ClipReader(path, decoder=decoder, device=device) as reader:
        found = list(reader)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return found, len(found) / (time.perf_counter() - began)


def apart(one: list[Frame], other: list[Frame]) -> float:
    assert len(one) == len(other), f"{len(other)} frames of {len(one)}"
    differences = [(a.rgb.cpu().float() - b.rgb.cpu().float()).abs().mean() for a, b in zip(one, other, strict=True)]
    return float(torch.stack(differences).mean())


if __name__ == "__main__":
    main()
