"""Files that hold all of what was written or what they held before, also after a power cut."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import FlowguideError


def write_durably(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file under a temporary name beside `path`, put it on the disk, and give it its name."""
    part = path.with_name(f".{path.name}.part")
    try:
        write(part)
        publish(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise FlowguideError(
            f"{path} cannot be written ({error.strerror or error}); make room or choose another place, then resume."
        ) from error


def publish(complete: Path, path: Path) -> None:
    """Rename what is complete to `path`: its bytes first, then its name, each on the disk before the next."""
    with complete.open("rb") as stream:
        os.fsync(stream.fileno())
    complete.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in `folder` on the disk."""
    if os.name == "nt":  # There a folder cannot be opened, and renaming is journalled by the file system.
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` durably."""

    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8")

    write_durably(path, write)


def write_json(path: Path, content: Any) -> None:
    """Write `content` durably as JSON."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises FlowguideError where it is absent, damaged or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FlowguideError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:
        raise FlowguideError(f"{path} is damaged ({error}); it should hold a JSON object.") from error
    if not isinstance(content, dict):
        raise FlowguideError(f"{path} is damaged; it should hold a JSON object, got {type(content).__name__}.")
    return content
