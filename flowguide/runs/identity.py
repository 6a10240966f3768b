"""What a run is: input, settings, model, versions, machine. Enough to run it again and to tell it from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .. import __version__, ops
from ..config import RenderConfig, SteadyConfig
from ..errors import UsageError
from ..machine import machine_line
from ..video.images import picture_files

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "av", "opencv-python-headless", "triton")

SAME = (
    "source.sha256", "stylised.sha256", "alignment.offset", "alignment.by", "settings", "files", "model",
    "segment_frames", "encoder",
)  # fmt: skip
"""What must not change within a run. Other differences are only told: frames may then differ in their last bits."""
TOLD = ("flowguide", "flow", "operations", "packages", "machine")


def identity(
    clips: Mapping[str, str | Path],
    config: RenderConfig | SteadyConfig,
    *,
    segment_frames: int,
    flow: str,
    device: torch.device,
    **more: Any,
) -> dict[str, Any]:
    """All of it, as JSON has it.

    clips: the inputs by what they are to the run: 'source', and 'stylised' where that is only steadied. flow: name of
    the estimator. device: what computes. more: what else there is to the kind of run, such as its model.
    """
    found = {
        "flowguide": __version__,
        **{part: {"name": Path(clip).name, "sha256": source_digest(clip)} for part, clip in clips.items()},
        "settings": config.model_dump(),
        "files": {name: file_digest(path) for name, path in sorted(named_files(config).items())},
        **more,
        "segment_frames": segment_frames,
        "flow": flow,
        "operations": {name: ops.resolve(name, device) for name in ops.OPERATIONS},
        "machine": machine_line(),
        "packages": package_versions(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def is_steadied(known: Mapping[str, Any]) -> bool:
    """Whether a run or a manifest is one of `flowguide steady`, not of `flowguide render`."""
    return "stylised" in known


def differences(before: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Where two identities differ in the parts `names`: 'settings.strength: 0.5 before, 0.6 now'."""
    return [
        f"{place}: {_short(old)} before, {_short(new)} now"
        for name in names
        for place, old, new in _unequal(name, _part(before, name), _part(now, name))
    ]


def _part(tree: Mapping[str, Any], name: str) -> Any:
    found: Any = tree
    for key in name.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _unequal(place: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _unequal(f"{place}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield place, old, new


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:24]}…{text[-12:]}"


def package_versions() -> dict[str, str | None]:
    """Installed versions of the packages that a result depends on; None where absent."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def named_files(config: RenderConfig | SteadyConfig) -> dict[str, Path]:
    """The files that options name, apart from the model: option -> file, where it exists."""
    names = ("flow_weight", "shots", "vae", "lora", "embedding", "control", "depth_model", "ip_adapter", "ip_image",
             "mask", "keep")  # fmt: skip
    found = {}
    for name in names:
        value = getattr(config, name, None)
        for number, text in enumerate(value if isinstance(value, tuple) else (value,)):
            file = _named(text) if text else None
            if file is not None:
                found[f"{name}.{number}" if isinstance(value, tuple) else name] = file
    return found


def _named(text: str) -> Path | None:
    """The file in FILE, FILE@SCALE or FILE.py:FUNCTION."""
    forms = (text, text.rpartition("@")[0], text.rpartition(":")[0])
    return next((Path(form).expanduser() for form in forms if form and Path(form).expanduser().is_file()), None)


def source_digest(source: str | Path) -> str | None:
    """SHA-256 of the clip's bytes, of all pictures and their names where it is pictures, None for a pipe."""
    if Path(source).is_file():
        return file_digest(Path(source))
    pictures = picture_files(Path(source))
    if not pictures:
        return None
    total = hashlib.sha256()
    for path in sorted(pictures):
        total.update(f"{path.name} {file_digest(path)}\n".encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises UsageError where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}).") from error
