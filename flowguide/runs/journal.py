"""The run folder beside an output: finished segments, the state after each, and what the run is.

    out.mp4.run/
        run.json                    input, settings, model, versions: written once
        segments/000002.mp4         a finished segment
        segments/000002.json        its frames' times, written after it: from then on the segment counts
        states/000003.safetensors   what the first frame of segment 3 needs
        painted.json                written when the last frame is painted
        joined.json                 digests of the files that may stand under the output's name
        redo.json                   a range that is being painted again
        whole/                      where the output is put together

Every file is complete or absent, also after a power cut. A segment's video is removed once the output, which holds its
packets, stands under its name; a GIF, a WebP and pictures do not hold them, so there they stay.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FlowguideError, UsageError
from ..video.segments import WAITING, Segment, copies_packets
from .durable import read_json, sync_folder, write_durably, write_json
from .identity import file_digest, is_steadied
from .state_file import PackedState, load_state, save_state

FORMAT = 1
"""Number of this arrangement of files; another one is refused."""
RUN = {"settings": dict, "source_path": str, "stylised_path?": str, "segment_frames": int}
"""What run.json holds at least, and of which type."""
RECORD = {
    "first": int, "pts": list, "order": list, "sha256": str, "shots": int, "seconds": int | float, "anchors": list,
    "carried": int | float, "stage_seconds": dict,
}  # fmt: skip
"""What a segment's file holds, likewise."""
NOTES: dict[str, dict[str, Any]] = {
    "painted": {"losses": list, "notes?": list},
    "joined": {"sha256?": str | None, "before?": str | None, "replaces?": str | None, "frames?": int},
    "redo": {"frames": list, "first": int, "end": int, "done": list, "changes": dict, "joined?": str | None},
    "redone": {"ranges": list},
}
"""What the other files hold; what has a question mark may be absent."""
LOCK = "lock"
STATES_KEPT = 8
"""About how many states stay for painting ranges again, spread evenly over the run."""


@dataclass(frozen=True)
class Record:
    """What is known of a finished segment."""

    number: int
    first: int
    """Index of its first frame."""
    pts: list[int]
    order: list[int]
    sha256: str
    shots: int
    """Shots begun up to its end."""
    seconds: float
    """Time that painting it took."""
    anchors: list[int] = field(default_factory=list)
    """Indices of frames that are anchors."""
    carried: float = 0.0
    """Sum over its frames of the share that was carried."""
    stage_seconds: dict[str, float] = field(default_factory=dict)


def frames_in(records: Sequence[Record]) -> int:
    """Frames of all the segments together."""
    return sum(len(record.pts) for record in records)


def run_folder(path: Path) -> Path:
    """The run folder of an output: `out.mp4` -> `out.mp4.run`; a run folder is its own."""
    return path if path.name.endswith(".run") else path.with_name(path.name + ".run")


class Journal:
    """Reads and writes one run folder; the folder is made by `begin`."""

    def __init__(self, output: Path):
        self.output = output
        self.folder = run_folder(output)
        self._segments, self._states = self.folder / "segments", self.folder / "states"
        self._suffix = output.suffix if copies_packets(output) else WAITING

    @property
    def exists(self) -> bool:
        return (self.folder / "run.json").is_file()

    @property
    def run(self) -> dict[str, Any]:
        """What `begin` was given. Raises FlowguideError where it is damaged or of another format."""
        content = read_json(self.folder / "run.json")
        whole = _has(content, RUN) and is_steadied(content) == ("stylised_path" in content)
        if content.get("format") != FORMAT or not whole:
            raise FlowguideError(
                f"{self.folder} was written by another flowguide, or is damaged; begin anew with --overwrite."
            )
        return content

    def begin(self, run: dict[str, Any]) -> None:
        """Make a new run in the locked folder; from `run.json` on it is one."""
        for folder in (self._segments, self._states):
            folder.mkdir(parents=True, exist_ok=True)
        sync_folder(self.folder.parent)
        write_json(self.folder / "run.json", {"format": FORMAT, **run})

    def clear(self) -> None:
        """Remove the run; `run.json` first, so that what is left is no run."""
        (self.folder / "run.json").unlink(missing_ok=True)
        for part in self.folder.iterdir():
            if part.is_dir():
                shutil.rmtree(part)
            elif part.name != LOCK:
                part.unlink()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process. Raises UsageError where another one works in it."""
        try:
            self.folder.mkdir(exist_ok=True)
            stream = (self.folder / LOCK).open("wb")
        except OSError as error:
            raise FlowguideError(
                f"{self.folder} cannot be written ({error.strerror or error}); choose another place."
            ) from error
        with stream:
            if not _lock(stream.fileno()):
                raise UsageError(f"Another flowguide is writing {self.output}; wait for it, or stop it.")
            try:
                yield
            finally:
                if not self.exists:
                    shutil.rmtree(self.folder, ignore_errors=True)

    def segment_path(self, number: int) -> Path:
        return self._segments / f"{number:06d}{self._suffix}"

    def commit(self, number: int, first: int, segment: Segment, **told: Any) -> None:
        """Let a finished segment count. told: the rest of its Record."""
        digest = file_digest(segment.path)
        content = {
            "first": first, "pts": list(segment.pts), "order": list(segment.order), "sha256": digest, **told,
        }  # fmt: skip
        write_json(self._segments / f"{number:06d}.json", content)

    def records(self) -> list[Record]:
        """The segments that count, in order from the first; it ends before one that is missing or damaged."""
        found: list[Record] = []
        while (record := self._record(len(found))) is not None:
            if record.first != frames_in(found):
                break
            found.append(record)
        return found

    def _record(self, number: int) -> Record | None:
        path = self._segments / f"{number:06d}.json"
        if not path.is_file():
            return None
        try:
            record = Record(number=number, **read_json(path))
            whole = _has(vars(record), RECORD) and bool(record.pts)
            times = whole and all(isinstance(value, int | float) for value in record.stage_seconds.values())
            return record if times and sorted(record.order) == list(range(len(record.pts))) else None
        except (TypeError, FlowguideError):
            return None

    def is_whole(self, record: Record) -> bool:
        """Whether the segment's own file is there, byte by byte."""
        path = self.segment_path(record.number)
        return path.is_file() and file_digest(path) == record.sha256

    def save_state(self, number: int, state: PackedState) -> None:
        """Keep what the first frame of segment `number` needs."""
        write_durably(self._state_path(number), lambda part: save_state(part, state))

    def thin_states(self, newest: int, kept: int = STATES_KEPT) -> None:
        """Let go of states that neither resuming nor painting a range again needs; of the latter about `kept` stay."""
        stride = 1
        while newest / stride > kept:
            stride *= 2
        for path in self._states.glob("*.safetensors"):
            number = int(path.stem)
            if number < newest - 1 and number % stride:
                path.unlink()

    def remove_states(self, first: int) -> None:
        """Remove the states before segment `first` and later ones, which no segment begins from."""
        for path in self._states.glob("*.safetensors"):
            if int(path.stem) >= first:
                path.unlink()

    def nearest_state(self, number: int) -> tuple[int, dict[str, Any] | None]:
        """The last readable state at or before segment `number`, with its number; (0, None) for the beginning."""
        for candidate in range(number, 0, -1):
            if self._state_path(candidate).is_file():
                with contextlib.suppress(FlowguideError):
                    return candidate, load_state(self._state_path(candidate))
        return 0, None

    def _state_path(self, number: int) -> Path:
        return self._states / f"{number:06d}.safetensors"

    def note(self, name: str, content: dict[str, Any]) -> None:
        """Write `name`.json."""
        write_json(self.folder / f"{name}.json", content)

    def noted(self, name: str) -> dict[str, Any] | None:
        """What is in `name`.json, or None where it is absent. Raises FlowguideError where it is damaged."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            return None
        content = read_json(path)
        if not _has(content, NOTES[name]):
            raise FlowguideError(f"{path} is damaged; begin anew with --overwrite.")
        return content

    def note_redone(self, number: int) -> None:
        """Tell that segment `number` of the range in redo.json is painted again."""
        redo = self.noted("redo") or {}
        self.note("redo", {**redo, "done": [*redo.get("done", []), number]})

    def forget(self, name: str) -> None:
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def whole_folder(self) -> Path:
        """An empty folder to put the output together in."""
        folder = self.folder / "whole"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def tidy(self) -> None:
        """Remove what an earlier process left unfinished."""
        for folder in (self.folder, self._segments, self._states):
            for path in folder.glob(".*.part*"):
                path.unlink()

    def remove_segments(self) -> None:
        """Remove the segments' video; the output holds it."""
        for path in self._segments.glob(f"*{self._suffix}"):
            path.unlink()

    def state_bytes(self, number: int) -> int:
        """Size of the state before segment `number`; 0 where there is none."""
        path = self._state_path(number)
        return path.stat().st_size if path.is_file() else 0

    def remove_whole(self) -> None:
        """Remove the folder that the output was put together in."""
        shutil.rmtree(self.folder / "whole", ignore_errors=True)

    def remove_if_empty(self) -> None:
        """Remove a run of which nothing is kept."""
        if not self.records():
            self.clear()


def _has(content: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether `content` has the wanted entries, each of its type; numbers are not negative."""
    for name, kind in wanted.items():
        key = name.removesuffix("?")
        value = content.get(key)
        if key not in content and name.endswith("?"):
            continue
        if not isinstance(value, kind) or (kind is int and not 0 <= value < 2**53):
            return False
    return True


def _lock(handle: int) -> bool:
    """Whether the open file is now locked for this process; the system lets go of it when the process ends."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
