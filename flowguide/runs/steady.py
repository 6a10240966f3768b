"""Steadying from file to file: a source, the same clip painted by anything, and the steady result."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import ops
from ..alignment import LOOKED_AT, Alignment, align, pairs
from ..config import RenderConfig, SteadyConfig
from ..errors import UsageError
from ..guidance.anchors import Finished
from ..guidance.rules import anchor_rule, check_given
from ..steady import Steadier
from ..types import ClipInfo, Frame
from ..video import ClipReader, ClipWriter, check_output
from .opened import output_codec

log = logging.getLogger("flowguide.steady")

SAME_ASPECT = 0.02
"""Relative difference of aspect up to which the source is simply scaled to the painted size."""
LEAST_CARRIED = 0.05
"""Share of the frames below which steadying is told to have done nothing."""
SAME_RATE = 0.005
"""Relative difference of frame rates up to which they count as one."""


@dataclass(frozen=True)
class SteadyReport:
    """What was done."""

    output: Path
    frames: int
    shots: int
    anchors: list[int]
    """Frames of the output from which the others were carried; what they show of earlier ones is carried as well."""
    confident_share: float
    """Mean share of the frames that was carried."""
    alignment: Alignment
    notes: list[str]
    """How the two clips differ, in sentences."""
    seconds: float
    stage_seconds: dict[str, float]


def steady_clip(
    source: str | Path,
    painted: str | Path,
    output: str | Path,
    *,
    config: SteadyConfig | None = None,
    overwrite: bool = False,
    on_frame: Callable[[Finished], None] | None = None,
) -> SteadyReport:
    """Steady the clip `painted`, made from `source` by whatever tool, into `output`; no model is needed.

    The output has the painted clip's size, times and sound. Differences in offset, frame rate, size and length are
    found and stand in the report's `notes`. Raises FlowguideError: VideoError, UsageError; each a sentence.
    """
    settings, output = config or SteadyConfig(), Path(output)
    check_output(output, [source, painted])
    if output.exists() and not overwrite:
        raise UsageError(f"{output} is there already; choose another name, or --overwrite it.")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    rule = anchor_rule(settings.anchors, settings.anchor_frames)
    alignment, notes = aligned(source, painted, settings.offset)
    began, frames, carried = time.perf_counter(), 0, 0.0
    steadier = Steadier(settings)
    with ClipReader(painted) as theirs, _source_reader(source, theirs.info, notes) as ours:
        if theirs.info.frames:
            check_given(rule, min(theirs.info.frames, settings.max_frames or theirs.info.frames))
        audio_from = _sound(settings, ours, theirs, alignment, notes)
        writer = ClipWriter(
            output,
            size=theirs.info.size,
            time_base=theirs.info.time_base,
            frame_rate=theirs.info.frame_rate,
            audio_from=audio_from,
            codec=output_codec(output, RenderConfig(codec=settings.codec, crf=settings.crf)),
        )
        with writer:
            for finished in _steadied(steadier, ours, theirs, alignment, settings.max_frames):
                writer.write(_frame(finished))
                frames, carried = frames + 1, carried + finished.confident_share
                if on_frame is not None:
                    on_frame(finished)
            if not frames:
                raise UsageError(f"{painted} and {source} have no frame in common at an offset of {alignment.offset}.")
            check_given(rule, frames)
        if settings.max_frames is None or frames < settings.max_frames:
            notes += _ends(ours, theirs)
    notes += _left_alone(painted, frames, steadier.shots, carried)
    for note in notes:
        log.warning("%s", note)
    return SteadyReport(
        output,
        frames,
        steadier.shots,
        list(steadier.anchors),
        carried / frames,
        alignment,
        notes,
        time.perf_counter() - began,
        dict(steadier.clock.seconds),
    )


def _left_alone(painted: str | Path, frames: int, shots: int, carried: float) -> list[str]:
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
    notes = []
    if not same:
        assert rates[0] is not None
        assert rates[1] is not None
        how = (
            "each painted frame shows the source frame nearest in time" if found.by == "time" else "frames are counted"
        )
        notes.append(f"{painted} has {float(rates[1]):.3g} frames per second, {source} {float(rates[0]):.3g}: {how}.")
    if found.offset > 0:
        notes.append(f"{painted} begins {found.offset} frames after {source}.")
    if found.offset < 0:
        notes.append(f"{painted} begins {-found.offset} frames before {source}; those frames are left out.")
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
        notes.append(f"{source} is {width}x{height} and is scaled to the painted {painted_width}x{painted_height}.")
    return ClipReader(source, size=painted.size)


def _steadied(
    steadier: Steadier, ours: ClipReader, theirs: ClipReader, alignment: Alignment, most: int | None
) -> Iterator[Finished]:
    for frame, given in itertools.islice(pairs(ours, theirs, alignment), most):
        yield from steadier.add(frame, given)
    yield from steadier.end()


def _frame(finished: Finished) -> Frame:
    rgb = ops.from_model(finished.picture[None])[0]
    assert isinstance(rgb, torch.Tensor)
    return Frame(rgb, finished.frame.index, finished.frame.pts, finished.frame.time_base)


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
    notes.append(f"{theirs.info.path} has no sound, and that of {ours.info.path} does not fit its times; left out.")
    return None


def _ends(ours: ClipReader, theirs: ClipReader) -> list[str]:
    """What is left of the clip that is longer."""
    left = sum(1 for _ in theirs)
    if left:
        return [f"{theirs.info.path} is longer than {ours.info.path}; its last {left} frames are left out."]
    if next(iter(ours), None) is not None:
        return [f"{ours.info.path} is longer than {theirs.info.path}; the output ends with the latter."]
    return []
