"""Many clips into one folder: one after another, one report, the failure of one not stopping the rest."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import FlowguideError, Interrupted, UsageError
from .clip import RenderReport
from .durable import write_json

REPORT = "report.json"


@dataclass(frozen=True)
class Entry:
    """What became of one clip."""

    source: str
    output: str
    frames: int | None
    """Frames in the output; None where it failed."""
    error: str | None


def clips_of(pattern: str | Path) -> list[Path]:
    """The files that a glob or a name means, by name. Raises UsageError where there is none."""
    found = sorted(path for path in map(Path, glob.glob(str(pattern))) if path.is_file() and path.suffix != ".json")
    if Path(pattern).is_file():
        found = [Path(pattern)]
    if not found:
        raise UsageError(f"No file is named {pattern}; check the name, and quote a pattern: 'clips/*.mp4'.")
    return found


def outputs_of(sources: Sequence[Path], folder: Path, suffix: str) -> dict[Path, Path]:
    """Source -> output in `folder`, under the same name. Raises UsageError where two sources would share one."""
    taken: dict[Path, Path] = {}
    for source in sources:
        output = folder / f"{source.stem}{suffix}"
        if output in taken:
            raise UsageError(f"{taken[output]} and {source} would both become {output}; paint them apart.")
        taken[output] = source
    return {source: output for output, source in taken.items()}


def paint_all(outputs: dict[Path, Path], paint: Callable[[Path, Path], RenderReport], folder: Path) -> list[Entry]:
    """Call `paint` for each source and output and keep a report of all so far in `folder`. Interrupted goes through."""
    entries: list[Entry] = []
    for source, output in outputs.items():
        try:
            frames: int | None = paint(source, output).frames
            error: str | None = None
        except Interrupted:
            raise
        except FlowguideError as failure:
            frames, error = None, str(failure)
        entries.append(Entry(str(source), str(output), frames, error))
        note_report(folder, entries)
    return entries


def note_report(folder: Path, entries: Sequence[Entry]) -> None:
    """Write what became of the clips so far."""
    write_json(folder / REPORT, {"clips": [asdict(entry) for entry in entries]})
