"""Writing a clip frame by frame, with exact times; nothing appears under the final name until it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType

from flowguide.errors import UsageError, VideoError
from flowguide.types import Frame

from .encoders import Encoder, GifEncoder, StreamEncoder, TakesSound
from .formats import NUMBERED, PICTURES, Codec, codec_for, container_for
from .picture_encoder import PictureEncoder
from .reader import ClipReader
from .source import STDIN, log

ASSUMED_RATE = Fraction(25)
"""For the encoder's bit rate control only, where a clip does not say its frame rate; times are exact regardless."""


class ClipWriter:
    """Writes frames to a video file, a GIF or numbered pictures; a context manager.

    Leaving the block normally flushes, completes the sound, closes, and renames what was written beside `path` to
    `path`; leaving it by an exception removes it. Colours are converted with, and tagged as, BT.709 in limited range.
    Times are those of the frames, integer and exact in MP4 and MOV; Matroska, WebM and WebP keep milliseconds and GIF
    hundredths of a second, so there each is rounded by itself. A clip whose times begin below 0 is moved to 0, sound
    with it, and this is logged.

    path: its suffix names the container, see `formats.CONTAINERS`; pictures are numbered by their name,
        "shot_%06d.png".
    size: (height, width) of the frames. Codecs of 4:2:0 colour need even sides: an odd picture gets its last row or
        column repeated once (H.264 with full colour would keep 161x121, but phones and browsers do not play it);
        VP9, FFV1, WebP, GIF and PNG keep the size.
    time_base: seconds per unit of pts, of every frame written.
    frame_rate: average frames per second, for the encoder's rate control and the container's header.
    audio_from: where to take sound from: a file, or the ClipReader that the frames come from; then a chosen part of
        the clip takes its own part of the sound.
    codec: a name in `formats.CODECS`, a Codec, or None for the container's default.
    metadata: container tags, such as {"comment": "…"}.

    Raises UnknownName or UsageError for a suffix, codec, size or output that cannot be, VideoError where the file
    cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size: tuple[int, int],
        time_base: Fraction,
        frame_rate: Fraction | None,
        audio_from: ClipReader | str | os.PathLike[str] | None = None,
        codec: str | Codec | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path = os.fspath(path)
        check_output(path, () if audio_from is None else (_path_of(audio_from),))
        self._kind = container_for(path)
        self._size = size
        self._time_base = time_base
        self._audio_from = audio_from
        self._last_pts: int | None = None
        self._shift = 0
        self._open = True
        self.frames_written = 0
        self._chosen = chosen = codec if isinstance(codec, Codec) else codec_for(path, codec)
        if self._kind.format == "gif":
            self._encoder: Encoder = GifEncoder(Path(path), size=size, time_base=time_base)
        elif self._kind.format == PICTURES:
            self._encoder = PictureEncoder(Path(path), chosen, size)
        else:
            self._encoder = StreamEncoder(
                Path(path),
                self._kind,
                chosen,
                size=size,
                time_base=time_base,
                frame_rate=frame_rate or ASSUMED_RATE,
                metadata=metadata or {},
            )

    def write(self, frame: Frame) -> None:
        """Encode `frame`. Its size and time base are those of the writer and its pts is above the last one's."""
        self._check(frame)
        if self._last_pts is None:
            self._begin(frame.pts)
        self._last_pts = frame.pts
        self._encoder.write(frame.rgb, frame.pts - self._shift, frame.alpha)
        self.frames_written += 1

    def close(self) -> None:
        """Flush, complete the sound, and give the file its final name. A second call does nothing."""
        if not self._open:
            return
        try:
            if self._last_pts is None:
                raise VideoError(f"{self.path} was not written: there was no frame to write.")
            self._encoder.finish()
            self._encoder.publish()
            self._open = False
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Give up: close, and remove what was written. Nothing stays under the final name."""
        if self._open:
            self._open = False
            self._encoder.abandon()

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _begin(self, first_pts: int) -> None:
        self._shift = min(0, first_pts)
        say_what_changes(self.path, self._chosen, self._size, first_pts, self._time_base)
        if self._audio_from is not None:
            begin_sound(self._encoder, self.path, self._audio_from, self._shift * self._time_base)

    def _check(self, frame: Frame) -> None:
        if not self._open:
            raise UsageError(f"{self.path} is closed; no more frames can be written.")
        if frame.size != self._size:
            raise VideoError(
                f"{self.path} is written at {self._size[1]}x{self._size[0]}, but frame {frame.index} is "
                f"{frame.size[1]}x{frame.size[0]}; give all frames one size."
            )
        if frame.time_base != self._time_base:
            raise UsageError(f"{self.path} is written with time base {self._time_base}, got {frame.time_base}.")
        if self._last_pts is not None and frame.pts <= self._last_pts:
            raise UsageError(
                f"Times in {self.path} should increase: frame {frame.index} has pts {frame.pts} after {self._last_pts}."
            )


def say_what_changes(path: str, codec: Codec, size: tuple[int, int], first_pts: int, time_base: Fraction) -> None:
    """Log where pictures of `size` and times from `first_pts` on are not written to `path` as they are."""
    kind, stored = container_for(path), codec.stored_size(size)
    if stored != size:
        log.warning("%s: %dx%d is padded to %dx%d, because this codec needs even sides.",
                    path, size[1], size[0], stored[1], stored[0])  # fmt: skip
    if first_pts < 0:
        log.warning("%s: times begin at %.3f s and are moved to 0.", path, float(first_pts * time_base))
    if not kind.exact_times and (time_base * kind.units_per_second).denominator != 1:
        log.warning("%s: %s keeps whole 1/%d seconds; times are rounded.", path, kind.format, kind.units_per_second)


def begin_sound(
    encoder: TakesSound, path: str, audio_from: ClipReader | str | os.PathLike[str], shift_seconds: Fraction
) -> None:
    """Let `encoder` take the sound of a file or of a reader's part of it, whose time `shift_seconds` becomes 0."""
    start, is_part, only = Fraction(0), False, None
    if isinstance(audio_from, ClipReader):
        if audio_from.info.audio_codec is None and not audio_from.info.subtitles:
            return
        start, is_part, only = audio_from.start, audio_from.is_part, audio_from.audio_stream
    if _path_of(audio_from) == STDIN:
        log.warning("%s: standard input can be read once only; its sound is left out.", path)
        return
    encoder.add_sound(_path_of(audio_from), start + shift_seconds, ends_with_pictures=is_part, only=only)


def check_output(path: str | os.PathLike[str], sources: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Raise where `path` cannot become an output: an unknown suffix, an absent folder, a folder itself, numbered
    pictures without a number, or one of `sources`."""
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it, such as {target / 'out.mp4'}.")
    kind = container_for(path)
    if not target.parent.is_dir():
        raise VideoError(f"{path} cannot be written: the folder {target.parent} does not exist; make it first.")
    if kind.format == PICTURES and not NUMBERED.search(target.name):
        raise UsageError(f"{path} would be one picture; number them, such as {target.stem}_%06d{target.suffix}.")
    for source in sources:
        same_file = target.exists() and Path(source).exists() and target.samefile(source)
        if same_file or target.absolute() == Path(source).absolute():
            raise UsageError(f"{path} is the input itself; give the output another name.")


def _path_of(source: ClipReader | str | os.PathLike[str]) -> str:
    return source.info.path if isinstance(source, ClipReader) else os.fspath(source)
