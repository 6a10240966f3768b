"""The command `steady`."""

from __future__ import annotations

import json as json_text
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from .config import SteadyConfig

if TYPE_CHECKING:
    from .guidance.anchors import Finished

TELL_EVERY_SECONDS = 5.0


def steady_command(
    source: Path,
    stylised: Path,
    output: Path,
    /,
    *,
    options: Annotated[SteadyConfig, Parameter(name="*")] = SteadyConfig(),  # noqa: B008
    overwrite: bool = False,
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
    overwrite
        Replace OUTPUT.
    json
        The result as one JSON object.
    """
    from .runs.steady import steady_clip

    progress = _Progress()
    report = steady_clip(source, stylised, output, config=options, overwrite=overwrite, on_frame=progress.frame)
    if json:
        print(json_text.dumps({"event": "done", **_plain(vars(report))}))
        return
    print(
        f"{_counted(report.frames, 'frame')}, {_counted(report.shots, 'shot')}, "
        f"{_counted(len(report.anchors), 'anchor')}, "
        f"{report.confident_share:.0%} carried, {report.seconds:.1f} s: {report.output}",
        file=sys.stderr,
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


class _Progress:
    """A line every few seconds."""

    def __init__(self) -> None:
        self._began = self._last = time.perf_counter()
        self._frames = 0

    def frame(self, finished: Finished) -> None:
        self._frames += 1
        now = time.perf_counter()
        if now - self._last >= TELL_EVERY_SECONDS:
            self._last = now
            print(f"frame {self._frames}, {self._frames / (now - self._began):.2f} fps", file=sys.stderr, flush=True)


def _plain(values: dict[str, object]) -> dict[str, object]:
    return {
        key: str(value) if isinstance(value, Path) else vars(value) if key == "alignment" else value
        for key, value in values.items()
    }
