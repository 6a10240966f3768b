"""One clip from file to file, in a run that can be interrupted anywhere and gone on with."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..config import Option, RenderConfig, changed, render_config
from ..diffusion.checkpoint import Checkpoint
from ..errors import FlowguideError, UsageError
from ..guidance.rules import anchor_rule, check_given
from ..renderer import Renderer, Styled
from ..shot_lanes import ShotLanes
from ..types import ClipInfo
from ..video import ClipReader, check_output
from ..video.nvenc import nvenc_for
from ..video.source import STDIN
from .assemble import is_published, kept_records, may_be_replaced, output_files, replaced
from .disk import check_room
from .explain import Explainer
from .identity import SAME, TOLD, differences, identity
from .journal import Journal, Record
from .manifest import manifest_path
from .opened import named_output, open_clip, output_codec
from .profiles import note_profile, profile_key, profile_of, profiles_file, read_profiles
from .session import Range, Session, log
from .state_file import state_bytes
from .used import memory_bytes

SEGMENT_FRAMES = 48
"""Frames per segment unless told otherwise: what a killed run has to paint again at most."""


@dataclass(frozen=True)
class RenderReport:
    """What a finished run did."""

    output: Path
    manifest: Path
    frames: int
    """Frames in the output."""
    painted: int
    """Frames painted in this session; the others were there already."""
    shots: int
    seconds: float
    """From the first frame read to the file closed; loading the model is not in it."""
    stage_seconds: dict[str, float]
    losses: list[str]
    """What could not be decoded, in sentences; empty where all was read."""

    @property
    def frames_per_second(self) -> float:
        return self.painted / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Started:
    """What is known before the first frame."""

    frames: int | None
    """Frames expected, or None where the container does not say."""
    size: tuple[int, int]
    model: str
    device: str
    dtype: str
    done: int = 0
    """Frames that earlier sessions painted."""


@dataclass(frozen=True)
class Request:
    """What to do about a run or an output that is there already."""

    resume: bool = False
    """Go on with the run; begin where there is none."""
    overwrite: bool = False
    """Give up the run, and replace the output once the new one is complete."""
    redo: tuple[int, int] | None = None
    """Paint the frames first..last of a finished output again, in whole segments."""


def render(
    source: str | Path,
    output: str | Path,
    *,
    config: RenderConfig | None = None,
    request: Request = Request(),
    segment_frames: int = SEGMENT_FRAMES,
    on_start: Callable[[Started], None] | None = None,
    on_frame: Callable[[Styled], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    explain: Path | None = None,
    checkpoint: Checkpoint | None = None,
    **options: Option,
) -> RenderReport:
    """Paint the clip `source` into the file `output`, with its sound and its exact times.

    config: all settings; `options` are single fields of RenderConfig that go over it (prompt="ink drawing"). For
    frames to be painted again they are what is said differently from the run.
    request: what to do about a run or an output that is there already; by default it is refused to touch either.
    segment_frames: frames after which the run's state is kept, and from key frame to key frame.
    on_start, on_frame: called before the first and after each frame. should_stop: asked after each frame.
    explain: a folder for what guided each frame that is painted now (see `explain.Explainer`).
    checkpoint: the model, already loaded with the same settings; default: it is loaded.
    The output appears under its name only when it is complete, with a manifest `<output>.json` beside it.
    Raises FlowguideError: VideoError, ModelError, UsageError, ScheduleError, Interrupted; each a sentence.
    """
    settings = changed(config or RenderConfig(), **options)
    output = named_output(Path(output), source, settings)
    check_output(output, [source])
    if segment_frames < 1:
        raise UsageError(f"A segment has at least 1 frame, got {segment_frames}.")
    journal = Journal(output)
    if request.redo:
        settings, segment_frames = _of_finished(journal)
    elif not (request.resume or request.overwrite):
        _refuse_to_replace(journal)
    if request.resume and str(source) == STDIN:
        raise UsageError("Standard input can be read once only, so a run on it cannot be resumed; save it as a file.")
    given = {**({name: getattr(config, name) for name in config.model_fields_set} if config else {}), **options}
    codec = output_codec(output, settings)
    if explain is not None:
        on_frame = _explaining(Explainer(explain, settings, may_replace=request != Request()), on_frame)
    with open_clip(source, settings, alpha=bool(codec.alpha_format)) as reader:
        if reader.info.alpha and codec.alpha_format:
            codec = codec.with_alpha()
        elif reader.info.alpha:
            log.warning("%s: its opacity is left out, because the codec of %s has none.", source, output.name)
        painter = ShotLanes if settings.lanes > 1 else Renderer
        renderer = painter(settings, checkpoint=checkpoint, explain=explain is not None)
        on_card = nvenc_for(settings.encoder, output, codec, reader.info.size, renderer.checkpoint.device)
        session = Session(journal, reader, renderer, codec, segment_frames, on_frame, should_stop, on_card)
        if settings.strategy == "anchors":
            rule = anchor_rule(settings.anchors, settings.anchor_frames)
            check_given(rule, _started(reader, session.renderer).frames)
        with journal.locked():
            _take_up(session, source, request)
            if request.redo:
                _note_redo(session, request.redo, given)
            return _carry_out(session, on_start)


def _explaining(explainer: Explainer, on_frame: Callable[[Styled], None] | None) -> Callable[[Styled], None]:
    def both(styled: Styled) -> None:
        explainer.write(styled)
        if on_frame is not None:
            on_frame(styled)

    return both


def _of_finished(journal: Journal) -> tuple[RenderConfig, int]:
    """Settings and segment length of a finished run."""
    if not journal.exists or not is_published(journal):
        raise UsageError(
            f"{journal.output} has no finished run beside it, so no part of it can be painted again; resume it first."
        )
    return render_config(journal.run["settings"]), int(journal.run["segment_frames"])


def _refuse_to_replace(journal: Journal) -> None:
    """Raise where a run or an output is there already; asked before anything is loaded."""
    frames = _frames(journal.records()) if journal.exists else 0
    if output_files(journal.output, 1)[0].exists():
        raise UsageError(f"{journal.output} is there already; choose another name, or --overwrite it.")
    if frames:
        raise UsageError(
            f"{journal.folder} holds {frames} frames of an unfinished run; go on with --resume, or --overwrite it."
        )


def _take_up(session: Session, source: str | Path, request: Request) -> None:
    """Open the run that is there, or begin one."""
    journal = session.journal
    going_on = request.resume or request.redo
    if not going_on and not request.overwrite:
        _refuse_to_replace(journal)
    if not going_on and journal.exists:
        journal.clear()
    now = identity(source, session.renderer, session.segment_frames)
    if session.on_card:
        now["encoder"] = "nvenc"
    if not journal.exists:
        if request.resume and output_files(journal.output, 1)[0].exists():
            raise UsageError(f"{journal.output} is there already, without a run to resume; --overwrite it.")
        check_room(journal.folder, _room_needed(session))
        journal.clear()
        journal.note("joined", {"replaces": replaced(journal.output)})
        journal.begin({**now, "source_path": str(Path(source).absolute())})
        return
    before = journal.run
    changed_parts = differences(before, now, SAME)
    if changed_parts:
        files = any(part.startswith("model.sha256") for part in changed_parts)
        cause = "another input, other settings" + (", or other files of its model" if files else "")
        raise UsageError(
            f"{journal.folder} is a run with {cause} ({'; '.join(changed_parts)}); give the same, or --overwrite it."
        )
    if not may_be_replaced(journal):
        raise UsageError(f"{journal.output} is not what this run wrote; move it away, or --overwrite it.")
    for difference in differences(before, now, TOLD):
        log.warning("%s: %s; new frames may differ in their last bits.", journal.folder, difference)
    journal.tidy()


def _room_needed(session: Session) -> int:
    """Bytes that the run will take, as an earlier one like it did; where none is known, what a few frames take."""
    renderer, size = session.renderer, session.reader.info.size
    earlier = read_profiles(profiles_file()).get(profile_key(renderer, size))
    frames = _started(session.reader, renderer).frames
    if earlier is None or frames is None:
        return 100 * size[0] * size[1]
    return earlier.room_bytes(frames, session.segment_frames)


def _note_redo(session: Session, frames: tuple[int, int], given: dict[str, Option]) -> None:
    journal, length = session.journal, session.segment_frames
    first, last = frames
    total = _frames(journal.records())
    if not 0 <= first <= last < total:
        raise UsageError(f"Frames to paint again should lie in 0-{total - 1}, first to last, got {first}-{last}.")
    before = session.renderer.config
    changes = {name: value for name, value in given.items() if getattr(before, name) != value}
    session.renderer.update(**changes)
    session.renderer.update(**{name: getattr(before, name) for name in changes})
    numbers = {"first": first // length, "end": last // length + 1}
    journal.note("redo", {"frames": [first, last], **numbers, "done": [], "changes": changes})


def _carry_out(session: Session, on_start: Callable[[Started], None] | None) -> RenderReport:
    """Paint what is missing and put the output together."""
    journal = session.journal
    known = kept_records(journal)
    redo = journal.noted("redo")
    if on_start is not None:
        on_start(_started(session.reader, session.renderer, 0 if redo else _frames(known)))
    began = time.perf_counter()
    with _keeping(journal):
        if redo is not None:
            done = len(redo["done"])
            if redo["first"] + done < redo["end"]:
                session.paint(Range(redo["first"] + done, redo["end"], redo["changes"]), keep_states=False)
        elif journal.noted("painted") is None or len(known) < len(journal.records()):
            session.paint(Range(len(known)), keep_states=True)
            journal.note("painted", {"losses": session.reader.losses})
        records = journal.records()
        segments = [journal.segment_path(record.number) for record in records]
        room = sum(path.stat().st_size for path in segments if path.is_file()) / _frames(records)
        session.finish(records)
    if redo is None and session.painted == _frames(records):
        _note_profile(session, room)
    _tell_absent_anchors(session.renderer.config, _frames(records))
    return RenderReport(
        output=journal.output,
        manifest=manifest_path(journal.output),
        frames=_frames(records),
        painted=session.painted,
        shots=records[-1].shots,
        seconds=time.perf_counter() - began,
        stage_seconds=dict(session.renderer.clock.seconds),
        losses=list((journal.noted("painted") or {}).get("losses", [])),
    )


def _tell_absent_anchors(config: RenderConfig, frames: int) -> None:
    """Warn of anchors that the clip turned out not to have; where its length was known they were refused before."""
    if config.strategy != "anchors":
        return
    try:
        check_given(anchor_rule(config.anchors, config.anchor_frames), frames)
    except UsageError as error:
        log.warning("%s Those were left out.", error)


def _note_profile(session: Session, segment_bytes: float) -> None:
    """Tell later dry runs how fast this whole run was."""
    renderer = session.renderer
    profile = profile_of(
        session.frame_seconds,
        memory_bytes=memory_bytes(renderer.checkpoint.device),
        segment_bytes=segment_bytes,
        state_bytes=state_bytes(renderer.state()),
    )
    note_profile(profile_key(renderer, session.reader.info.size), profile)


@contextmanager
def _keeping(journal: Journal) -> Iterator[None]:
    """Whatever stops the run is told with the way to go on; a run of which nothing is kept is removed."""
    try:
        yield
    except BaseException as error:
        frames = _frames(journal.records())
        if not frames:
            journal.clear()
        elif isinstance(error, FlowguideError):
            command = shlex.join(["flowguide", "resume", str(journal.output)])
            error.args = (f"{error} {frames} frames are kept; go on with: {command}",)
        raise


def _frames(records: list[Record]) -> int:
    return sum(len(record.pts) for record in records)


def _started(reader: ClipReader, renderer: Renderer, done: int = 0) -> Started:
    info, config = reader.info, renderer.config
    frames = None if info.frames is None else -(-info.frames // config.every)
    if config.frame_rate is not None or config.start_seconds is not None or config.end_seconds is not None:
        frames = _frames_in_range(info, config)
    if config.max_frames is not None:
        frames = config.max_frames if frames is None else min(frames, config.max_frames)
    checkpoint = renderer.checkpoint
    dtype = str(checkpoint.dtype).removeprefix("torch.")
    return Started(frames, info.size, config.model, str(checkpoint.device), dtype, done)


def _frames_in_range(info: ClipInfo, config: RenderConfig) -> int | None:
    end = config.end_seconds if config.end_seconds is not None else info.duration_seconds
    if end is None or info.frame_rate is None:
        return None
    end = end if info.duration_seconds is None else min(end, info.duration_seconds)
    return max(1, round((end - (config.start_seconds or 0.0)) * float(info.frame_rate)))
