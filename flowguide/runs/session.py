"""One session of a run: paint the segments that are missing, commit each, and put the output together."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from ..config import Option
from ..errors import FlowguideError, Interrupted, VideoError
from ..renderer import Renderer, Styled
from ..types import Frame
from ..video import ClipReader, Codec
from ..video.nvenc import NvencSegment
from ..video.segments import SegmentWriter, copies_packets
from .assemble import assemble, is_published, note_digest, publish_output
from .behind import Behind
from .journal import Journal, Record
from .keeper import Keeper, Painted
from .manifest import manifest, tag, write_manifest
from .state_file import pack

log = logging.getLogger("flowguide.runs")


@dataclass(frozen=True)
class Range:
    """Segments to be painted, and with which settings."""

    first: int
    """Number of the first segment."""
    end: int | None = None
    """Number one past the last, or None for all there are."""
    changes: dict[str, Option] = field(default_factory=dict)


@dataclass
class Session:
    """Works in a locked run folder."""

    journal: Journal
    reader: ClipReader
    renderer: Renderer
    codec: Codec
    segment_frames: int
    on_frame: Callable[[Styled], None] | None = None
    should_stop: Callable[[], bool] | None = None
    on_card: bool = False
    """Whether NVENC encodes."""
    painted: int = 0
    """Frames painted for the output in this session."""
    frame_seconds: list[float] = field(default_factory=list)
    """What each of them took."""

    def paint(self, wanted: Range, *, keep_states: bool) -> None:
        """Paint the segments `wanted`, from the nearest state before them on, and commit each."""
        number, state = self.journal.nearest_state(wanted.first)
        if state is not None:
            self.renderer.restore(state)
        frames = iter(self.reader)
        finished = sum(len(record.pts) for record in self.journal.records()[:number])
        skipped = sum(1 for _ in itertools.islice(frames, finished))
        if skipped < finished:
            raise VideoError(f"{self.reader.info.path} ends after {skipped} frames, where the run has more already.")
        with Keeper(self.journal, self._thinned if keep_states else self._redone) as keeper:
            while number != wanted.end:
                if number == wanted.first and wanted.changes:
                    self.renderer.update(**wanted.changes)
                with self.renderer.clock("read"):
                    first = next(frames, None)
                if first is None:
                    return
                batch = itertools.chain([first], itertools.islice(frames, self.segment_frames - 1))
                if number < wanted.first:
                    for _ in self._painted(batch):
                        continue
                else:
                    self._paint_segment(keeper, number, batch, keep_states)
                number += 1

    def _paint_segment(self, keeper: Keeper, number: int, frames: Iterator[Frame], keep_state: bool) -> None:
        began, shots, first = time.perf_counter(), 0, number * self.segment_frames
        anchors: list[int] = []
        with self._segment_writer(number) as writer, Behind() as behind:
            before, written = began, 0
            for styled in self._painted(frames):
                with self.renderer.clock("write"):
                    behind.write(writer, styled.frame(deep=self.codec.deep))
                shots, written = styled.shot + 1, written + 1
                anchors += [styled.source.index] * styled.is_anchor
                self.painted += 1
                now = time.perf_counter()
                self.frame_seconds.append(now - before)
                before = now
                if self.on_frame is not None:
                    self.on_frame(styled)
                if written < self.segment_frames:
                    self._stop_if_asked(first + written)
            with self.renderer.clock("write"):
                behind.settle()
            with self.renderer.clock("journal"):
                state = pack(self.renderer.state()) if keep_state else None
                keeper.keep(Painted(number, first, writer, state, shots, began, anchors))
        self._stop_if_asked(first + written)

    def _thinned(self, painted: Painted) -> None:
        self.journal.thin_states(painted.number + 1)

    def _redone(self, painted: Painted) -> None:
        self.journal.note_redone(painted.number)

    def _stop_if_asked(self, frames: int) -> None:
        if self.should_stop is not None and self.should_stop():
            raise Interrupted(f"Stopped after {frames} frames.")

    def _segment_writer(self, number: int) -> SegmentWriter | NvencSegment:
        info, path, output = self.reader.info, self.journal.segment_path(number), self.journal.output
        if self.on_card:
            return NvencSegment(
                path, output, self.codec, size=info.size, time_base=info.time_base, rate=info.frame_rate,
                device=self.renderer.checkpoint.device,
            )  # fmt: skip
        return SegmentWriter(path, output, self.codec, size=info.size, time_base=info.time_base, rate=info.frame_rate)

    def _painted(self, frames: Iterator[Frame]) -> Iterator[Styled]:
        """The painted frames, with an exhausted memory told as a sentence."""
        try:
            yield from self.renderer(frames)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
                raise
            height, width = self.reader.info.size
            raise FlowguideError(
                f"Out of memory at {width}x{height}. Choose a smaller --size, or --dtype bfloat16 where it is float32."
            ) from error

    def finish(self, records: list[Record]) -> None:
        """Put the output together and publish it, unless it stands already, and write its manifest."""
        journal, redo = self.journal, self.journal.noted("redo")
        again = list((journal.noted("redone") or {}).get("ranges", []))
        if redo is not None and redo not in again:
            again.append({"frames": redo["frames"], "settings": redo["changes"]})
        frames, seconds = sum(len(record.pts) for record in records), sum(record.seconds for record in records)
        anchors = [index for record in records for index in record.anchors]
        content = manifest(
            journal.run, journal.output, frames=frames, seconds=seconds, painted_again=again, anchors=anchors
        )
        if not is_published(journal):
            sound = self.renderer.config.audio and self.reader.info.audio_codec is not None
            made = assemble(journal, records, self.reader, self.codec, tag(content), sound=sound)
            note_digest(journal, made, frames)
            publish_output(made, journal.output, frames)
        write_manifest(journal.output, content)
        journal.note("redone", {"ranges": again})
        journal.forget("redo")
        journal.remove_whole()
        if copies_packets(journal.output):
            journal.remove_segments()
        journal.remove_states(len(records))


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
