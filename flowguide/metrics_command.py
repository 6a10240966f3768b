"""The command `metrics`."""

from __future__ import annotations

import json as json_text
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FlowguideError, UsageError, VideoError

if TYPE_CHECKING:
    from .metrics import Lag, Report

LAGS = "1,4,16,first"


def metrics_command(
    source: Path,
    /,
    *clips: Path,
    unguided: Path | None = None,
    flow: str = "farneback",
    lags: str = LAGS,
    start_seconds: float | None = None,
    max_frames: int | None = None,
    per_frame: bool = False,
    plot: Path | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Measure how steady, sharp and faithful CLIPS of SOURCE are.

    Parameters
    ----------
    source
        The clip that was painted: its flow says what should have stayed.
    clips
        Painted clips of it, with the same frames.
    unguided
        The clip painted without guidance: the yardstick of sharpness and fidelity.
    flow
        Estimator of flow and mask; take one that did not guide.
    lags
        Distances in frames over which E_warp is taken; 'first' is the first frame of the shot.
    start_seconds
        Where in SOURCE the painted part begins.
    max_frames
        Measure the first frames only.
    per_frame
        A table with a row per frame as well, with shots and anchors marked.
    plot
        A PNG file for the curves over the frames; needs matplotlib, the extra 'plot'.
    overwrite
        Replace the PNG file.
    json
        The whole report with its curves as one JSON object.
    """
    from .terminal import print_per_frame, print_report

    wanted = read_lags(lags)
    if plot is not None:
        check_plot(plot, overwrite=overwrite)
    part = {"start_seconds": start_seconds, "max_frames": max_frames}
    report = measure_files(source, clips, unguided=unguided, flow=flow, lags=wanted, part=part)
    if report.ended:
        told = f"flowguide: {', '.join(report.ended)} ended before the others; {report.frames} frames are measured."
        print(told, file=sys.stderr)
    if plot is not None:
        from .metrics_plot import write_plot

        write_plot(report, plot)
    if json:
        print(json_text.dumps(report.as_dict(), indent=2, ensure_ascii=False))
        return
    print_report(report)
    if per_frame:
        print_per_frame(report)
    if plot is not None:
        print(f"curves: {plot}")


def read_lags(text: str) -> list[Lag]:
    """'1,4,first' -> [1, 4, "first"]. Raises UsageError."""
    lags: list[Lag] = []
    for word in text.split(","):
        word = word.strip()
        if word != "first" and not (word.isdecimal() and int(word) > 0):
            raise UsageError(f"Lags are positive numbers of frames or 'first', such as {LAGS}; got {word!r}.")
        lag: Lag = "first" if word == "first" else int(word)
        if lag not in lags:
            lags.append(lag)
    return lags


def check_plot(path: Path, *, overwrite: bool) -> None:
    """Raise where `path` cannot become a plot, before anything is measured."""
    from .metrics_plot import require_matplotlib

    require_matplotlib()
    if path.suffix.lower() != ".png":
        raise UsageError(f"The curves are written as a PNG file; give --plot a name ending in .png, got {path}.")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it, such as {path / 'curves.png'}.")
    if not path.parent.is_dir():
        raise VideoError(f"{path} cannot be written: the folder {path.parent} does not exist; make it first.")
    if not os.access(path.parent, os.W_OK):
        raise VideoError(f"{path} cannot be written: the folder {path.parent} is read-only; choose another place.")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already; choose another name, or --overwrite it.")


def measure_files(
    source: Path,
    clips: Sequence[Path],
    *,
    unguided: Path | None,
    flow: str,
    lags: Sequence[Lag],
    part: Mapping[str, Any],
) -> Report:
    """Measure painted `clips` of the `part` of `source` that they show, which is read at their size."""
    from .metrics import measure
    from .runs.compare import short_names
    from .video import ClipReader, probe

    if not clips and unguided is None:
        raise UsageError("Name at least one painted clip to measure.")
    painted = dict.fromkeys([*([unguided] if unguided else []), *clips])
    names = dict(zip(short_names(list(painted)), painted, strict=True))
    size = probe(next(iter(painted))).size
    _tell_of_shape(source, probe(source).size, size)
    with ExitStack() as open_clips:
        reader = open_clips.enter_context(ClipReader(source, size=size, **part))
        readers = {
            name: open_clips.enter_context(ClipReader(path, max_frames=part.get("max_frames")))
            for name, path in names.items()
        }
        named = None if unguided is None else next(iter(names))
        anchors = {name: _anchors(path) for name, path in names.items()}
        return measure(reader, readers, lags=lags, unguided=named, estimator=flow, anchors=anchors)


def _tell_of_shape(source: Path, before: tuple[int, int], now: tuple[int, int]) -> None:
    """Warn where stretching `source` to the painted size (height, width) changes its shape by more than 3 %."""
    stretch = (now[1] / now[0]) / (before[1] / before[0])
    if abs(stretch - 1) > 0.03:
        told = (
            f"flowguide: {source.name} is {before[1]}x{before[0]} and the painted clip {now[1]}x{now[0]}, of another "
            "shape: it is stretched to be compared, and what was measured may belong to another clip or to a crop."
        )
        print(told, file=sys.stderr)


def _anchors(path: Path) -> list[int]:
    """The anchors that the clip's manifest names; none where it has no manifest."""
    from .runs.manifest import read_manifest

    try:
        known = read_manifest(path).get("anchors", [])
    except FlowguideError:
        return []
    return [index for index in known if isinstance(index, int) and index >= 0]
