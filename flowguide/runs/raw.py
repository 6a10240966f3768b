"""Frames to standard output as they are painted: for another program, with no file and no journal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ..config import RenderConfig
from ..errors import UsageError
from ..renderer import Renderer, Styled
from .opened import open_clip, tell_what_stays
from .session import log

STDOUT = Path("-")
"""The output that means standard output."""


def stream_raw(
    source: str | Path,
    stream: BinaryIO,
    config: RenderConfig,
    *,
    on_frame: Callable[[Styled], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> int:
    """Write each painted frame to `stream` as rgb24, row by row, and return their number.

    Times are not in such a stream; what reads it is told size and rate by a line in the log. Raises FlowguideError;
    BrokenPipeError where the reader has gone.
    """
    if config.lanes > 1:
        raise UsageError(
            "--lanes holds whole shots in memory and a raw stream gives each frame at once; leave one out."
        )
    tell_what_stays(config)
    renderer, count = Renderer(config), 0
    with open_clip(source, config) as reader:
        height, width = reader.info.size
        rate = reader.info.frame_rate or 25
        log.warning(
            "raw frames; read them with: ffmpeg -f rawvideo -pixel_format rgb24 -video_size %dx%d -framerate %s -i -",
            width, height, rate,
        )  # fmt: skip
        for styled in renderer(reader):
            stream.write(styled.frame().rgb.permute(1, 2, 0).contiguous().cpu().numpy().tobytes())
            stream.flush()
            count += 1
            if on_frame is not None:
                on_frame(styled)
            if should_stop is not None and should_stop():
                break
    return count
