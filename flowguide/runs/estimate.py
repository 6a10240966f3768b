"""Before the work: what a run would do, how long it would take and how much room it needs."""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import RenderConfig
from ..flow.shots import find_shots
from ..renderer import Renderer
from ..types import Frame
from ..video import ClipReader
from ..video.segments import SegmentWriter
from .clip import SEGMENT_FRAMES, output_codec
from .journal import STATES_KEPT

MEASURED_FRAMES = 5
"""Frames painted to measure; the first of them, which warms everything up, does not count."""
MARGIN = 0.15
"""Share by which a long run may be faster or slower than the measured frames were."""


@dataclass(frozen=True)
class Estimate:
    """What a run would be."""

    frames: int
    size: tuple[int, int]
    shots: list[int]
    """The first frame of each shot."""
    model_calls: int
    """Rows that the denoiser would be given."""
    seconds: tuple[float, float]
    """From and to, without loading the model."""
    memory_bytes: int | None
    """Most memory while measuring: the device's on a GPU, else the process's; None where the system does not tell."""
    disk_bytes: int
    """Most room taken while the run works, its output included."""
    free_bytes: int


def estimate(source: str | Path, output: Path, config: RenderConfig) -> Estimate:
    """Read the clip for its shots and paint its first frames to measure; nothing is written beside `output`."""
    with _opened(source, config) as reader:
        counted = _Counted(reader)
        shots = [shot.first for shot in find_shots(counted)]
        info = reader.info
    renderer = Renderer(config)
    with _opened(source, config) as reader, tempfile.TemporaryDirectory() as folder:
        segment = SegmentWriter(
            Path(folder) / f"segment{output.suffix}",
            output,
            output_codec(output, config),
            size=info.size,
            time_base=info.time_base,
            rate=info.frame_rate,
        )
        durations, painted = [], 0
        with segment:
            began = time.perf_counter()
            for styled in renderer(itertools.islice(reader, MEASURED_FRAMES)):
                segment.write(styled.frame())
                painted += 1
                now = time.perf_counter()
                durations.append(now - began)
                began = now
            segment.finish()
        stored = segment.path.stat().st_size / painted * counted.frames
    counts = durations[1:] or durations
    segments = -(-counted.frames // SEGMENT_FRAMES)
    states = min(STATES_KEPT + 2, segments) * _state_bytes(renderer.state())
    return Estimate(
        frames=counted.frames,
        size=info.size,
        shots=shots,
        model_calls=counted.frames * renderer.model_calls,
        seconds=(min(counts) * counted.frames * (1 - MARGIN), max(counts) * counted.frames * (1 + MARGIN)),
        memory_bytes=_memory_bytes(renderer.checkpoint.device),
        disk_bytes=round(2 * stored + states),
        free_bytes=shutil.disk_usage(output.absolute().parent).free,
    )


def _opened(source: str | Path, config: RenderConfig) -> ClipReader:
    return ClipReader(
        source,
        size=config.size,
        start_seconds=config.start_seconds,
        end_seconds=config.end_seconds,
        max_frames=config.max_frames,
    )


class _Counted:
    """Frames, counted as they pass."""

    def __init__(self, reader: ClipReader):
        self._reader = reader
        self.frames = 0

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._reader:
            self.frames += 1
            yield frame


def _state_bytes(part: Any) -> int:
    if isinstance(part, dict):
        return sum(_state_bytes(value) for value in part.values())
    return part.numel() * part.element_size() if isinstance(part, Tensor) else 0


def _memory_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
