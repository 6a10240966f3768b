"""A clip in segments: each encoded by a fresh encoder into a file of its own, joined by copying packets.

A fresh encoder begins with a key frame and refers to nothing before it, so segments can stand one after another in any
file. Times are not taken from the segments: the caller keeps them, exact, and the joined file is given them anew.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
from av.packet import Packet
from av.video.stream import VideoStream

from flowguide.errors import VideoError
from flowguide.types import Frame

from .decode_times import decode_times, ranks
from .encoders import SOUND_AHEAD, StreamEncoder, exact_times, explained
from .formats import CODECS, CONTAINERS, PICTURES, Codec, container_for
from .reader import ClipReader
from .sound import Sound
from .writer import ASSUMED_RATE, begin_sound, say_what_changes

WAITING = ".mkv"
"""Suffix of the segments of a file that cannot be put together from packets; they are FFV1 and keep every bit."""


@dataclass(frozen=True)
class Segment:
    """A finished segment and what is needed to join it."""

    path: Path
    pts: Sequence[int]
    """Times of its frames, in order of showing, in units of the clip's time base."""
    order: Sequence[int]
    """For each packet, which of its frames it holds: frames may be stored out of order."""
    skip: int = 0
    """Packets in the file before its first."""


def copies_packets(output: str | os.PathLike[str]) -> bool:
    """Whether `output` is made of its segments' packets; a GIF, a WebP and pictures are encoded from their frames."""
    return container_for(output).format not in ("gif", "webp", PICTURES)


def waiting_codec(codec: Codec) -> Codec:
    """The codec without loss that keeps what `codec` will be given: its bits, and opacity where it has it."""
    lossless = CODECS["ffv1-16" if codec.deep else "ffv1"]
    return lossless.with_alpha() if codec.pixel_format == codec.alpha_format else lossless


class SegmentWriter:
    """Encodes the frames of one segment; a context manager, which removes what is unfinished after an exception."""

    def __init__(
        self,
        path: Path,
        output: Path,
        codec: Codec,
        *,
        size: tuple[int, int],
        time_base: Fraction,
        rate: Fraction | None,
    ) -> None:
        """path: the segment's file. output, codec: what it will be joined into."""
        copied = copies_packets(output)
        kind = container_for(output) if copied else CONTAINERS[WAITING]
        self.path, self.pts = path, list[int]()
        self._encoder = StreamEncoder(
            path,
            replace(kind, options={}),
            codec if copied else waiting_codec(codec),
            size=size,
            time_base=time_base,
            frame_rate=rate or ASSUMED_RATE,
            metadata={},
        )

    def write(self, frame: Frame) -> None:
        """Encode `frame`; the segment's own time begins at 0, so that it depends on nothing before it."""
        self.pts.append(frame.pts)
        self._encoder.write(frame.rgb, frame.pts - self.pts[0], frame.alpha)

    def finish(self) -> Segment:
        """Complete the file, on the disk, and tell what is in it."""
        self._encoder.finish()
        self._encoder.publish()
        order = _packet_order(self.path)
        if len(order) != len(self.pts):
            raise VideoError(f"{self.path} holds {len(order)} packets for {len(self.pts)} frames; use another codec.")
        return Segment(self.path, self.pts, order)

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._encoder.abandon()


def _packet_order(path: Path) -> list[int]:
    """The rank in time of every packet of `path`, in the order of the file."""
    with explained(path), av.open(f"file:{path}") as container:
        return ranks([packet.pts or 0 for packet in container.demux(video=0) if packet.size])


def join(
    segments: Sequence[Segment],
    output: Path,
    codec: Codec,
    *,
    size: tuple[int, int],
    time_base: Fraction,
    rate: Fraction | None,
    audio_from: ClipReader | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `segments` one after another into `output`, packets as they are, with exact times and with sound.

    Nothing stands under the name `output` before it is complete. Raises VideoError where it cannot be written.
    """
    with explained(output):
        joined = _Joined(segments, output, codec, time_base, rate or ASSUMED_RATE, metadata or {})
        say_what_changes(os.fspath(output), codec, size, segments[0].pts[0], time_base)
        with joined:
            if audio_from is not None:
                begin_sound(joined, os.fspath(output), audio_from, joined.shift * time_base)
            joined.write_all()
        os.replace(joined.unfinished, output)


class _Joined:
    """The file that segments are copied into."""

    def __init__(
        self,
        segments: Sequence[Segment],
        path: Path,
        codec: Codec,
        time_base: Fraction,
        rate: Fraction,
        metadata: Mapping[str, str],
    ) -> None:
        self._segments, self._kind, self._time_base = segments, container_for(path), time_base
        self.pts = [pts for segment in segments for pts in segment.pts]
        self.shift = min(0, self.pts[0])
        self._nominal = max(1, round(1 / (rate * time_base)))
        self._sound: Sound | None = None
        self._ahead = SOUND_AHEAD
        self.unfinished = path.with_name(f".{path.name}.partial")
        options = {**self._kind.options, **exact_times(self._kind, time_base)}
        self._output = av.open(f"file:{self.unfinished}", "w", format=self._kind.format, options=options)
        self._output.metadata.update(metadata)
        with av.open(f"file:{segments[0].path}") as first:
            template = first.streams.video[0]
            self._stream = self._output.add_stream_from_template(template, opaque=True)
            self._stream.time_base = time_base
            if "alpha_mode" in template.metadata:  # How WebM says that its pictures have opacity.
                self._stream.metadata["alpha_mode"] = template.metadata["alpha_mode"]
            if codec.mp4_tag and self._kind.exact_times:
                self._stream.codec_context.codec_tag = codec.mp4_tag

    def __enter__(self) -> _Joined:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._sound:
            self._sound.close()
        self._output.close()

    def add_sound(self, path: str, start: Fraction, *, ends_with_pictures: bool, only: int | None = None) -> None:
        self._sound = Sound(path, start, self._output, self._kind, only)
        if ends_with_pictures:
            self._ahead = Fraction(0)

    def write_all(self) -> None:
        for packet, pts in self._packets():
            self._output.mux(packet)
            if self._sound:
                self._sound.write_until(pts * self._time_base + self._ahead)
        if self._sound:
            end = None if self._ahead else (self.pts[-1] - self.shift + self._nominal) * self._time_base
            self._sound.write_until(end)

    def _packets(self) -> Iterator[tuple[Packet[VideoStream], int]]:
        shown = [pts - self.shift for pts in self.pts]
        places, begin = list[int](), 0
        for segment in self._segments:
            places += [begin + rank for rank in segment.order]
            begin += len(segment.order)
        decoded = iter(zip(places, decode_times(shown, places), strict=True))
        lasts = [*(after - pts for pts, after in itertools.pairwise(shown)), self._nominal]
        for packet, (place, dts) in zip(_stored_packets(self._segments), decoded, strict=True):
            packet.time_base = self._time_base
            packet.pts, packet.dts, packet.duration = shown[place], dts, lasts[place]
            packet.stream = self._stream
            yield packet, shown[place]


def _stored_packets(segments: Sequence[Segment]) -> Iterator[Packet[VideoStream]]:
    """The packets of all segments; neighbours in one file are read on, not sought."""
    for path, neighbours in itertools.groupby(segments, key=lambda segment: segment.path):
        with av.open(f"file:{path}") as container:
            packets = (packet for packet in container.demux(container.streams.video[0]) if packet.size)
            position = 0
            for segment in neighbours:
                end = segment.skip + len(segment.order)
                yield from itertools.islice(packets, segment.skip - position, end - position)
                position = end
