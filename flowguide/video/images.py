"""Pictures as clips: folders, globs and numbered files in natural order, and animated GIF and WebP."""

from __future__ import annotations

import glob
import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image, ImageOps, ImageSequence

from flowguide.errors import VideoError
from flowguide.types import ClipInfo

from .colour import has_alpha
from .filters import Timed
from .formats import NUMBERED
from .light import srgb_codes
from .orientation import UPRIGHT
from .source import log

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".exr"})
ANIMATED_SUFFIXES = frozenset({".gif", ".webp", ".apng"})
DEFAULT_RATE = Fraction(24)
"""Frames per second of numbered pictures, which do not say it themselves."""
MOST_PIXELS = 89_478_485
"""Larger pictures are taken for damaged ones, as Pillow does."""
SHORTEST_MS, USUAL_MS = 20, 100
"""A shorter delay in an animation is shown as the usual one, as browsers do."""
_UNREADABLE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    Image.DecompressionBombError,
    StopIteration,
    av.error.FFmpegError,
)
"""What Pillow and FFmpeg raise for a damaged picture."""


class PictureSource(ABC):
    """Pictures read like an opened video (see `Source`)."""

    orientation = UPRIGHT

    def __init__(self, path: str, time_base: Fraction, rate: Fraction | None, count: int, *, alpha: bool) -> None:
        """alpha: leave transparent pictures as they are, instead of laying them over black."""
        self.path, self._alpha = path, alpha
        self.losses: list[str] = []
        first = next(self.stills(), None)
        if first is None:
            raise VideoError(f"{path} holds no picture that can be read; check the files.")
        self.stored_size = first[1].height, first[1].width
        self.info = ClipInfo(
            path=path,
            size=self.stored_size,
            time_base=time_base,
            frame_rate=rate,
            frames=count,
            start_pts=first[0],
            duration_seconds=float(count / rate) if rate else None,
            codec=Path(path).suffix.lower().lstrip(".") or "pictures",
            pixel_format="rgb24",
            bits=8,
            matrix="bt709",
            full_range=True,
            rotation_degrees=0,
            audio_codec=None,
            alpha=has_alpha(first[1].format.name),
        )

    @abstractmethod
    def stills(self) -> Iterator[Timed]:
        """(pts, picture in RGB), from the first on, those that cannot be read left out and noted in `losses`."""

    def pictures_from(self, pts: int) -> Iterator[Timed]:
        """The pictures at or after `pts`."""
        self.losses.clear()
        for time, picture in self.stills():
            if time >= pts:
                yield time, picture

    def close(self) -> None:  # noqa: B027
        """Nothing stays open."""

    def _lose(self, what: str, error: Exception) -> None:
        self.losses.append(f"{what} could not be read ({error})")
        log.warning("%s: %s.", self.path, self.losses[-1])


class Folder(PictureSource):
    """One picture from each file."""

    def __init__(self, path: str, files: Sequence[Path], rate: Fraction, *, alpha: bool) -> None:
        self._files = files
        super().__init__(path, 1 / rate, rate, len(files), alpha=alpha)

    def stills(self) -> Iterator[Timed]:
        for index, file in enumerate(self._files):
            try:
                picture = self._read(file)
            except FileNotFoundError as error:
                raise VideoError(f"{file} is no longer there; put it back.") from error
            except _UNREADABLE as error:
                self._lose(file.name, error)
                continue
            yield index, picture

    def _read(self, file: Path) -> VideoFrame:
        if file.suffix.lower() == ".exr":
            return read_exr(file, alpha=self._alpha)
        with Image.open(file) as picture:
            return _as_frame(ImageOps.exif_transpose(picture), alpha=self._alpha)


class Animation(PictureSource):
    """The pictures of one file with their delays, in milliseconds."""

    def __init__(self, path: str, *, alpha: bool) -> None:
        with Image.open(path) as picture:
            count = getattr(picture, "n_frames", 1)
            first = _delay(picture)
        super().__init__(path, Fraction(1, 1000), Fraction(1000, first), count, alpha=alpha)

    def stills(self) -> Iterator[Timed]:
        time = 0
        try:
            with Image.open(self.path) as animation:
                for picture in ImageSequence.Iterator(animation):
                    still = _as_frame(picture, alpha=self._alpha)
                    yield time, still
                    time += _delay(picture)
        except _UNREADABLE as error:
            self._lose(f"what comes after {time / 1000:.2f} s", error)


def open_pictures(path: str, rate: Fraction | None, *, alpha: bool = False) -> PictureSource | None:
    """The clip that `path` means as pictures, or None where it names no folder, glob, numbered files or animation.

    rate: frames per second of pictures in files, 24 where None. alpha: keep their opacity; else transparent parts are
    black. Raises VideoError where there is no picture.
    """
    where = Path(path)
    if where.is_file():
        return _animation(path, alpha) if where.suffix.lower() in ANIMATED_SUFFIXES else None
    files = picture_files(where)
    if files is None:
        return None
    if not files:
        known = ", ".join(sorted(PICTURE_SUFFIXES))
        raise VideoError(f"{path} holds no picture ({known}); name a video file or a folder of pictures.")
    if rate is None:
        log.warning("%s: %d pictures, taken as %s frames per second.", path, len(files), DEFAULT_RATE)
    return Folder(path, files, rate or DEFAULT_RATE, alpha=alpha)


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sorting key that puts 'frame 10' after 'frame 9'."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


def _animation(path: str, alpha: bool) -> Animation:
    try:
        return Animation(path, alpha=alpha)
    except _UNREADABLE as error:
        raise VideoError(f"{path} cannot be read as a picture; check that the file is whole.") from error


def picture_files(where: Path) -> list[Path] | None:
    """The pictures that a folder, a glob or a numbered name means, in natural order; None where it is none of them."""
    if where.is_dir():
        found = [file for file in where.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES]
    elif NUMBERED.search(where.name):
        pattern = re.compile(NUMBERED.sub(r"\\d+", re.escape(where.name)))
        found = [file for file in where.parent.glob("*") if pattern.fullmatch(file.name)]
    elif glob.has_magic(str(where)):
        found = [Path(file) for file in glob.glob(str(where))]
    else:
        return None
    return sorted(found, key=lambda file: natural(file.name))


def _as_frame(picture: Image.Image, *, alpha: bool) -> VideoFrame:
    """In RGB, transparent parts black; or as it is in RGBA where it has opacity and `alpha` asks for it."""
    picture.load()
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return VideoFrame.from_ndarray(np.asarray(picture.convert("RGB")), "rgb24")
    clear = picture.convert("RGBA")
    if alpha:
        return VideoFrame.from_ndarray(np.asarray(clear), "rgba")
    ground = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    return VideoFrame.from_ndarray(np.asarray(Image.alpha_composite(ground, clear).convert("RGB")), "rgb24")


def read_exr(file: Path, *, alpha: bool) -> VideoFrame:
    """An EXR file's light as 16-bit codes by the curve of sRGB, light above 1 clipped."""
    file.stat()
    with av.open(f"file:{file}") as container:
        stated = container.streams.video[0].codec_context
        if stated.width * stated.height > MOST_PIXELS:
            raise ValueError(f"{stated.width}x{stated.height} is more than {MOST_PIXELS} pixels")
        picture = next(container.decode(video=0))
    name = picture.format.name
    if not re.fullmatch(r"gbra?pf(16|32)le", name):
        raise ValueError(f"pixels are {name}; RGB in half or full floats can be read")
    kind = np.dtype(np.float16 if "f16" in name else np.float32)
    channels = [
        np.frombuffer(memoryview(plane), kind).reshape(-1, plane.line_size // kind.itemsize)[:, : picture.width]
        for plane in picture.planes
    ]
    green, blue, red = (srgb_codes(channel[: picture.height]) for channel in channels[:3])
    if alpha and len(channels) > 3:
        clear = np.clip(np.nan_to_num(channels[3][: picture.height].astype(np.float32)), 0, 1)
        opacity = np.round(clear * 65535).astype(np.uint16)
        return VideoFrame.from_ndarray(np.stack([red, green, blue, opacity], -1), "rgba64le")
    return VideoFrame.from_ndarray(np.stack([red, green, blue], -1), "rgb48le")


def _delay(picture: Image.Image) -> int:
    """Milliseconds for which a picture of an animation is shown; what browsers do with a delay too short."""
    stated = round(picture.info.get("duration", 0))
    return stated if stated >= SHORTEST_MS else USUAL_MS
