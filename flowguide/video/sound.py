"""Sound beside the pictures: copied packet by packet with its times, or encoded again where the container demands."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, TypeVar

import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream

from flowguide.errors import UsageError

from .formats import Container
from .source import AnyStream, log, open_container, packets_of

Made = TypeVar("Made", bound=Stream)

_ENCODER_RATES = {"libopus": 48000}
"""Samples per second of encoders that do not take the source's rate."""


class Sound:
    """The sound streams and subtitles of a file, given to an output bit by bit.

    `start` is the time in the source, in seconds, that becomes 0 in the output; what lies before it is left out.
    Packets are copied where the container takes their codec; other sound is decoded and encoded again, which is logged,
    other subtitles are left out. only: the number of one sound stream, from 0, instead of all.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        start: Fraction,
        output: OutputContainer,
        kind: Container,
        only: int | None = None,
    ) -> None:
        self._path = os.fspath(path)
        self._output, self._kind = output, kind
        self._tracks: list[_Track] = []
        try:
            with open_container(self._path) as source:
                for index in self._chosen(source, only):
                    self._tracks.append(_Track(self._path, index, start, output, kind))
        except BaseException:
            self.close()
            raise

    def write_until(self, seconds: Fraction | None) -> None:
        """Give the output all packets that begin before `seconds` of its time; None: all there are."""
        for track in self._tracks:
            track.write_until(seconds)

    def close(self) -> None:
        for track in self._tracks:
            track.close()

    def _chosen(self, source: InputContainer, only: int | None) -> list[int]:
        """Indices of the streams that go into the output; what does not is said."""
        audio = [stream for stream in source.streams.audio if stream.codec_context is not None]
        if source.streams.audio and not audio:
            log.warning("%s: its sound is in no known format; the output has none.", self._path)
        if only is not None:
            if not 0 <= only < len(audio):
                raise UsageError(
                    f"{self._path} has {len(audio)} sound streams, numbered from 0; there is no number {only}."
                )
            audio = [audio[only]]
        if audio and self._kind.sound_encoder is None:
            log.warning("%s: its sound is left out, because this kind of file holds none.", self._path)
            audio = []
        subtitles = [
            stream
            for stream in source.streams.subtitles
            if stream.codec_context is not None and stream.codec_context.name in self._kind.copied_subtitles
        ]
        chosen = [stream.index for stream in (*audio, *subtitles)]
        left = Counter(
            stream.type for stream in source.streams if stream.index not in chosen and stream.type != "video"
        )
        if left:
            told = [f"{count} {kind}" for kind, count in sorted(left.items())]
            log.warning("%s: not copied to the output: %s stream(s).", self._path, ", ".join(told))
        return chosen


class _Track:
    """One stream of the source, with its own place in the file."""

    def __init__(self, path: str, index: int, start: Fraction, output: OutputContainer, kind: Container) -> None:
        self._path, self._start, self._output, self._kind = path, start, output, kind
        self._held: Packet[Any] | None = None
        self._left_out = 0
        self._source = open_container(path)
        try:
            self._ready = self._begin(self._source.streams[index])
        except BaseException:
            self._source.close()
            raise

    def write_until(self, seconds: Fraction | None) -> None:
        while True:
            packet = self._held or next(self._ready, None)
            self._held = packet
            if packet is None or (seconds is not None and _begin(packet) >= seconds):
                return
            self._output.mux(packet)
            self._held = None

    def close(self) -> None:
        self._source.close()

    def _begin(self, stream: Stream) -> Iterator[Packet[Any]]:
        if not isinstance(stream, AudioStream):
            return self._copied(stream, _told(stream, self._output.add_stream_from_template(stream)))
        codec = stream.codec_context.codec.canonical_name
        if codec in self._kind.copied_sound:
            return self._copied(stream, _told(stream, self._output.add_stream_from_template(stream)))
        encoder = self._kind.sound_encoder
        assert encoder is not None
        log.warning("%s: sound is %s, which this container does not take; encoded by %s.", self._path, codec, encoder)
        into = self._output.add_stream(encoder, rate=_ENCODER_RATES.get(encoder, stream.codec_context.sample_rate))
        if not isinstance(into, AudioStream):
            raise UsageError(f"{encoder!r} is no encoder of sound.")
        into.codec_context.layout = "mono" if stream.codec_context.layout.nb_channels == 1 else "stereo"
        return self._encoded(stream, _told(stream, into))

    def _packets(self, stream: AnyStream) -> Iterator[Packet[AnyStream]]:
        assert stream.time_base is not None
        if self._start > 0:
            with contextlib.suppress(av.error.FFmpegError):
                self._source.seek(int(self._start / stream.time_base), stream=stream, backward=True)
        try:
            yield from packets_of(self._source, stream)
        except av.error.FFmpegError as error:
            log.warning("%s: sound ends early (%s).", self._path, error.strerror)

    def _copied(self, stream: Any, into: Any) -> Iterator[Packet[Any]]:
        shift = round(self._start / stream.time_base)
        last: int | None = None
        for packet in self._packets(stream):
            if packet.pts is None:
                continue
            packet.pts -= shift
            packet.dts = packet.pts
            if packet.pts < 0 and not self._may_begin_before_zero(packet):
                continue
            if last is not None and packet.pts <= last:
                self._left_out += 1
                continue
            last = packet.pts
            packet.stream = into
            yield packet
        self._say_left_out()

    def _may_begin_before_zero(self, packet: Packet[Any]) -> bool:
        assert packet.pts is not None
        return self._kind.exact_times and (self._start <= 0 or packet.pts + (packet.duration or 0) > 0)

    def _encoded(self, stream: AudioStream, into: AudioStream) -> Iterator[Packet[AudioStream]]:
        for packet in self._packets(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                self._left_out += 1
                continue
            for frame in frames:
                if frame.pts is not None and frame.time_base is not None:
                    frame.pts -= round(self._start / frame.time_base)
                if frame.pts is None or frame.pts >= 0:
                    yield from into.encode(frame)
        yield from into.encode(None)
        self._say_left_out()

    def _say_left_out(self) -> None:
        if self._left_out:
            log.warning("%s: %d packets of sound that are damaged or out of order were left out.",
                        self._path, self._left_out)  # fmt: skip


def _begin(packet: Packet[Any]) -> Fraction:
    return (packet.pts or 0) * Fraction(packet.time_base)


def _told(stream: Stream, into: Made) -> Made:
    """`into`, with the language and the title of `stream`."""
    into.metadata.update({name: stream.metadata[name] for name in ("language", "title") if name in stream.metadata})
    return into
