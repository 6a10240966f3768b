"""Writing a clip frame by frame, with exact times; nothing appears under the final name until it is complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import av.error
from av.container import OutputContainer
from av.video.stream import VideoStream

from flowguide.errors import UsageError, VideoError
from flowguide.types import Frame

from .colour import FromRgb
from .formats import Codec, Container, codec_for, container_for
from .reader import ClipReader
from .sound import Sound
from .source import log

SOUND_AHEAD = Fraction(1, 2)
"""Seconds by which sound is written ahead of the pictures, so that the muxer holds neither back for long."""
ASSUMED_RATE = Fraction(25)
"""For the encoder's bit rate control only, where a clip does not say its frame rate; times are exact regardless."""


class ClipWriter:
    """Writes frames to a video file; a context manager.

    Leaving the block normally flushes, completes the sound, closes, and renames the temporary file beside `path` to
    `path`; leaving it by an exception removes the temporary file. Colours are converted with, and tagged as, BT.709
    in limited range. Times are those of the frames, integer and exact; Matroska and WebM keep milliseconds, so there
    each is rounded. A clip whose times begin below 0 is moved to 0, sound with it, and this is logged.

    path: its suffix names the container, see `formats.CONTAINERS`.
    size: (height, width) of the frames. Codecs of 4:2:0 colour need even sides: an odd picture gets its last row or
        column repeated once (H.264 with full colour would keep 161x121, but phones and browsers do not play it);
        VP9 and FFV1 keep the size.
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
        self._kind = container_for(path)
        self._codec = codec if isinstance(codec, Codec) else codec_for(path, codec)
        self._size = size
        self._time_base = time_base
        self._frame_rate = frame_rate or ASSUMED_RATE
        self._audio_from = audio_from
        self._sound: Sound | None = None
        self._last_pts: int | None = None
        self._shift = 0
        self._is_part = isinstance(audio_from, ClipReader) and audio_from.is_part
        self._sound_ahead = Fraction(0) if self._is_part else SOUND_AHEAD
        self._to_close: list[OutputContainer | Sound] = []
        self.frames_written = 0
        check_output(path, () if audio_from is None else (_path_of(audio_from),))
        self._unfinished: Path | None = _create_beside(Path(path))
        try:
            self._open(dict(metadata or {}))
        except BaseException:
            self.abort()
            raise

    def write(self, frame: Frame) -> None:
        """Encode `frame`. Its size and time base are those of the writer and its pts is above the last one's."""
        self._check(frame)
        if self._last_pts is None:
            self._begin(frame.pts)
        self._last_pts = frame.pts
        picture = self._from_rgb(frame.rgb)
        picture.pts = frame.pts - self._shift
        picture.time_base = self._time_base
        with _explained(self.path):
            self._output.mux(self._stream.encode(picture))
            if self._sound:
                self._sound.write_until(picture.pts * self._time_base + self._sound_ahead)
        self.frames_written += 1

    def close(self) -> None:
        """Flush, complete the sound, and give the file its final name. A second call does nothing."""
        if self._unfinished is None:
            return
        try:
            if self._last_pts is None:
                raise VideoError(f"{self.path} was not written: there was no frame to write.")
            with _explained(self.path):
                self._output.mux(self._stream.encode(None))
                if self._sound:
                    self._sound.write_until(self._sound_end())
                    self._sound.close()
                self._output.close()
                os.replace(self._unfinished, self.path)
            self._unfinished = None
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Give up: close, and remove what was written. Nothing stays under the final name."""
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is None:
            return
        for part in self._to_close:
            with contextlib.suppress(OSError, ValueError):
                part.close()
        unfinished.unlink(missing_ok=True)

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _open(self, metadata: dict[str, str]) -> None:
        codec, kind = self._codec, self._kind
        with _explained(self.path):
            options = {**kind.options, **_exact_times(kind, self._time_base)}
            self._output = av.open(f"file:{self._unfinished}", "w", format=kind.format, options=options)
            self._to_close.append(self._output)
            self._output.metadata.update(metadata)
            stream = self._output.add_stream(codec.encoder, rate=self._frame_rate, options=dict(codec.options))
        assert isinstance(stream, VideoStream)
        height, width = (side + side % 2 for side in self._size) if codec.even_sides else self._size
        if (height, width) != self._size:
            log.warning("%s: %dx%d is padded to %dx%d, because this codec needs even sides.",
                        self.path, self._size[1], self._size[0], width, height)  # fmt: skip
        stream.height, stream.width = height, width
        stream.pix_fmt = codec.pixel_format
        stream.time_base = stream.codec_context.time_base = self._time_base
        stream.thread_type, stream.thread_count = "FRAME", codec.threads
        self._from_rgb = FromRgb((height, width), codec.pixel_format)
        self._from_rgb.tag(stream.codec_context)
        with _explained(self.path):
            stream.codec_context.open()
        self._stream = stream

    def _begin(self, first_pts: int) -> None:
        self._shift = min(0, first_pts)
        if self._shift:
            log.warning("%s: times begin at %.3f s and are moved to 0.", self.path, float(first_pts * self._time_base))
        if not self._kind.exact_times and (self._time_base * 1000).denominator != 1:
            log.warning("%s: %s keeps whole milliseconds; times are rounded.", self.path, self._kind.format)
        if self._audio_from is not None:
            start = self._audio_from.start if isinstance(self._audio_from, ClipReader) else Fraction(0)
            start += self._shift * self._time_base
            self._sound = Sound(_path_of(self._audio_from), start, self._output, self._kind)
            self._to_close.insert(0, self._sound)

    def _check(self, frame: Frame) -> None:
        if self._unfinished is None:
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

    def _sound_end(self) -> Fraction | None:
        """Where sound ends in the output: with the pictures where only a part was chosen, else with the sound."""
        if not self._is_part or self._last_pts is None:
            return None
        return (self._last_pts - self._shift) * self._time_base + 1 / self._frame_rate


def check_output(path: str | os.PathLike[str], sources: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Raise where `path` cannot become an output: its folder is absent, it is a folder, or it is one of `sources`."""
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it, such as {target / 'out.mp4'}.")
    if not target.parent.is_dir():
        raise VideoError(f"{path} cannot be written: the folder {target.parent} does not exist; make it first.")
    for source in sources:
        if target.exists() and Path(source).exists() and target.samefile(source):
            raise UsageError(f"{path} is the input itself; give the output another name.")


def _create_beside(target: Path) -> Path:
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        unfinished.open("wb").close()
    except OSError as error:
        raise VideoError(f"{target} cannot be written ({error.strerror}); choose another folder.") from error
    return unfinished


def _exact_times(kind: Container, time_base: Fraction) -> dict[str, str]:
    """Options that make an MP4 count in the units of `time_base`, edit list included, instead of its own."""
    if not kind.exact_times:
        return {}
    units = str(time_base.denominator)
    return {"video_track_timescale": units, "movie_timescale": units}


def _path_of(source: ClipReader | str | os.PathLike[str]) -> str:
    return source.info.path if isinstance(source, ClipReader) else os.fspath(source)


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{path} cannot be written ({error.strerror or error}).") from error
