"""One clip from file to file, in a run that can be interrupted anywhere and gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..config import Option, RenderConfig, changed, render_config
from ..diffusion.checkpoint import Checkpoint
from ..errors import UsageError
from ..guidance.rules import anchor_rule, check_given
from ..renderer import Renderer, Styled
from ..shot_lanes import ShotLanes
from ..types import ClipInfo, Frame
from ..video import ClipReader, check_output
from ..video.nvenc import nvenc_for
from ..video.source import STDIN
from .assemble import is_published
from .explain import Explainer
from .identity import identity
from .journal import Journal, Record, frames_in
from .manifest import manifest_path
from .opened import named_output, open_clip, output_codec, tell_what_stays
from .profiles import note_profile, profile_key, profile_of, profiles_file, read_profiles
from .request import Request, refuse_another_command, refuse_to_replace, take_up
from .session import Session, log, told
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

    @property
    def told(self) -> list[str]:
        """What else is told beside frames and shots, in a few words each."""
        return []


@dataclass(frozen=True)
class Started:
    """What is known before the first frame."""

    frames: int | None
    """Frames expected, or None where the container does not say."""
    size: tuple[int, int]
    model: str | None
    """None where no model paints."""
    device: str
    dtype: str
    done: int = 0
    """Frames that earlier sessions painted."""


def render(
    source: str | Path,
    output: str | Path,
    *,
    config: RenderConfig | None = None,
    request: Request = Request(),  # noqa: B008
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
        refuse_to_replace(journal)
    if request.resume and str(source) == STDIN:
        raise UsageError("Standard input can be read once only, so a run on it cannot be resumed; save it as a file.")
    given = {**({name: getattr(config, name) for name in config.model_fields_set} if config else {}), **options}
    codec = output_codec(output, settings)
    if explain is not None:
        on_frame = _explaining(Explainer(explain, settings, may_replace=request != Request()), on_frame)
    tell_what_stays(settings)
    with open_clip(source, settings, alpha=bool(codec.alpha_format)) as reader:
        if reader.info.alpha and codec.alpha_format:
            codec = codec.with_alpha()
        elif reader.info.alpha:
            log.warning("%s: its opacity is left out, because the codec of %s has none.", source, output.name)
        painter = ShotLanes if settings.lanes > 1 else Renderer
        renderer = painter(settings, checkpoint=checkpoint, explain=explain is not None)
        on_card = nvenc_for(settings.encoder, output, codec, reader.info.size, renderer.checkpoint.device)
        if settings.strategy == "anchors":
            rule = anchor_rule(settings.anchors, settings.anchor_frames)
            check_given(rule, _started(reader, renderer).frames)
        session = Session(
            journal, reader, renderer, codec, segment_frames, on_frame, should_stop,
            sound=reader if settings.audio and reader.info.audio_codec is not None else None,
            card=renderer.checkpoint.device if on_card else None,
            update=renderer.update,
            notes=lambda records: _notes(settings, records),
            advice="Choose a smaller --size, or --dtype bfloat16 where it is float32.",
        )  # fmt: skip
        with journal.locked():
            now = _identity(source, renderer, segment_frames, on_card=on_card)
            room = partial(_room_needed, reader, renderer, segment_frames)
            take_up(journal, request, now=now, clips={"source": source}, room_bytes=room)
            if request.redo:
                _note_redo(journal, renderer, request.redo, given)
            return _carry_out(session, reader, renderer, on_start)


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
    refuse_another_command(journal, steady=False)
    return render_config(journal.run["settings"]), int(journal.run["segment_frames"])


def _identity(source: str | Path, renderer: Renderer, segment_frames: int, *, on_card: bool) -> dict[str, Any]:
    checkpoint, config = renderer.checkpoint, renderer.config
    model = {
        "name": config.model,
        "sha256": checkpoint.digest(),
        "device": str(checkpoint.device),
        "dtype": str(checkpoint.dtype).removeprefix("torch."),
    }
    encoder = {"encoder": "nvenc"} if on_card else {}
    return identity(
        {"source": source}, config, segment_frames=segment_frames, flow=renderer.flow_name, device=checkpoint.device,
        model=model, **encoder,
    )  # fmt: skip


def _room_needed(reader: ClipReader, renderer: Renderer, segment_frames: int) -> int:
    """Bytes that the run will take, as an earlier one like it did; where none is known, what a few frames take."""
    size = reader.info.size
    earlier = read_profiles(profiles_file()).get(profile_key(renderer, size))
    frames = _started(reader, renderer).frames
    if earlier is None or frames is None:
        return 100 * size[0] * size[1]
    return earlier.room_bytes(frames, segment_frames)


def _note_redo(journal: Journal, renderer: Renderer, frames: tuple[int, int], given: dict[str, Option]) -> None:
    length = int(journal.run["segment_frames"])
    first, last = frames
    total = frames_in(journal.records())
    if not 0 <= first <= last < total:
        raise UsageError(f"Frames to paint again should lie in 0-{total - 1}, first to last, got {first}-{last}.")
    before = renderer.config
    changes = {name: value for name, value in given.items() if getattr(before, name) != value}
    renderer.update(**changes)
    renderer.update(**{name: getattr(before, name) for name in changes})
    numbers = {"first": first // length, "end": last // length + 1}
    journal.note("redo", {"frames": [first, last], **numbers, "done": [], "changes": changes})


def _carry_out(
    session: Session[Frame], reader: ClipReader, renderer: Renderer, on_start: Callable[[Started], None] | None
) -> RenderReport:
    """Paint what is missing and put the output together."""
    journal = session.journal
    is_redo = journal.noted("redo") is not None
    began = time.perf_counter()

    def begin(done: int) -> None:
        nonlocal began
        if on_start is not None:
            on_start(_started(reader, renderer, done))
        began = time.perf_counter()

    records = session.carry_out(begin)
    frames = frames_in(records)
    if not is_redo and session.painted == frames:
        _note_profile(session, renderer)
    return RenderReport(
        output=journal.output,
        manifest=manifest_path(journal.output),
        frames=frames,
        painted=session.painted,
        shots=records[-1].shots,
        seconds=time.perf_counter() - began,
        stage_seconds=dict(renderer.clock.seconds),
        losses=told(journal, "losses"),
    )


def _notes(config: RenderConfig, records: Sequence[Record]) -> list[str]:
    if config.strategy != "anchors":
        return []
    return absent_anchors(config.anchors, config.anchor_frames, frames_in(records))


def absent_anchors(anchors: str, most: int, frames: int) -> list[str]:
    """That the anchors name frames which the clip turned out not to have, as a sentence; where its length was known
    they were refused before."""
    try:
        check_given(anchor_rule(anchors, most), frames)
    except UsageError as error:
        return [f"{error} Those were left out."]
    return []


def _note_profile(session: Session[Frame], renderer: Renderer) -> None:
    """Tell later dry runs how fast this whole run was."""
    profile = profile_of(
        session.frame_seconds,
        memory_bytes=memory_bytes(renderer.checkpoint.device),
        segment_bytes=session.segment_bytes,
        state_bytes=state_bytes(renderer.state()),
    )
    note_profile(profile_key(renderer, session.reader.info.size), profile)


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
