"""A settings file to begin with: what was found in the clip, and every option with what it does."""

from __future__ import annotations

from pathlib import Path

import tomli_w

from ..config import RenderConfig
from ..errors import UsageError
from ..flow.shots import find_shots
from ..types import ClipInfo
from ..video import ClipReader
from .durable import write_text


def write_settings(source: str | Path, path: Path) -> None:
    """Write a commented TOML file for `source`. Raises UsageError where `path` is there already."""
    if path.exists():
        raise UsageError(f"{path} is there already; choose another name, or remove it.")
    if not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written: the folder {path.parent} does not exist; make it first.")
    with ClipReader(source) as reader:
        shots = list(find_shots(reader))
        info = reader.info
    text = "\n".join([*_found(info, [shot.first for shot in shots], shots[-1].end), "", "[render]", *_options()]) + "\n"
    write_text(path, text)


def _found(info: ClipInfo, shots: list[int], frames: int) -> list[str]:
    """What is known of the clip, as comments."""
    height, width = info.size
    rate = f"{float(info.frame_rate):.3f} frames per second" if info.frame_rate else "an unknown frame rate"
    lines = [
        f"Settings for {Path(info.path).name}: flowguide render {Path(info.path).name} OUTPUT --config THIS_FILE",
        "",
        f"{width}x{height}, {frames} frames at {rate}, {info.codec}, {info.bits} bit, {info.matrix}",
        f"sound: {info.audio_codec or 'none'}",
        f"{len(shots)} shot(s), beginning at frames {', '.join(map(str, shots[:40]))}{' …' if len(shots) > 40 else ''}",
    ]
    if info.transfer != "sdr":
        lines.append(f"high dynamic range ({info.transfer.upper()}), mapped to BT.709")
    if info.interlaced:
        lines.append("interlaced; fields are made whole")
    if info.rotation_degrees:
        lines.append(f"turned by {info.rotation_degrees} degrees")
    return [f"# {line}".rstrip() for line in lines]


def _options() -> list[str]:
    """Every option at its default: the prompt set, the others commented out."""
    lines = []
    for name, field in RenderConfig.model_fields.items():
        lines += ["", f"# {field.description}"]
        value = list(field.default) if isinstance(field.default, tuple) else field.default
        written = f"{name} = " if value is None else tomli_w.dumps({name: value}).strip()
        lines.append(written if name == "prompt" else f"# {written}".rstrip())
    return lines
