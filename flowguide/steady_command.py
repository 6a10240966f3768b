"""The command `steady`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from .config import SteadyConfig

if TYPE_CHECKING:
    from .runs.request import Request


def steady_command(
    source: Path,
    stylised: Path,
    output: Path,
    /,
    *,
    options: Annotated[SteadyConfig, Parameter(name="*")] = SteadyConfig(),  # noqa: B008
    config: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    segment_frames: int | None = None,
    json: bool = False,
) -> None:
    """Make STYLISED, painted from SOURCE by any tool, as steady as SOURCE; no model is needed.

    Parameters
    ----------
    source
        The clip before it was painted: its motion says what should have stayed.
    stylised
        The painted clip. Offset and frame rate are found where they differ from SOURCE's.
    output
        The video to write; its suffix chooses the container.
    config
        TOML file with a [steady] table of the options below; options given here go over it.
    resume
        Go on with an interrupted run of OUTPUT; begin where there is none.
    overwrite
        Replace OUTPUT, and give up an unfinished run of it.
    segment_frames
        Frames per segment: what an interrupted run steadies again at most. The last frame of each is an anchor.
        Default: 48.
    json
        Progress and result as one JSON object per line.
    """
    from .run_commands import request

    asked = request(resume=resume, overwrite=overwrite, redo=None)
    steady_one(source, stylised, output, options, asked, segment_frames, as_json=json)


def steady_one(
    source: Path,
    stylised: Path,
    output: Path,
    options: SteadyConfig,
    request: Request,
    segment_frames: int | None,
    *,
    as_json: bool,
) -> None:
    """Steady one clip and report on it."""
    from .machine import keep_freed_memory
    from .runs.clip import SEGMENT_FRAMES
    from .runs.steady import steady_clip
    from .terminal import reporter

    keep_freed_memory()
    with reporter(stylised, output, as_json=as_json) as report:
        done = steady_clip(
            source,
            stylised,
            output,
            config=options,
            request=request,
            segment_frames=SEGMENT_FRAMES if segment_frames is None else segment_frames,
            on_start=report.started,
            on_frame=report.frame,
            should_stop=report.stop_asked,
        )
        report.done(done)
