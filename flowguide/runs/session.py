"""One session of a run: paint the segments that are missing, commit each, and put the output together."""

from __future__ import annotations

import itertools
import logging
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch

from ..config import Option
from ..errors import FlowguideError, Interrupted, VideoError
from ..renderer import Styled
from ..timing import StageClock
from ..types import ClipInfo
from ..video import ClipReader, Codec
from ..video.nvenc import NvencSegment
from ..video.segments import SegmentWriter, copies_packets
from .assemble import assemble, is_published, kept_records, note_digest, publish_output
from .behind import Behind
from .journal import STATES_KEPT, Journal, Record, frames_in
from .keeper import Keeper, Painted
from .manifest import manifest, tag, write_manifest
from .state_file import pack

log = logging.getLogger("flowguide.runs")

Given = TypeVar("Given")
Read = TypeVar("Read", covariant=True)
Taken = TypeVar("Taken", contravariant=True)


class Frames(Protocol[Read]):
    """What a session reads, once: frames, or whatever its painter takes."""

    @property
    def info(self) -> ClipInfo:
        """The output's size, times and rate; `path` is told where something is wrong."""
        ...

    @property
    def losses(self) -> list[str]:
        """What could not be decoded so far, in sentences."""
        ...

    def __iter__(self) -> Iterator[Read]: ...


class Painter(Protocol[Taken]):
    """What finishes frames: it can be left after any call and gone on with."""

    clock: StageClock

    def __call__(self, frames: Iterable[Taken], /) -> Iterator[Styled]:
        """The finished frames in order, all of them by the end."""
        ...

    def state(self) -> dict[str, Any]:
        """All that the next frame needs, between two calls."""
        ...

    def restore(self, state: Mapping[str, Any], /) -> None:
        """Go on after the frame at which `state` was taken."""


@dataclass(frozen=True)
class Range:
    """Segments to be painted, and with which settings."""

    first: int
    """Number of the first segment."""
    end: int | None = None
    """Number one past the last, or None for all there are."""
    changes: dict[str, Option] = field(default_factory=dict)


@dataclass
class Session(Generic[Given]):
    """Works in a locked run folder."""

    journal: Journal
    reader: Frames[Given]
    painter: Painter[Given]
    codec: Codec
    segment_frames: int
    on_frame: Callable[[Styled], None] | None = None
    should_stop: Callable[[], bool] | None = None
    sound: ClipReader | None = None
    """The clip whose sound is copied."""
    card: torch.device | None = None
    """The device whose NVENC encodes."""
    update: Callable[..., None] | None = None
    """Changes settings of the painter between two frames; None where no range can be painted again."""
    notes: Callable[[Sequence[Record]], list[str]] = lambda records: []
    """What is to be told of the whole run, in sentences; asked when all is painted."""
    advice: str = ""
    """What to do where the memory is exhausted."""
    painted: int = 0
    """Frames painted for the output in this session."""
    frame_seconds: list[float] = field(default_factory=list)
    """What each of them took."""
    segment_bytes: float = 0.0
    """Room per frame that the segments took."""

    def carry_out(self, on_begin: Callable[[int], None] | None = None) -> list[Record]:
        """Paint what is missing and put the output together; its segments.

        on_begin: called with the number of frames that earlier sessions painted.
        """
        journal = self.journal
        known = kept_records(journal)
        redo = journal.noted("redo")
        if on_begin is not None:
            on_begin(0 if redo else frames_in(known))
        with _keeping(journal):
            if redo is not None:
                done = len(redo["done"])
                if redo["first"] + done < redo["end"]:
                    self.paint(Range(redo["first"] + done, redo["end"], redo["changes"]), keep_states=False)
            elif journal.noted("painted") is None or len(known) < len(journal.records()):
                self.paint(Range(len(known)), keep_states=True)
                notes = self.notes(journal.records())
                journal.note("painted", {"losses": self.reader.losses, "notes": notes})
            records = journal.records()
            segments = [journal.segment_path(record.number) for record in records]
            room = sum(path.stat().st_size for path in segments if path.is_file())
            self.segment_bytes = room / frames_in(records)
            self.finish(records)
        for note in told(journal, "notes"):
            log.warning("%s", note)
        return records

    def paint(self, wanted: Range, *, keep_states: bool) -> None:
        """Paint the segments `wanted`, from the nearest state before them on, and commit each."""
        number, state = self.journal.nearest_state(wanted.first)
        if state is not None:
            self.painter.restore(state)
        frames = iter(self.reader)
        finished = frames_in(self.journal.records()[:number])
        skipped = sum(1 for _ in itertools.islice(frames, finished))
        if skipped < finished:
            raise VideoError(f"{self.reader.info.path} ends after {skipped} frames, where the run has more already.")
        with Keeper(self.journal, self._thinned if keep_states else self._redone) as keeper:
            while number != wanted.end:
                if number == wanted.first and wanted.changes:
                    assert self.update is not None
                    self.update(**wanted.changes)
                with self.painter.clock("read"):
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

    def _paint_segment(self, keeper: Keeper, number: int, frames: Iterator[Given], keep_state: bool) -> None:
        began, shots, first = time.perf_counter(), 0, number * self.segment_frames
        clock, before_it = self.painter.clock, dict(self.painter.clock.seconds)
        anchors, carried = list[int](), 0.0
        with self._segment_writer(number) as writer, Behind() as behind:
            before, written = began, 0
            for styled in self._painted(frames):
                with clock("write"):
                    behind.write(writer, styled.frame(deep=self.codec.deep))
                shots, written = styled.shot + 1, written + 1
                anchors += [styled.source.index] * styled.is_anchor
                carried += styled.confident_share or 0.0
                self.painted += 1
                now = time.perf_counter()
                self.frame_seconds.append(now - before)
                before = now
                if self.on_frame is not None:
                    self.on_frame(styled)
                if written < self.segment_frames:
                    self._stop_if_asked(first + written)
            with clock("write"):
                behind.settle()
            with clock("journal"):
                state = pack(self.painter.state()) if keep_state else None
                keeper.settle()
            stages = {name: round(total - before_it.get(name, 0.0), 6) for name, total in clock.seconds.items()}
            keeper.keep(Painted(number, first, writer, state, shots, began, anchors, carried, stages))
        self._stop_if_asked(first + written)

    def _thinned(self, painted: Painted) -> None:
        self.journal.thin_states(painted.number + 1, 1 if self.update is None else STATES_KEPT)

    def _redone(self, painted: Painted) -> None:
        self.journal.note_redone(painted.number)

    def _stop_if_asked(self, frames: int) -> None:
        if self.should_stop is not None and self.should_stop():
            raise Interrupted(f"Stopped after {frames} frames.")

    def _segment_writer(self, number: int) -> SegmentWriter | NvencSegment:
        info, path, output = self.reader.info, self.journal.segment_path(number), self.journal.output
        if self.card is not None:
            return NvencSegment(
                path, output, self.codec, size=info.size, time_base=info.time_base, rate=info.frame_rate,
                device=self.card,
            )  # fmt: skip
        return SegmentWriter(path, output, self.codec, size=info.size, time_base=info.time_base, rate=info.frame_rate)

    def _painted(self, frames: Iterator[Given]) -> Iterator[Styled]:
        """The painted frames, with an exhausted memory told as a sentence."""
        try:
            yield from self.painter(frames)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
                raise
            height, width = self.reader.info.size
            raise FlowguideError(f"Out of memory at {width}x{height}. {self.advice}") from error

    def finish(self, records: list[Record]) -> None:
        """Put the output together and publish it, unless it stands already, and write its manifest."""
        journal, redo = self.journal, self.journal.noted("redo")
        again = list((journal.noted("redone") or {}).get("ranges", []))
        if redo is not None and redo not in again:
            again.append({"frames": redo["frames"], "settings": redo["changes"]})
        notes = [*told(journal, "losses"), *told(journal, "notes")]
        content = manifest(journal.run, journal.output, records, painted_again=again, notes=notes)
        if not is_published(journal):
            made = assemble(journal, records, self.reader.info, self.codec, tag(content), self.sound)
            note_digest(journal, made, frames_in(records))
            publish_output(made, journal.output, frames_in(records))
        write_manifest(journal.output, content)
        journal.note("redone", {"ranges": again})
        journal.forget("redo")
        journal.remove_whole()
        if copies_packets(journal.output):
            journal.remove_segments()
        journal.remove_states(0 if self.update is None else len(records))


def told(journal: Journal, what: str) -> list[str]:
    """The 'losses' or 'notes' of a run that is painted."""
    return list((journal.noted("painted") or {}).get(what, []))


@contextmanager
def _keeping(journal: Journal) -> Iterator[None]:
    """Whatever stops the run is told with the way to go on; a run of which nothing is kept is removed."""
    try:
        yield
    except BaseException as error:
        frames = frames_in(journal.records())
        if not frames:
            journal.clear()
        elif isinstance(error, FlowguideError):
            command = shlex.join(["flowguide", "resume", str(journal.output)])
            error.args = (f"{error} {frames} frames are kept; go on with: {command}",)
        raise


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
