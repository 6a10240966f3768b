"""From the run folder to the output: segments joined, or encoded once where packets cannot be copied."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..types import ClipInfo, Frame
from ..video import ClipReader, ClipWriter, Codec
from ..video.formats import NUMBERED
from ..video.segments import Segment, copies_packets, join
from .durable import publish
from .identity import file_digest
from .journal import Journal, Record


def assemble(
    journal: Journal,
    records: Sequence[Record],
    info: ClipInfo,
    codec: Codec,
    metadata: Mapping[str, str],
    audio_from: ClipReader | None,
) -> Path:
    """Put the output together inside the run folder and return where it is."""
    made = journal.whole_folder() / journal.output.name
    if copies_packets(journal.output):
        segments = [_segment(journal, record) for record in records]
        join(
            segments, made, codec, size=info.size, time_base=info.time_base, rate=info.frame_rate,
            audio_from=audio_from, metadata=metadata,
        )  # fmt: skip
        return made
    with ClipWriter(
        made,
        size=info.size,
        time_base=info.time_base,
        frame_rate=info.frame_rate,
        audio_from=audio_from,
        codec=codec,
        metadata=metadata,
    ) as writer:
        for record in records:
            with ClipReader(journal.segment_path(record.number), alpha=True, deep=codec.deep) as stored:
                for place, (pts, frame) in enumerate(zip(record.pts, stored, strict=True)):
                    writer.write(Frame(frame.rgb, record.first + place, pts, info.time_base, frame.alpha))
    return made


def _segment(journal: Journal, record: Record) -> Segment:
    """The segment's own file, or its packets in the output."""
    path = journal.segment_path(record.number)
    if path.is_file():
        return Segment(path, record.pts, record.order)
    return Segment(journal.output, record.pts, record.order, skip=record.first)


def output_files(output: Path, frames: int) -> list[Path]:
    """The files that an output of so many frames consists of."""
    if not NUMBERED.search(output.name):
        return [output]
    return [output.with_name(output.name % number) for number in range(frames)]


def output_digest(output: Path, frames: int) -> str | None:
    """SHA-256 over the files of an output, or None where one is not there."""
    files = output_files(output, frames)
    if not all(path.is_file() for path in files):
        return None
    return hashlib.sha256("".join(file_digest(path) for path in files).encode()).hexdigest()


def replaced(output: Path) -> str | None:
    """Digest of an output that a new run is allowed to replace."""
    return output_digest(output, 1)


def note_digest(journal: Journal, made: Path, frames: int) -> None:
    """Note what is about to be published, so that a run killed right after it knows its own output."""
    digest, before, redo = output_digest(made, frames), journal.noted("joined") or {}, journal.noted("redo")
    if redo is not None:
        journal.note("redo", {**redo, "joined": digest})
    journal.note("joined", {**before, "sha256": digest, "before": before.get("sha256"), "frames": frames})


def is_published(journal: Journal) -> bool:
    """Whether the output stands under its name, with all that was asked for in it."""
    joined, redo = journal.noted("joined") or {}, journal.noted("redo")
    if not joined.get("sha256") or (redo is not None and redo.get("joined") != joined["sha256"]):
        return False
    return bool(output_digest(journal.output, joined.get("frames", 1)) == joined["sha256"])


def may_be_replaced(journal: Journal) -> bool:
    """Whether what stands under the output's name is this run's, or what this run was told to replace."""
    joined = journal.noted("joined") or {}
    first = output_files(journal.output, 1)[0]
    if not first.exists() or output_digest(journal.output, 1) == joined.get("replaces"):
        return True
    return output_digest(journal.output, joined.get("frames", 1)) in _digests(journal)


def _digests(journal: Journal) -> set[str]:
    joined = journal.noted("joined") or {}
    return {joined[name] for name in ("sha256", "before") if joined.get(name)}


def kept_records(journal: Journal) -> list[Record]:
    """The segments that need not be painted: their own files are whole, or the output holds them."""
    frames = (journal.noted("joined") or {}).get("frames", 1)
    held = copies_packets(journal.output) and output_digest(journal.output, frames) in _digests(journal)
    return list(itertools.takewhile(lambda record: held or journal.is_whole(record), journal.records()))


def publish_output(made: Path, output: Path, frames: int) -> None:
    """Give what is complete its final name."""
    for source, target in zip(output_files(made, frames), output_files(output, frames), strict=True):
        publish(source, target)
