"""One opened video file: its stream, what is known of it, and its decoded pictures in order with exact times."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from flowguide.errors import UsageError, VideoError
from flowguide.types import ClipInfo

from .colour import bits_of, colour_of, has_alpha
from .filters import Stamped, Timed, deinterlaced
from .orientation import UPRIGHT, orientation_of

log = logging.getLogger("flowguide.video")

AnyStream = TypeVar("AnyStream", VideoStream, AudioStream)

FRAME_THREADS = min(8, os.cpu_count() or 1)
"""Pictures decoded at once, as long as the stream is sound."""
SLICE_THREADS = 4
"""Fixed, and within one picture: what a damaged stream decodes to must not depend on the machine."""
LOSS_SECONDS = 0.5
"""A clip that ends this much earlier than its container says is reported as cut short."""
PLAUSIBLE_RATE = 1000
"""Containers that do not know their frame rate say the rate of their clock."""
MOST_ASPECT = 4
"""Pixels wider or higher than this are a damaged header."""
STDIN = "-"
_GONE = frozenset({
    errno.EIO, errno.ENOENT, errno.EACCES, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT,
    errno.ECONNRESET,
})  # fmt: skip
"""What reading a file gives whose disk or network has gone; unlike damage, it may pass."""
_MATROSKA_DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")


class Source:
    """An opened clip, to be closed.

    `pictures_from` gives (pts, picture), pts strictly increasing integers in units of `info.time_base`; damaged packets
    are skipped and counted in `losses`. Raises VideoError, in one sentence, for what is no readable video.
    """

    def __init__(self, path: str | os.PathLike[str], *, stream: int | None = None) -> None:
        self.path = os.fspath(path)
        self._wanted = stream
        self._count, self._damaged = 0, 0
        self._damage = self._stopped = ""
        self._open(careful=self.path == STDIN)
        try:
            self._stated_frames = self._stream.frames
            self._decoded = self._decode(None)
            first = next(self._decoded, None)
            if first is None:
                why = self._damage or self._stopped or "its video stream is empty"
                raise VideoError(f"{self.path} holds no picture that can be decoded ({why}).")
            self._first = first
            self.orientation = orientation_of(first[1]) or UPRIGHT
            self.stored_size = first[1].height, first[1].width
            self.square_size = _square(self.stored_size, self._stream.sample_aspect_ratio)
            self.info = self._describe(*first)
            self._warn_of_the_unusual(first[1])
        except BaseException:
            self._container.close()
            raise

    def pictures_from(self, pts: int) -> Iterator[Timed]:
        """The pictures at or after `pts`; to be called once."""
        found = self._sought(pts)
        return deinterlaced(found, self.info.time_base) if self.info.interlaced else found

    def _sought(self, pts: int) -> Iterator[Timed]:
        """The pictures at or after `pts`, found by seeking to the key frame before it, where the file allows that."""
        if pts <= self._first[0]:
            yield self._first
        elif self._seek(pts):
            self._decoded = self._decode(pts)
            landed = next(self._decoded, None)
            if landed is None or landed[0] > pts:
                self._seek(self._first[0])
                self._decoded = self._decode(self._first[0])
            elif landed[0] == pts:
                yield landed
        for found, picture in self._decoded:
            if found >= pts:
                yield found, picture

    @property
    def stream(self) -> VideoStream:
        """The stream that is decoded."""
        return self._stream

    def key_pts(self, pts: int) -> int | None:
        """Time of the key frame from which a picture at `pts` is decoded, or None for the beginning of the file; for
        another decoder than this one, whose place in the file is lost."""
        if pts <= self._first[0] or not self._seek(pts):
            return None
        packet = next(packets_of(self._container, self._stream), None)
        if packet is None or not packet.is_keyframe or packet.pts is None or packet.pts > pts:
            return None
        return packet.pts

    def _seek(self, pts: int) -> bool:
        try:
            self._container.seek(pts, stream=self._stream, backward=True)
        except av.error.FFmpegError:
            return False
        return True

    def _open(self, *, careful: bool) -> None:
        """careful: decode one picture at a time, so that damage does the same on every machine."""
        self._careful = careful
        self._container = open_container(self.path)
        try:
            self._stream = _choose_stream(self._container, self.path, self._wanted)
        except BaseException:
            self._container.close()
            raise
        self._stream.thread_type = "SLICE" if careful else "AUTO"
        self._stream.codec_context.thread_count = SLICE_THREADS if careful else FRAME_THREADS

    def close(self) -> None:
        """Close the file; iterators over its pictures end, and its decoder's threads."""
        self._container.close()
        self._decoded = iter(())
        # The decoder lives as long as its stream is held, and generators hold this object in a cycle.
        self.__dict__.pop("_stream", None)

    @property
    def losses(self) -> list[str]:
        """What could not be decoded so far, one phrase each; empty for a sound file read to any point."""
        of_about = f" of about {self._stated_frames}" if self._stated_frames > self._count else ""
        skipped = f"{self._damaged} damaged packet{'s' if self._damaged > 1 else ''} skipped: {self._damage}"
        reasons = [skipped] if self._damaged else []
        if self._stopped:
            return [f"stopped after {self._count}{of_about} frames ({'; '.join([self._stopped, *reasons])})"]
        return [f"{self._count}{of_about} frames decoded ({skipped})"] if self._damaged else []

    def _decode(self, sought: int | None) -> Iterator[Timed]:
        """The pictures from here on, `sought` being where the last seek went. At the first damage, begin again
        carefully and leave out what was given."""
        given = 0
        if not self._careful:
            try:
                for timed in self._decode_once():
                    given += 1
                    yield timed
            except _Damage:
                self._container.close()
                self._open(careful=True)
                if sought is not None:
                    self._seek(sought)
            else:
                return
        yield from itertools.islice(self._decode_once(), given, None)

    def _decode_once(self) -> Iterator[Timed]:
        clock = Clock(self._stream, self.path)
        self._count, self._damaged, self._stopped = 0, 0, ""
        packets = packets_of(self._container, self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                if error.errno in _GONE:
                    raise VideoError(
                        f"{self.path} can no longer be read ({_reason(error)}); make it available again."
                    ) from error
                packet, self._stopped = None, _reason(error)
            for picture in self._pictures_in(packet) if packet is not None or self._stopped else []:
                self._count += 1
                yield clock.pts_of(picture), picture
            if packet is None:
                break
        self._note_early_end(clock.seconds)
        for loss in self.losses:
            log.warning("%s: %s.", self.path, loss)

    def _pictures_in(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """What the decoder gives for `packet`, or for None at the end; nothing where it is damaged."""
        try:
            pictures = self._stream.decode(packet)
        except av.error.EOFError:
            return []
        except av.error.FFmpegError as error:
            if not self._careful:
                raise _Damage from error
            self._damaged, self._damage = self._damaged + 1, _reason(error)
            return []
        if not self._careful and any(picture.is_corrupt for picture in pictures):
            raise _Damage
        return pictures

    def _note_early_end(self, seconds: float) -> None:
        stated = self._stated_end()
        if not self._stopped and self._count and stated is not None and stated - seconds > LOSS_SECONDS:
            self._stopped = f"it ends {stated - seconds:.1f} s before its stated end"

    def _stated_end(self) -> float | None:
        """Seconds at which the pictures end by the container's word; less some where the word is about sound too."""
        stream, container = self._stream, self._container
        if stream.duration is not None and stream.time_base is not None:
            return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
        tagged = _MATROSKA_DURATION.match(stream.metadata.get("DURATION", ""))
        if tagged:
            return 3600 * int(tagged[1]) + 60 * int(tagged[2]) + float(tagged[3])
        if container.duration is not None:
            seconds_in_all = container.duration / av.time_base
            return seconds_in_all if not container.streams.audio else 0.95 * seconds_in_all - 2
        return None

    def _describe(self, pts: int, picture: VideoFrame) -> ClipInfo:
        stream, container = self._stream, self._container
        colour = colour_of(picture)
        duration: float | None = None
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration = container.duration / av.time_base
        audio = next((s for s in container.streams.audio if s.codec_context is not None), None)
        return ClipInfo(
            path=self.path,
            size=self.orientation.size(self.square_size),
            time_base=time_base_of(stream, picture),
            frame_rate=_frame_rate(stream),
            frames=stream.frames or None,
            start_pts=pts,
            duration_seconds=duration,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=picture.format.name,
            bits=bits_of(picture.format.name),
            matrix=colour.matrix,
            full_range=colour.full_range,
            rotation_degrees=self.orientation.rotation_degrees,
            audio_codec=audio.codec_context.codec.canonical_name if audio else None,
            mirrored=self.orientation.mirrored,
            transfer=colour.transfer,
            interlaced=picture.interlaced_frame,
            alpha=has_alpha(picture.format.name),
            subtitles=len(container.streams.subtitles),
        )

    def _warn_of_the_unusual(self, picture: VideoFrame) -> None:
        colour = colour_of(picture)
        if not colour.understood:
            log.warning("%s: colour matrix %d is not known; read as %s.", self.path, picture.colorspace, colour.matrix)
        if colour.transfer != "sdr":
            log.warning("%s: high dynamic range (%s) is mapped to BT.709.", self.path, colour.transfer.upper())
        tags = {name.lower(): value for name, value in self._stream.metadata.items()}
        if tags.get("alpha_mode") == "1" and not has_alpha(picture.format.name):
            log.warning("%s: its opacity is not read; give it as ProRes 4444, FFV1 or PNG to keep it.", self.path)
        if orientation_of(picture) is None:
            log.warning("%s: its display matrix is no quarter turn; shown as stored.", self.path)
        if picture.interlaced_frame:
            log.warning("%s: pictures are interlaced; fields are made whole, one picture for each two.", self.path)
        if self.square_size != self.stored_size:
            log.warning(
                "%s: pixels are not square; width resized from %d to %d.",
                self.path,
                self.stored_size[1],
                self.square_size[1],
            )


class _Damage(Exception):
    """The stream is not sound; it should be decoded carefully."""


class Clock:
    """Makes times of pictures strictly increasing integers, and says where it had to."""

    def __init__(self, stream: VideoStream, path: str) -> None:
        self._path = path
        self._last: int | None = None
        self._shift = 0
        rate = _frame_rate(stream) or Fraction(25)
        self._time_base = stream.time_base or 1 / rate
        self._step = max(1, round(1 / (rate * self._time_base)))

    def pts_of(self, picture: Stamped) -> int:
        pts = picture.pts if picture.pts is not None else picture.dts
        follows = 0 if self._last is None else self._last + self._step
        if pts is None:
            pts = follows
        else:
            pts += self._shift
            if self._last is not None and pts <= self._last:
                log.warning("%s: time jumps back at %.3f s; later frames are moved on.", self._path, self.seconds)
                self._shift += follows - pts
                pts = follows
        self._last = pts
        return pts

    @property
    def seconds(self) -> float:
        """Time at which the last picture ends, about."""
        return float(((self._last or 0) + self._step) * self._time_base)


def open_container(path: str) -> InputContainer:
    """Open `path`, or standard input for "-". Raises VideoError with one sentence where it is no media file."""
    where = Path(path)
    if path != STDIN and not where.exists():
        raise VideoError(f"{path} does not exist; check the name of the input.")
    try:
        return av.open("pipe:0" if path == STDIN else f"file:{path}", mode="r", metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise VideoError(f"{path} cannot be read as a video ({_why_unreadable(where, error)}).") from error
    except OSError as error:
        raise VideoError(f"{path} cannot be opened ({error.strerror or error}).") from error


def packets_of(container: InputContainer, stream: AnyStream) -> Iterator[Packet[AnyStream]]:
    """The packets of one stream, also where others begin in the middle of the file, which PyAV cannot name."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except IndexError:
            packets = container.demux(stream)
            continue
        if packet is None:
            return
        yield packet


def _why_unreadable(path: Path, error: av.error.FFmpegError) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        beginning = file.read(12)
        if not beginning:
            return "the file is empty"
        if beginning[4:8] == b"ftyp":
            return "it begins as MP4 but has no index, as when a recording or a copy was cut off; get a whole copy"
    return _reason(error)


def time_base_of(stream: VideoStream, picture: VideoFrame) -> Fraction:
    """Seconds per unit of the pts of `picture`."""
    found = picture.time_base or stream.time_base
    return Fraction(found) if found else Fraction(1, 1000)


def _square(stored: tuple[int, int], aspect: Fraction | None) -> tuple[int, int]:
    """(height, width) of the same picture with square pixels; an aspect within 1 % of 1, or absurd, is left alone."""
    if not aspect or abs(aspect - 1) < Fraction(1, 100) or not 1 / MOST_ASPECT <= aspect <= MOST_ASPECT:
        return stored
    return stored[0], max(2, 2 * round(stored[1] * aspect / 2))


def _choose_stream(container: InputContainer, path: str, wanted: int | None) -> VideoStream:
    readable = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None
        and stream.codec_context.width > 0
        and not stream.disposition & Disposition.attached_pic
    ]
    if not readable:
        held = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError(f"{path} holds no video that can be decoded, only {held}.")
    if wanted is not None and not 0 <= wanted < len(readable):
        raise UsageError(f"{path} has {len(readable)} video streams, numbered from 0; there is no number {wanted}.")
    if len(readable) > 1 and wanted is None:
        log.warning("%s: holds %d video streams; the first is taken.", path, len(readable))
    return readable[wanted or 0]


def _frame_rate(stream: VideoStream) -> Fraction | None:
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate is not None and 0 < rate < PLAUSIBLE_RATE:
            return Fraction(rate)
    return None


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return str(text)[:1].lower() + str(text)[1:]
