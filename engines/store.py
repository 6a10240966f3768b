"""The folder of engine files. Each has a JSON file of the same name beside it; without one it is never trusted."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowguide.engines.key import EngineKey
from flowguide.engines.runtime import RUNTIMES, version_of

from flowguide.errors import FlowguideError, ModelError
from flowguide.machine import cache_folder

log = logging.getLogger("flowguide.engines")


def folder() -> Path:
    """FLOWGUIDE_HOME/engines, or the user's cache folder."""
    return cache_folder() / "engines"


@dataclass(frozen=True)
class Entry:
    """One engine on disk."""

    file: Path
    key: EngineKey
    files: dict[str, str]
    """Name of each of its files -> SHA-256."""
    seconds: float
    """What building took."""

    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths() if path.is_file())

    def paths(self) -> list[Path]:
        return [self.file.parent / name for name in self.files]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"file": str(self.file), "size_bytes": self.size_bytes(), "seconds": self.seconds,
                "key": self.key.as_dict()}  # fmt: skip


def note_path(file: Path) -> Path:
    """Where the key of an engine file stands."""
    return file.with_suffix(".json")


def write_note(file: Path, key: EngineKey, files: list[Path], seconds: float) -> None:
    """The key and the hashes of what was just built."""
    content = {"key": key.as_dict(), "files": {path.name: _sha(path) for path in files}, "seconds": round(seconds, 2)}
    beside = note_path(file).with_suffix(".json.new")
    beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    beside.replace(note_path(file))


def read_entry(file: Path) -> Entry:
    """Raises ModelError where the note is missing, unreadable or of another kind."""
    try:
        content = json.loads(note_path(file).read_text(encoding="utf-8"))
        return Entry(file, EngineKey.from_dict(content["key"]), dict(content["files"]), float(content["seconds"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"The engine {file.name} has no readable key beside it ({error}).") from error


def why_stale(file: Path, key: EngineKey | None = None, *, hashes: bool = True) -> str | None:
    """Why the engine cannot be used, or None. key: what is asked for; default: its own with today's version."""
    if not file.is_file():
        return "it is not built yet"
    try:
        entry = read_entry(file)
    except ModelError as error:
        return str(error)
    if key is None:
        try:
            now = version_of(entry.key.runtime)
        except FlowguideError as error:
            return str(error)
        key = EngineKey.from_dict({**entry.key.as_dict(), "runtime_version": now})
    other = entry.key.differences(key)
    if other:
        return "; ".join(other)
    for path in entry.paths():
        if not path.is_file():
            return f"{path.name} is missing"
        if hashes and _sha(path) != entry.files[path.name]:
            return f"{path.name} is damaged: its hash is not the one that was written down"
    return None


def engines() -> list[Path]:
    """Every engine file in the folder."""
    suffixes = {kind.engine for kind in RUNTIMES.values() if kind.engine}
    return sorted(path for path in folder().glob("*") if path.suffix in suffixes)


def covering(key: EngineKey) -> Path | None:
    """A fresh engine for a range of sizes in which those of `key` lie."""
    for file in engines():
        if not file.name.startswith(f"{key.network}-"):
            continue
        try:
            found = read_entry(file).key
        except ModelError:
            continue
        if found.covers(key) and why_stale(file) is None:
            return file
    return None


def prune(*, everything: bool = False) -> tuple[list[str], int]:
    """Delete engines that are stale, or all; what was deleted and the room that it took in bytes."""
    gone, size = [], 0
    for file in engines():
        if not everything and why_stale(file) is None:
            continue
        with locked(file):
            parts = {file, note_path(file), *folder().glob(f"{file.name}.data")}
            size += sum(path.stat().st_size for path in parts if path.is_file())
            for path in parts:
                path.unlink(missing_ok=True)
        file.with_suffix(".lock").unlink(missing_ok=True)
        gone.append(file.name)
    return gone, size


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Only one process builds or deletes `file` at a time; a second one says so and waits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.warning("Another process builds %s; waiting for it.", file.name)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_room(needed_bytes: int) -> None:
    """Raises ModelError where the disk has not that much left."""
    folder().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder()).free
    if free < needed_bytes:
        raise ModelError(
            f"Building needs {needed_bytes / 2**20:.0f} MiB in {folder()} and {free / 2**20:.0f} MiB are free. "
            "Run 'flowguide engines prune', or set FLOWGUIDE_HOME to another disk."
        )


def _sha(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
