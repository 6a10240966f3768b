"""Output presets: small files that name a codec and its options, bundled ones in `assets/outputs`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from flowguide.errors import UnknownName, UsageError

from .formats import Codec, codec_for

BUNDLED = Path(__file__).parents[1] / "assets" / "outputs"


def preset_names() -> dict[str, Path]:
    """Name -> file of the bundled presets."""
    return {path.stem: path for path in sorted(BUNDLED.glob("*.toml"))}


def preset_codec(output: Path, preset: str) -> Codec:
    """The codec for `output` that a preset asks for: a bundled one by name, or the path of a .toml file.

    The file says `codec` and, under [options], options of FFmpeg's encoder that go over the codec's own. Raises
    UnknownName and UsageError, each a sentence.
    """
    name, options = read_preset(preset)
    codec = codec_for(output, name)
    return replace(codec, options={**codec.options, **options})


def read_preset(preset: str) -> tuple[str, Mapping[str, str]]:
    """The codec's name and the options in a preset."""
    path = Path(preset).expanduser() if preset.endswith(".toml") else preset_names().get(preset)
    if path is None:
        raise UnknownName("output preset", preset, preset_names())
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"The output preset {path} cannot be read: {error}") from error
    unknown = sorted(content.keys() - {"description", "codec", "options"})
    name, options = content.get("codec"), content.get("options", {})
    if unknown or not isinstance(name, str) or not isinstance(options, dict):
        raise UsageError(f"{path} should say codec = NAME, a description and a table [options], and nothing else.")
    return name, {key: str(value) for key, value in options.items()}
