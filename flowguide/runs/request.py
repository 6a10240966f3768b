"""What to do about a run or an output that is there already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .assemble import may_be_replaced, output_files, replaced
from .disk import check_room
from .identity import SAME, TOLD, differences, is_steadied
from .journal import Journal, frames_in
from .session import log


@dataclass(frozen=True)
class Request:
    """What is asked for; by default neither a run nor an output that is there is touched."""

    resume: bool = False
    """Go on with the run; begin where there is none."""
    overwrite: bool = False
    """Give up the run, and replace the output once the new one is complete."""
    redo: tuple[int, int] | None = None
    """Paint the frames first..last of a finished output again, in whole segments."""


def refuse_to_replace(journal: Journal) -> None:
    """Raise UsageError where a run or an output is there already; asked before anything is loaded."""
    frames = frames_in(journal.records()) if journal.exists else 0
    if output_files(journal.output, 1)[0].exists():
        raise UsageError(f"{journal.output} is there already; choose another name, or --overwrite it.")
    if frames:
        raise UsageError(
            f"{journal.folder} holds {frames} frames of an unfinished run; go on with --resume, or --overwrite it."
        )


def take_up(
    journal: Journal,
    request: Request,
    *,
    now: Mapping[str, Any],
    clips: Mapping[str, str | Path],
    room_bytes: Callable[[], int],
) -> None:
    """Open the run that is there, or begin one, in the locked folder.

    now: what `identity` tells of what was asked for. clips: the inputs, as given to `identity`. room_bytes: what the
    run will take. Raises UsageError where it is another run.
    """
    going_on = request.resume or request.redo
    if not going_on and not request.overwrite:
        refuse_to_replace(journal)
    if not going_on and journal.exists:
        journal.clear()
    if not journal.exists:
        if request.resume and output_files(journal.output, 1)[0].exists():
            raise UsageError(f"{journal.output} is there already, without a run to resume; --overwrite it.")
        check_room(journal.folder, room_bytes())
        journal.clear()
        journal.note("joined", {"replaces": replaced(journal.output)})
        journal.begin({**now, **{f"{part}_path": str(Path(clip).absolute()) for part, clip in clips.items()}})
        return
    before = journal.run
    refuse_another_command(journal, steady=is_steadied(now))
    changed_parts = differences(before, now, SAME)
    if changed_parts:
        files = any(part.startswith("model.sha256") for part in changed_parts)
        cause = "another input, other settings" + (", or other files of its model" if files else "")
        raise UsageError(
            f"{journal.folder} is a run with {cause} ({'; '.join(changed_parts)}); give the same, or --overwrite it."
        )
    if not may_be_replaced(journal):
        raise UsageError(f"{journal.output} is not what this run wrote; move it away, or --overwrite it.")
    for difference in differences(before, now, TOLD):
        log.warning("%s: %s; new frames may differ in their last bits.", journal.folder, difference)
    journal.tidy()


def refuse_another_command(journal: Journal, *, steady: bool) -> None:
    """Raise UsageError where the run is one of `steady` and should be one of `render`, or the other way round."""
    if is_steadied(journal.run) != steady:
        was, asked = ("render", "steady") if steady else ("steady", "render")
        raise UsageError(
            f"{journal.folder} is a run of flowguide {was}, not {asked}; choose another name, or --overwrite it."
        )
