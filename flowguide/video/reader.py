"""Reading a clip frame by frame: RGB, upright, with exact times, in constant memory."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Generator, Iterator
from dataclasses import replace
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from flowguide.errors import UsageError
from flowguide.types import ClipInfo, Frame

from .choice import at_rate, units_of
from .colour import ToRgb
from .images import PictureSource, open_pictures
from .sizes import fit_size
from .source import Source, log

if TYPE_CHECKING:
    from .nvidia import Nvdec

AnyTimed = tuple[int, Any]
"""pts and a picture, of PyAV's or in a card's memory."""
CPU = torch.device("cpu")


class ClipReader:
    """Iterates over the frames of a clip, once; a context manager.

    Frames are uint8 RGB [3, H, W] as displayed: turned and mirrored by the display matrix, pixels square, colours
    converted by the tagged matrix and range (untagged: BT.709 from 720 lines up, else BT.601; limited range). `pts`
    is the stream's own integer, `index` counts the frames given out.

    path: a video file, an animated GIF or WebP, or pictures: a folder, a glob ("shots/*.png") or a numbered name
        ("shot_%06d.png"), taken in natural order; "-" is standard input, whose sound is lost.
    size: what `fit_size` understands; pictures are averaged when made smaller, bicubic when made larger.
    start_seconds, end_seconds: the part [start, end) of the clip, counted from its first frame. With a start, the
        first frame given out becomes pts 0, and sound taken from this reader moves with it.
    max_frames: stop after so many frames.
    every: give out each n-th frame only; times stay.
    frame_rate: give out frames at this rate, left out or repeated as `choice.at_rate` does; `every` counts them.
    video_stream, audio_stream: which stream, from 0, where there are several; without one the first video stream,
        and all sound.
    alpha: give out the opacity of frames that have it. deep: give out uint16 instead of uint8.
    decoder, device: what decodes, see `nvidia.nvdec_for`; frames of "nvdec" lie on `device`.
    pictures_per_second: of pictures in files, which do not say it; 24 where it is not given.

    Raises VideoError for what cannot be read, UsageError for a range or size that cannot be given. Damage inside the
    file raises nothing: what decodes is given out and `losses` says what was lost.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size: str | int | tuple[int, int] | None = None,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        max_frames: int | None = None,
        every: int = 1,
        frame_rate: Fraction | None = None,
        video_stream: int | None = None,
        audio_stream: int | None = None,
        pictures_per_second: Fraction | None = None,
        alpha: bool = False,
        deep: bool = False,
        decoder: str = "cpu",
        device: torch.device = CPU,
    ) -> None:
        _check_selection(start_seconds, end_seconds, max_frames, every)
        pictures = open_pictures(os.fspath(path), pictures_per_second, alpha=alpha)
        self._source = pictures or Source(path, stream=video_stream)
        self.audio_stream = audio_stream
        try:
            clip = self._source.info
            self._size = fit_size(clip.size, size)
            self._every, self._frame_rate = every, frame_rate
            self._max_frames = max_frames
            self._alpha, self._deep = alpha and clip.alpha, deep
            self._first_pts = clip.start_pts or 0
            self._end_pts = None if end_seconds is None else self._pts_at(end_seconds)
            self._rebased = start_seconds is not None
            self._nvdec = _nvdec(decoder, self._source, device, plain=not (self._alpha or deep))
            self._open_at(start_seconds or 0.0)
        except BaseException:
            self._source.close()
            raise
        rate = frame_rate or clip.frame_rate
        self.info = replace(
            clip,
            size=self._size,
            frame_rate=rate / every if rate else None,
            time_base=units_of(clip.time_base, frame_rate) if frame_rate else clip.time_base,
        )
        self._frames = self._read()

    info: ClipInfo
    """The clip as this reader gives it out: size and frame rate are of the frames, the rest is of the file."""

    @property
    def losses(self) -> list[str]:
        """What could not be decoded so far, a phrase each: 'stopped after 37 of about 120 frames (…)'."""
        return self._source.losses

    @property
    def start(self) -> Fraction:
        """Seconds in the file's own time of what is 0 in the times given out: 0 unless a start was asked for."""
        return self._origin * self._source.info.time_base

    @property
    def is_part(self) -> bool:
        """Whether only a part of the clip, cut at its end, was asked for."""
        return self._end_pts is not None or self._max_frames is not None

    def __iter__(self) -> Iterator[Frame]:
        return self._frames

    def __next__(self) -> Frame:
        return next(self._frames)

    def close(self) -> None:
        """Close the file. Iteration ends."""
        self._frames.close()
        self._source.close()

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _pts_at(self, seconds: float) -> int:
        """The first pts at or after `seconds` from the first frame; a rounding error short of a frame is that frame."""
        exact = Fraction(seconds).limit_denominator(1_000_000) / self._source.info.time_base
        return self._first_pts + -((-exact.numerator) // exact.denominator)

    def _open_at(self, start_seconds: float) -> None:
        decoded = self._nvdec or self._source
        self._pictures: Iterator[AnyTimed] = decoded.pictures_from(self._pts_at(start_seconds))
        first = next(self._pictures, None)
        if first is None or self._is_past(first[0]):
            last = self._source.info.duration_seconds
            length = f"it is {last:.2f} s long" if last else "its length is not known"
            raise UsageError(f"{self._source.path} has no frame in the part asked for; {length}.")
        self._pictures = itertools.chain([first], self._pictures)
        self._origin = first[0] if self._rebased else 0

    def _read(self) -> Generator[Frame, None, None]:
        to_rgb: Any = (
            ToRgb(self._size, self._source.orientation, deep=self._deep, alpha=self._alpha)
            if self._nvdec is None
            else self._nvdec.to_rgb(self._size)
        )
        stored_size = self._source.stored_size
        pictures: Iterator[AnyTimed] = itertools.takewhile(lambda found: not self._is_past(found[0]), self._pictures)
        origin = self._origin
        if self._frame_rate:
            pictures = at_rate(pictures, self._source.info.time_base, self._frame_rate)
            origin = round(self.start / self.info.time_base)
        for index, (pts, picture) in enumerate(itertools.islice(pictures, 0, None, self._every)):
            if (picture.height, picture.width) != stored_size:
                stored_size = picture.height, picture.width
                log.warning(
                    "%s: the picture size changes to %dx%d at frame %d; resized to the first frame's.",
                    self.info.path, picture.width, picture.height, index,
                )  # fmt: skip
            rgb, opacity = to_rgb(picture)
            yield Frame(rgb, index, pts - origin, self.info.time_base, opacity)
            if index + 1 == self._max_frames:
                return

    def _is_past(self, pts: int) -> bool:
        return self._end_pts is not None and pts >= self._end_pts


def _nvdec(decoder: str, source: PictureSource | Source, device: torch.device, *, plain: bool) -> Nvdec | None:
    if decoder == "cpu":
        return None
    from .nvidia import nvdec_for

    return nvdec_for(decoder, source, device, plain=plain)


def _check_selection(start: float | None, end: float | None, max_frames: int | None, every: int) -> None:
    for name, seconds in (("start", start), ("end", end)):
        if seconds is not None and not math.isfinite(seconds):
            raise UsageError(f"The {name} of the part should be a number of seconds, got {seconds}.")
    if start is not None and start < 0:
        raise UsageError(f"A start is counted in seconds from the first frame and not negative, got {start}.")
    if end is not None and end <= (start or 0.0):
        raise UsageError(f"The end of the part should lie after its start, got {start or 0} to {end} seconds.")
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"The number of frames to read is at least 1, got {max_frames}.")
    if every < 1:
        raise UsageError(f"'every' is 1 for each frame, 2 for each second frame and so on, got {every}.")


def probe(
    path: str | os.PathLike[str], *, video_stream: int | None = None, pictures_per_second: Fraction | None = None
) -> ClipInfo:
    """What is known of the clip at `path`, its first frame decoded to be sure.

    Takes what ClipReader takes. Raises VideoError, in one sentence, for a missing file, no video, sound only, or no
    frame that decodes.
    """
    source = open_pictures(os.fspath(path), pictures_per_second) or Source(path, stream=video_stream)
    source.close()
    return source.info
