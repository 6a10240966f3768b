"""Steadying from file to file: a source, the same clip painted by anything, and the steady result."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..alignment import LOOKED_AT, Alignment, align, pairs
from ..config import Option, RenderConfig, SteadyConfig, changed
from ..errors import UsageError
from ..guidance.anchors import Finished
from ..guidance.rules import anchor_rule, check_given
from ..machine import choose_threads
from ..renderer import Styled
from ..steady import Steadier
from ..types import ClipInfo, Frame
from ..video import ClipReader, check_output
from ..video.source import STDIN
from .clip import SEGMENT_FRAMES, RenderReport, Started, absent_anchors
from .identity import identity
from .journal import Journal, Record, frames_in
from .manifest import manifest_path
from .opened import output_codec
from .request import Request, refuse_to_replace, take_up
from .session import Session, told

SAME_ASPECT = 0.02
"""Relative difference of aspect up to which the source is simply scaled to the painted size."""
LEAST_CARRIED = 0.05
"""Share of the frames below which steadying is told to have done nothing."""
SAME_RATE = 0.005
"""Relative difference of frame rates up to which they count as one."""

Pair = tuple[Frame, Frame]
"""A frame of the source, and its painted picture."""


@dataclass(frozen=True)
class SteadyReport(RenderReport):
    """What was done."""

    anchors: list[int]
    """Frames of the output from which the others were carried; what they show of earlier ones is carried as well."""
    confident_share: float
    """Mean share of the frames that was carried."""
    alignment: Alignment
    notes: list[str]
    """How the two clips differ, and what else is to be known, in sentences."""

    @property
    def told(self) -> list[str]:
        count = len(self.anchors)
        return [f"{count} anchor" if count == 1 else f"{count} anchors", f"{self.confident_share:.0%} carried"]


def steady_clip(
    source: str | Path,
    painted: str | Path,
    output: str | Path,
    *,
    config: SteadyConfig | None = None,
    request: Request = Request(),  # noqa: B008
    segment_frames: int = SEGMENT_FRAMES,
    on_start: Callable[[Started], None] | None = None,
    on_frame: Callable[[Styled], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **options: Option,
) -> SteadyReport:
    """Steady the clip `painted`, made from `source` by whatever tool, into `output`; no model is needed.

    The output has the painted clip's size, times and sound. Differences in offset, frame rate, size and length are
    found and stand in the report's `notes`.
    config, request, on_start, on_frame, should_stop, options: as of `render`; no range can be steadied again.
    segment_frames: frames after which the run's state is kept; the last of them is an anchor.
    Raises FlowguideError: VideoError, UsageError, Interrupted; each a sentence.
    """
    settings, output = changed(config or SteadyConfig(), **options), Path(output)
    journal = _asked(source, painted, output, request, segment_frames)
    rule = anchor_rule(settings.anchors, settings.anchor_frames)
    codec = output_codec(output, RenderConfig(codec=settings.codec, crf=settings.crf))
    torch.set_num_threads(choose_threads(settings.threads))
    alignment, notes = aligned(source, painted, settings.offset)
    with ExitStack() as opened:
        theirs = opened.enter_context(ClipReader(painted))
        ours = opened.enter_context(_source_reader(source, theirs.info, notes))
        frames = Pairs(ours, theirs, alignment, settings.max_frames)
        if frames.count:
            check_given(rule, frames.count)
        sound = _sound(settings, ours, theirs, alignment, notes)
        if sound is not None and settings.max_frames is not None:
            sound = opened.enter_context(ClipReader(sound.info.path, max_frames=settings.max_frames))
        painter = SteadyPainter(settings)
        session = Session(
            journal, frames, painter, codec, segment_frames, on_frame, should_stop,
            sound=sound,
            notes=lambda records: notes + frames.ends() + _afterwards(settings, Path(painted).name, records),
            advice="Choose fewer --anchor-frames, which wait in memory, or close other programs.",
        )  # fmt: skip
        clips = {"source": source, "stylised": painted}
        with journal.locked():
            now = identity(
                clips, settings, segment_frames=segment_frames, flow=painter.steadier.flow_name,
                device=torch.device("cpu"), alignment=asdict(alignment),
            )  # fmt: skip
            height, width = theirs.info.size
            take_up(journal, request, now=now, clips=clips, room_bytes=lambda: 100 * height * width)
            return _carry_out(session, frames, alignment, on_start)


def _asked(source: str | Path, painted: str | Path, output: Path, request: Request, segment_frames: int) -> Journal:
    """The journal of a request that can be met, as far as that is known before the clips are opened."""
    check_output(output, [source, painted])
    if segment_frames < 1:
        raise UsageError(f"A segment has at least 1 frame, got {segment_frames}.")
    if request.redo:
        raise UsageError("No range of a steadied clip can be steadied again; --overwrite the whole with other options.")
    if STDIN in (str(source), str(painted)):
        raise UsageError("Both clips are read more than once, and standard input can be once only; save it as a file.")
    journal = Journal(output)
    if not (request.resume or request.overwrite):
        refuse_to_replace(journal)
    return journal


def _carry_out(
    session: Session[Pair], frames: Pairs, alignment: Alignment, on_start: Callable[[Started], None] | None
) -> SteadyReport:
    journal, began = session.journal, time.perf_counter()

    def begin(done: int) -> None:
        if on_start is not None:
            on_start(Started(frames.count, frames.info.size, None, "cpu", "float32", done))

    records = session.carry_out(begin)
    return SteadyReport(
        output=journal.output,
        manifest=manifest_path(journal.output),
        frames=frames_in(records),
        painted=session.painted,
        shots=records[-1].shots,
        seconds=time.perf_counter() - began,
        stage_seconds=dict(session.painter.clock.seconds),
        losses=told(journal, "losses"),
        anchors=[index for record in records for index in record.anchors],
        confident_share=sum(record.carried for record in records) / frames_in(records),
        alignment=alignment,
        notes=told(journal, "notes"),
    )


class Pairs:
    """The frames of two clips that belong together, read once."""

    def __init__(self, ours: ClipReader, theirs: ClipReader, alignment: Alignment, most: int | None):
        """most: pairs at most."""
        self.info: ClipInfo = theirs.info
        self._ours, self._theirs, self._alignment, self._most = ours, theirs, alignment, most
        self._given = 0

    @property
    def count(self) -> int | None:
        """Pairs expected, or None where a container does not say."""
        counts = [self._theirs.info.frames, self._ours.info.frames]
        if None in counts:
            return None
        offset = self._alignment.offset
        left = min((counts[0] or 0) - max(0, -offset), (counts[1] or 0) - max(0, offset))
        return max(0, left if self._most is None else min(left, self._most))

    @property
    def losses(self) -> list[str]:
        """What could not be decoded so far."""
        return [f"{_name(reader)}: {loss}" for reader in (self._ours, self._theirs) for loss in reader.losses]

    def __iter__(self) -> Iterator[Pair]:
        for pair in itertools.islice(pairs(self._ours, self._theirs, self._alignment), self._most):
            self._given += 1
            yield pair
        if not self._given:
            raise UsageError(
                f"{_name(self._theirs)} and {_name(self._ours)} have no frame in common at an offset of "
                f"{self._alignment.offset}."
            )

    def ends(self) -> list[str]:
        """What is left of the clip that is longer, once the pairs are read; not where so many were asked for."""
        if self._given == self._most:
            return []
        ours, theirs = _name(self._ours), _name(self._theirs)
        left = sum(1 for _ in self._theirs)
        if left:
            return [f"{theirs} is longer than {ours}; its last {left} frames are left out."]
        if next(iter(self._ours), None) is not None:
            return [f"{ours} is longer than {theirs}; the output ends with the latter."]
        return []


class SteadyPainter:
    """A Steadier as a session has it: pairs in, finished frames out, all of them by the end of a call."""

    def __init__(self, config: SteadyConfig):
        self.steadier = Steadier(config)
        self.clock = self.steadier.clock

    def __call__(self, frames: Iterable[Pair], /) -> Iterator[Styled]:
        source = self.steadier.ahead(frames)
        while True:
            with self.clock("read"):
                pair = next(source, None)
            if pair is None:
                break
            yield from self._styled(self.steadier.add(*pair))
        yield from self._styled(self.steadier.settle())

    def _styled(self, finished: Iterator[Finished]) -> Iterator[Styled]:
        began = dict(self.clock.seconds)
        for done in finished:
            spent = {name: total - began.get(name, 0.0) for name, total in self.clock.seconds.items()}
            shot = self.steadier.shots - 1
            yield Styled(done.picture, done.frame, shot, done.confident_share, spent, is_anchor=done.is_anchor)
            began = dict(self.clock.seconds)

    def state(self) -> dict[str, Any]:
        return self.steadier.state()

    def restore(self, state: Mapping[str, Any], /) -> None:
        self.steadier.restore(state)


def _name(reader: ClipReader) -> str:
    return Path(reader.info.path).name


def _afterwards(config: SteadyConfig, painted: str, records: Sequence[Record]) -> list[str]:
    """What is known once all is steadied."""
    frames = frames_in(records)
    carried = sum(record.carried for record in records)
    absent = absent_anchors(config.anchors, config.anchor_frames, frames)
    return absent + _left_alone(painted, frames, records[-1].shots, carried)


def _left_alone(painted: str, frames: int, shots: int, carried: float) -> list[str]:
    """Whether next to nothing could be steadied; `carried`: sum of the shares of the frames that were carried."""
    if shots == frames > 1:
        return [f"Every frame of the source is a shot of its own: the frames of {painted} come out as they went in."]
    if frames > shots and carried < LEAST_CARRIED * (frames - shots):
        return [f"Hardly anything in the source could be followed: most of {painted} comes out as it went in."]
    return []


def aligned(source: str | Path, painted: str | Path, offset: int | None) -> tuple[Alignment, list[str]]:
    """How two clips correspond, by their beginnings, and what to tell about it. A given `offset` is not doubted."""
    small = "192x192"
    with (
        ClipReader(source, size=small, max_frames=LOOKED_AT) as ours,
        ClipReader(painted, size=small, max_frames=LOOKED_AT) as theirs,
    ):
        rates = ours.info.frame_rate, theirs.info.frame_rate
        same = rates[0] is None or rates[1] is None or abs(rates[0] / rates[1] - 1) <= SAME_RATE
        found = align(list(ours), list(theirs), same_rate=same)
    if offset is not None:
        found = Alignment(offset, found.by, None)
    notes, names = list[str](), (Path(source).name, Path(painted).name)
    if not same:
        assert rates[0] is not None
        assert rates[1] is not None
        how = (
            "each painted frame shows the source frame nearest in time" if found.by == "time" else "frames are counted"
        )
        notes.append(
            f"{names[1]} has {float(rates[1]):.3g} frames per second, {names[0]} {float(rates[0]):.3g}: {how}."
        )
    if found.offset > 0:
        notes.append(f"{names[1]} begins {found.offset} frames after {names[0]}.")
    if found.offset < 0:
        notes.append(f"{names[1]} begins {-found.offset} frames before {names[0]}; those frames are left out.")
    return found, notes


def _source_reader(source: str | Path, painted: ClipInfo, notes: list[str]) -> ClipReader:
    """The source at the painted size. Raises UsageError where the pictures differ in aspect."""
    plain = ClipReader(source)
    (height, width), (painted_height, painted_width) = plain.info.size, painted.size
    plain.close()
    if abs(width / height / (painted_width / painted_height) - 1) > SAME_ASPECT:
        raise UsageError(
            f"{source} is {width}x{height} and {painted.path} {painted_width}x{painted_height}, of another aspect; "
            "crop one of them."
        )
    if (height, width) != painted.size:
        notes.append(
            f"{Path(source).name} is {width}x{height} and is scaled to the painted {painted_width}x{painted_height}."
        )
    return ClipReader(source, size=painted.size)


def _sound(
    settings: SteadyConfig, ours: ClipReader, theirs: ClipReader, alignment: Alignment, notes: list[str]
) -> ClipReader | None:
    """Where the sound comes from: the painted clip, or the source where both run alike."""
    if not settings.audio:
        return None
    if theirs.info.audio_codec is not None:
        return theirs
    if ours.info.audio_codec is None:
        return None
    if alignment.offset == 0 and (alignment.by == "time" or ours.info.frame_rate == theirs.info.frame_rate):
        return ours
    notes.append(f"{_name(theirs)} has no sound, and that of {_name(ours)} does not fit its times; left out.")
    return None
