"""Shots as a CSV file that can be read, edited and given back; PySceneDetect's lists are read as well.

Frames in the file are counted from 1, and an end is the last frame of its shot, as PySceneDetect has it. Only the
column "Start Frame" is read back.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..types import Frame
from .shots import Shot

START = "Start Frame"
COLUMNS = ("Scene Number", START, "End Frame", "Start Time (seconds)")


class GivenCuts:
    """Cuts from a list instead of from the pictures; serves wherever a `CutDetector` does."""

    def __init__(self, first_frames: Iterable[int]):
        self._first_frames = frozenset(first_frames)

    def is_cut(self, frame: Frame) -> bool:
        """Whether the list begins a shot at `frame`; never at the first frame of all."""
        return frame.index > 0 and frame.index in self._first_frames

    def state(self) -> dict[str, Any]:
        """Nothing: the list says it all."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""


def write_shots(path: Path, shots: Iterable[Shot], frame_rate: Fraction | None = None) -> None:
    """Write a CSV file. Times are left out where the frame rate is not known."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, shot in enumerate(shots, 1):
            seconds = "" if not frame_rate else f"{float(shot.first / frame_rate):.3f}"
            writer.writerow([number, shot.first + 1, shot.end, seconds])


def read_shots(path: Path) -> GivenCuts:
    """The cuts of a CSV file. Raises UsageError for a file that is no such list, with the line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The shot list {path} cannot be read: {error}.") from error
    rows = list(csv.reader(lines))
    head = next((number for number, row in enumerate(rows) if START in row), None)
    if head is None:
        raise UsageError(f"{path} is no list of shots: no line names a column {START!r}.")
    column = rows[head].index(START)
    found: list[int] = []
    for number, row in enumerate(rows[head + 1 :], head + 2):
        if not any(cell.strip() for cell in row):
            continue
        text = row[column].strip() if column < len(row) else ""
        if not text.isdecimal() or int(text) < 1:
            raise UsageError(f"{path}, line {number}: {START} should be a number from 1, got {text!r}.")
        if found and int(text) - 1 <= found[-1]:
            raise UsageError(f"{path}, line {number}: shot beginning at {text} does not follow the one before it.")
        found.append(int(text) - 1)
    return GivenCuts(found)
