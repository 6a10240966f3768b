"""Sound beside the pictures: copied packet by packet with its times, or encoded again where the container demands."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import av.error
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet

from flowguide.errors import UsageError

from .formats import Container
from .source import log, open_container, packets_of

_ENCODER_RATES = {"libopus": 48000}
"""Samples per second of encoders that do not take the source's rate."""


class Sound:
    """The first sound stream of a file that can be read, given to an output bit by bit.

    `start` is the time in the source, in seconds, that becomes 0 in the output; sound before it is left out. Packets
    are copied where the container takes their codec, else decoded and encoded again, which is logged.
    """

    def __init__(self, path: str | os.PathLike[str], start: Fraction, output: OutputContainer, kind: Container) -> None:
        self._path = os.fspath(path)
        self._start = start
        self._output = output
        self._kind = kind
        self._source = open_container(self._path)
        self._held: Packet[AudioStream] | None = None
        self._left_out = 0
        try:
            self._ready = self._choose()
        except BaseException:
            self._source.close()
            raise

    def write_until(self, seconds: Fraction | None) -> None:
        """Give the output all packets that begin before `seconds` of its time; None: all there are."""
        while True:
            packet = self._held or next(self._ready, None)
            self._held = packet
            if packet is None or (seconds is not None and _begin(packet) >= seconds):
                return
            self._output.mux(packet)
            self._held = None

    def close(self) -> None:
        self._source.close()

    def _choose(self) -> Iterator[Packet[AudioStream]]:
        self._say_what_is_left_out()
        if not self._source.streams.audio:
            return iter(())
        stream = next((s for s in self._source.streams.audio if s.codec_context is not None), None)
        if stream is None:
            log.warning("%s: its sound is in no known format; the output has none.", self._path)
            return iter(())
        codec = stream.codec_context.codec.canonical_name
        if codec in self._kind.copied_sound:
            return self._copied(stream, self._output.add_stream_from_template(stream))
        encoder = self._kind.sound_encoder
        if encoder is None:
            log.warning("%s: its sound is left out, because this kind of file holds none.", self._path)
            return iter(())
        log.warning("%s: sound is %s, which this container does not take; encoded by %s.", self._path, codec, encoder)
        into = self._output.add_stream(encoder, rate=_ENCODER_RATES.get(encoder, stream.codec_context.sample_rate))
        if not isinstance(into, AudioStream):
            raise UsageError(f"{encoder!r} is no encoder of sound.")
        into.codec_context.layout = "mono" if stream.codec_context.layout.nb_channels == 1 else "stereo"
        return self._encoded(stream, into)

    def _say_what_is_left_out(self) -> None:
        kinds = Counter(stream.type for stream in self._source.streams if stream.type != "video")
        kinds["audio"] -= 1
        left = [f"{count} {kind}" for kind, count in sorted(kinds.items()) if count > 0]
        if left:
            log.warning("%s: not copied to the output: %s stream(s).", self._path, ", ".join(left))

    def _packets(self, stream: AudioStream) -> Iterator[Packet[AudioStream]]:
        assert stream.time_base is not None
        if self._start > 0:
            with contextlib.suppress(av.error.FFmpegError):
                self._source.seek(int(self._start / stream.time_base), stream=stream, backward=True)
        try:
            yield from packets_of(self._source, stream)
        except av.error.FFmpegError as error:
            log.warning("%s: sound ends early (%s).", self._path, error.strerror)

    def _copied(self, stream: AudioStream, into: AudioStream) -> Iterator[Packet[AudioStream]]:
        assert stream.time_base is not None
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

    def _may_begin_before_zero(self, packet: Packet[AudioStream]) -> bool:
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


def _begin(packet: Packet[AudioStream]) -> Fraction:
    return (packet.pts or 0) * Fraction(packet.time_base)
