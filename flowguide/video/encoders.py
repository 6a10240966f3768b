"""What a ClipWriter writes with: a stream of one of FFmpeg's codecs or a GIF; `picture_encoder` has numbered pictures.

Each takes RGB pictures with times and writes under a temporary name; `publish` gives the final name.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import av.error
import torch
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from flowguide.errors import UsageError, VideoError

from .colour import FromRgb
from .decode_times import decode_times, ranks
from .filters import filtered
from .formats import CODECS, CONTAINERS, Codec, Container
from .sound import Sound
from .source import log

SOUND_AHEAD = Fraction(1, 2)
"""Seconds by which sound is written ahead of the pictures, so that the muxer holds neither back for long."""
MILLISECOND = Fraction(1, 1000)
UNITS_OF_GIF, SHORTEST_DELAY = 100, 2
"""Per second, and in these units."""


class TakesSound(Protocol):
    def add_sound(self, path: str, start: Fraction, *, ends_with_pictures: bool, only: int | None = None) -> None:
        """Take the sound of `path`, whose second `start` is 0 here, or its stream `only`; before the first picture."""


class Encoder(TakesSound, Protocol):
    def write(self, rgb: Tensor, pts: int, alpha: Tensor | None = None) -> None:
        """Encode uint8 or uint16 [3, H, W], with opacity [H, W] or without; pts increase and are in units of the time
        base."""

    def finish(self) -> None:
        """Write what is still held and close."""

    def publish(self) -> None:
        """Give what was written its final name."""

    def abandon(self) -> None:
        """Close and remove what was written; may be called at any time."""


class StreamEncoder:
    """One file of one codec, with sound."""

    def __init__(
        self,
        path: Path,
        kind: Container,
        codec: Codec,
        *,
        size: tuple[int, int],
        time_base: Fraction,
        frame_rate: Fraction,
        metadata: Mapping[str, str],
    ) -> None:
        self._path, self._kind, self._codec = path, kind, codec
        self._time_base, self._frame_rate = time_base, frame_rate
        self._sound: Sound | None = None
        self._sound_ahead = SOUND_AHEAD
        self._last_pts = self._packets = 0
        self._unfinished = unfinished_name(path)
        _create(self._unfinished, path)
        try:
            with explained(path):
                options = {**kind.options, **exact_times(kind, time_base)}
                self._output = av.open(f"file:{self._unfinished}", "w", format=kind.format, options=options)
                self._output.metadata.update(metadata)
                self._stream = self._opened_stream(size)
        except BaseException:
            self.abandon()
            raise

    def _opened_stream(self, size: tuple[int, int]) -> VideoStream:
        codec = self._codec
        stream = self._output.add_stream(codec.encoder, rate=self._frame_rate, options=_options(codec))
        if not isinstance(stream, VideoStream):
            raise UsageError(f"{codec.encoder!r} is no encoder of pictures.")
        height, width = codec.stored_size(size)
        stream.height, stream.width = height, width
        stream.pix_fmt = codec.pixel_format
        stream.time_base = stream.codec_context.time_base = self._time_base
        stream.thread_type, stream.thread_count = "FRAME", codec.threads
        if codec.mp4_tag and self._kind.exact_times:
            stream.codec_context.codec_tag = codec.mp4_tag
        self._from_rgb = FromRgb((height, width), codec.pixel_format)
        self._from_rgb.tag(stream.codec_context)
        stream.codec_context.open()
        return stream

    def add_sound(self, path: str, start: Fraction, *, ends_with_pictures: bool, only: int | None = None) -> None:
        self._sound = Sound(path, start, self._output, self._kind, only)
        if ends_with_pictures:
            self._sound_ahead = Fraction(0)

    def write(self, rgb: Tensor, pts: int, alpha: Tensor | None = None) -> None:
        picture = self._from_rgb(rgb, alpha)
        picture.pts, picture.time_base = pts, self._time_base
        self._last_pts = pts
        with explained(self._path):
            packets = self._stream.encode(picture)
            self._output.mux(packets)
            self._packets += len(packets)
            if self._sound:
                self._sound.write_until(pts * self._time_base + self._sound_ahead)

    def finish(self) -> None:
        with explained(self._path):
            packets = self._stream.encode(None)
            if not self._packets:
                _set_decode_times(packets)
            self._output.mux(packets)
            if self._sound:
                end = None if self._sound_ahead else self._last_pts * self._time_base + 1 / self._frame_rate
                self._sound.write_until(end)
                self._sound.close()
            self._output.close()

    def publish(self) -> None:
        with explained(self._path):
            replace_durably(self._unfinished, self._path)

    def abandon(self) -> None:
        for part in (self._sound, getattr(self, "_output", None)):
            if part is not None:
                with contextlib.suppress(OSError, ValueError):
                    part.close()
        self._unfinished.unlink(missing_ok=True)


class GifEncoder:
    """A GIF with one palette for all its frames and an ordered dither, so that what stands still does not flicker.

    The palette is known only when all pictures are: they wait on disk, compressed without loss. Times are kept in
    hundredths of a second, each rounded on its own, so that they do not drift; pictures that come too fast for
    browsers, which slow them down, are left out.
    """

    def __init__(self, path: Path, *, size: tuple[int, int], time_base: Fraction) -> None:
        self._path, self._time_base = path, time_base
        self._pts: list[int] = []
        self._unfinished = unfinished_name(path)
        _create(self._unfinished, path)
        self._waiting = self._unfinished.with_suffix(".frames")
        try:
            self._store = StreamEncoder(
                self._waiting,
                CONTAINERS[".mkv"],
                CODECS["ffv1"],
                size=size,
                time_base=MILLISECOND,
                frame_rate=Fraction(25),
                metadata={},
            )
        except BaseException:
            self._unfinished.unlink(missing_ok=True)
            raise

    def add_sound(self, path: str, start: Fraction, *, ends_with_pictures: bool, only: int | None = None) -> None:
        log.warning("%s: a GIF has no sound; it is left out.", self._path)

    def write(self, rgb: Tensor, pts: int, alpha: Tensor | None = None) -> None:
        self._store.write(rgb, len(self._pts))
        self._pts.append(pts)

    def finish(self) -> None:
        self._store.finish()
        self._store.publish()
        with explained(self._path), av.open(f"file:{self._unfinished}", "w", format="gif") as output:
            stream = output.add_stream("gif", rate=UNITS_OF_GIF)
            shown = -SHORTEST_DELAY
            for pts, picture in zip(self._pts, self._in_palette(), strict=True):
                if not stream.codec_context.is_open:
                    stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "pal8"
                    stream.codec_context.time_base = Fraction(1, UNITS_OF_GIF)
                picture.pts, picture.time_base = round(pts * self._time_base * UNITS_OF_GIF), Fraction(1, UNITS_OF_GIF)
                if picture.pts >= shown + SHORTEST_DELAY:
                    output.mux(stream.encode(picture))
                    shown = picture.pts
            output.mux(stream.encode(None))

    def _stored(self) -> Iterator[VideoFrame]:
        with av.open(f"file:{self._waiting}") as container:
            yield from container.decode(video=0)

    def _in_palette(self) -> Iterator[VideoFrame]:
        (palette,) = filtered("palettegen=stats_mode=full:reserve_transparent=0", self._stored(), MILLISECOND)
        return filtered("paletteuse=dither=bayer:bayer_scale=3", self._stored(), MILLISECOND, palette)

    def publish(self) -> None:
        self._waiting.unlink(missing_ok=True)
        with explained(self._path):
            replace_durably(self._unfinished, self._path)

    def abandon(self) -> None:
        self._store.abandon()
        for left in (self._waiting, self._unfinished):
            left.unlink(missing_ok=True)


def unfinished_name(path: Path) -> Path:
    """Where `path` is written until it is complete: hidden beside it, and of this process alone."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what FFmpeg or the file system raise into a VideoError."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{path} cannot be written ({error.strerror or error}); choose another place.") from error


def _create(unfinished: Path, target: Path) -> None:
    with explained(target):
        unfinished.open("wb").close()


def replace_durably(unfinished: Path, target: Path) -> None:
    """Rename what is complete, its bytes on the disk first: power lost now leaves the old file or the new one."""
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, target)


def _set_decode_times(packets: Sequence[Packet[VideoStream]]) -> None:
    """Give all packets of a clip their decode times: x265 leaves them undefined where there are but a few."""
    shown = [packet.pts or 0 for packet in packets]
    for packet, dts in zip(packets, decode_times(sorted(shown), ranks(shown)), strict=True):
        packet.dts = dts


def _options(codec: Codec) -> dict[str, str]:
    """The codec's options, and what makes it give the same bytes each time."""
    # With AVX-512, x264's macroblock tree depends on what lies behind its buffers: the same pictures give other bytes.
    if codec.encoder == "libx264" and torch.backends.cpu.get_cpu_capability() == "AVX512":
        return {**codec.options, "x264-params": "asm=AVX2"}
    return dict(codec.options)


def exact_times(kind: Container, time_base: Fraction) -> dict[str, str]:
    """Options that make an MP4 count in the units of `time_base`, edit list included, instead of its own."""
    if not kind.exact_times:
        return {}
    units = str(time_base.denominator)
    return {"video_track_timescale": units, "movie_timescale": units}
