"""What a run was: settings, model, versions, machine, implementations. Enough to run it again."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__, ops
from ..machine import machine_line
from ..renderer import Renderer

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "av", "opencv-python-headless", "triton")


def manifest_path(output: Path) -> Path:
    """`painted.mp4` -> `painted.mp4.json`."""
    return output.with_name(output.name + ".json")


def package_versions() -> dict[str, str | None]:
    """Installed versions of the packages that a result depends on; None where absent."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def write_manifest(output: Path, *, source: Path, renderer: Renderer, frames: int, seconds: float) -> Path:
    """Write the manifest beside `output` in one piece and return its path."""
    content: dict[str, Any] = {
        "flowguide": __version__,
        "source": {"name": source.name, "sha256": file_digest(source)},
        "output": output.name,
        "settings": renderer.config.model_dump(),
        "model": {
            "name": renderer.config.model,
            "sha256": renderer.checkpoint.digest(),
            "device": str(renderer.checkpoint.device),
            "dtype": str(renderer.checkpoint.dtype).removeprefix("torch."),
        },
        "flow": renderer.flow_name,
        "operations": {name: ops.resolve(name, renderer.checkpoint.device) for name in ops.OPERATIONS},
        "frames": frames,
        "seconds": round(seconds, 3),
        "stage_seconds": {name: round(total, 3) for name, total in sorted(renderer.clock.seconds.items())},
        "machine": machine_line(),
        "packages": package_versions(),
    }
    path = manifest_path(output)
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file's bytes, or None where it is not a plain file (a pipe, a pattern of pictures)."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write `text` so that `path` holds all of it or what it held before."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
