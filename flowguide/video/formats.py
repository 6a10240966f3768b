"""The table of output formats: one line for each container, one for each codec."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from flowguide.errors import UnknownName, UsageError

from .colour import bits_of


@dataclass(frozen=True)
class Codec:
    """How pictures are encoded. The options are FFmpeg's; threads are fixed, so that the result does not depend on
    the machine."""

    encoder: str
    pixel_format: str
    options: Mapping[str, str] = field(default_factory=dict)
    threads: int = 4
    even_sides: bool = True
    """Whether width and height must be even: then an odd picture is padded by repeating its last row or column."""
    mp4_tag: str = ""
    """The name of the codec in MP4 and MOV, where players want another than FFmpeg's choice."""
    alpha_format: str = ""
    """The pixel format that holds opacity too, where the codec has one."""

    @property
    def deep(self) -> bool:
        """Whether pictures are to be given in 16 bits, because more than 8 of them are kept."""
        return bits_of(self.pixel_format) > 8

    def with_alpha(self) -> Codec:
        """The same with opacity. For codecs with an `alpha_format`."""
        return replace(self, pixel_format=self.alpha_format)

    def stored_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the pictures in the file for pictures of `size`."""
        height, width = size
        return (height + height % 2, width + width % 2) if self.even_sides else size


@dataclass(frozen=True)
class Container:
    """A kind of file: which codecs it takes, which sound is copied as it is, and what other sound becomes."""

    format: str
    codecs: tuple[str, ...]
    """Names in CODECS; the first is the default."""
    copied_sound: frozenset[str]
    sound_encoder: str | None
    """FFmpeg's name, or None where the file holds no sound."""
    copied_subtitles: frozenset[str] = frozenset()
    options: Mapping[str, str] = field(default_factory=dict)
    exact_times: bool = False
    """Whether any time base is kept, and times below 0 by an edit list."""
    units_per_second: int = 1000
    """In what times are kept where they are not exact."""


PICTURES = "pictures"
"""The format of a Container that is numbered files."""
NUMBERED = re.compile(r"%0?\d*d")
"""Where the number stands in the name of numbered pictures."""

_FFV1 = {"level": "3", "slices": "4", "slicecrc": "1"}
CODECS: Mapping[str, Codec] = {
    "h264": Codec("libx264", "yuv420p", {"crf": "18", "preset": "medium"}),
    "hevc": Codec(
        "libx265",
        "yuv420p",
        {"crf": "20", "preset": "medium", "x265-params": "log-level=error:pools=4:frame-threads=2"},
        mp4_tag="hvc1",
    ),
    "av1": Codec("libsvtav1", "yuv420p10le", {"crf": "28", "preset": "8"}),
    "vp9": Codec(
        "libvpx-vp9",
        "yuv420p",
        {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
        even_sides=False,
        alpha_format="yuva420p",
    ),
    "prores": Codec("prores_ks", "yuv422p10le", {"profile": "hq", "vendor": "apl0"}),
    "prores4444": Codec("prores_ks", "yuv444p10le", {"profile": "4444", "vendor": "apl0"}, alpha_format="yuva444p10le"),
    "ffv1": Codec("ffv1", "bgr0", _FFV1, even_sides=False, alpha_format="bgra"),
    "ffv1-16": Codec("ffv1", "gbrp16le", _FFV1, even_sides=False, alpha_format="gbrap16le"),
    "webp": Codec("libwebp_anim", "bgra", {"quality": "85", "loop": "0"}, even_sides=False, alpha_format="bgra"),
    "gif": Codec("gif", "pal8", even_sides=False),
    "png": Codec("png", "rgb24", even_sides=False, alpha_format="rgba"),
    "png16": Codec("png", "rgb48be", even_sides=False, alpha_format="rgba64be"),
    "exr": Codec(
        "exr", "gbrpf32le", {"format": "half", "compression": "zip16"}, even_sides=False, alpha_format="gbrapf32le"
    ),
}

_MP4_SOUND = frozenset({"aac", "mp3", "ac3", "eac3", "alac"})
_MATROSKA_SOUND = _MP4_SOUND | {"opus", "vorbis", "flac", "mp2", "dts", "pcm_s16le", "pcm_s24le"}
_WEBM_SOUND = frozenset({"opus", "vorbis"})
_NO_SOUND: frozenset[str] = frozenset()
_MP4_TEXT = frozenset({"mov_text"})
_FASTSTART = {"movflags": "+faststart"}

CONTAINERS: Mapping[str, Container] = {
    ".mp4": Container("mp4", ("h264", "hevc", "av1"), _MP4_SOUND, "aac", _MP4_TEXT, _FASTSTART, exact_times=True),
    ".mov": Container(
        "mov",
        ("h264", "hevc", "prores", "prores4444"),
        _MP4_SOUND | {"pcm_s16le", "pcm_s24le"},
        "aac",
        _MP4_TEXT,
        _FASTSTART,
        exact_times=True,
    ),
    ".mkv": Container(
        "matroska",
        ("h264", "hevc", "av1", "vp9", "prores", "prores4444", "ffv1", "ffv1-16"),
        _MATROSKA_SOUND,
        "aac",
        frozenset({"srt", "subrip", "ass", "webvtt"}),
    ),
    ".webm": Container("webm", ("vp9", "av1"), _WEBM_SOUND, "libopus", frozenset({"webvtt"})),
    ".webp": Container("webp", ("webp",), _NO_SOUND, None, options={"loop": "0"}),
    ".gif": Container("gif", ("gif",), _NO_SOUND, None, units_per_second=100),
    ".png": Container(PICTURES, ("png", "png16"), _NO_SOUND, None, exact_times=True),
    ".exr": Container(PICTURES, ("exr",), _NO_SOUND, None, exact_times=True),
}


def container_for(path: str | os.PathLike[str]) -> Container:
    """The container that the suffix of `path` names. Raises UnknownName with the list."""
    suffix = Path(path).suffix.lower()
    if suffix not in CONTAINERS:
        raise UnknownName("video suffix", suffix or os.fspath(path), CONTAINERS)
    return CONTAINERS[suffix]


def suffix_for(codec: str | None) -> str:
    """The first suffix whose container takes the codec called `codec`. Raises UnknownName with the list."""
    if codec is not None and codec not in CODECS:
        raise UnknownName("video codec", codec, CODECS)
    return next(suffix for suffix, kind in CONTAINERS.items() if codec is None or codec in kind.codecs)


def codec_for(path: str | os.PathLike[str], name: str | None = None) -> Codec:
    """The codec called `name`, or the default for the suffix of `path`. Raises UnknownName with the list, UsageError
    where the container does not take it."""
    container = container_for(path)
    if name is None:
        return CODECS[container.codecs[0]]
    if name not in CODECS:
        raise UnknownName("video codec", name, CODECS)
    if name not in container.codecs:
        takes = ", ".join(container.codecs)
        raise UsageError(f"{Path(path).suffix} files do not take the codec {name!r}; they take {takes}.")
    return CODECS[name]
