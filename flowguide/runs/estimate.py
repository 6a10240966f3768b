"""Before the work: what a run would do, how long it would take and how much room it needs."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .. import ops
from ..config import RenderConfig
from ..flow.chosen import chosen_cuts, chosen_flow
from ..flow.shots import find_shots
from ..guidance.previous import PreviousFrame
from ..pictures import padded
from ..renderer import Renderer
from ..types import Frame
from ..video import ClipReader
from ..video.segments import SegmentWriter
from .clip import SEGMENT_FRAMES
from .opened import named_output, open_clip, output_codec
from .profiles import Profile, profile_key, profile_of, profiles_file, read_profiles
from .state_file import state_bytes
from .used import memory_bytes

MEASURED_FRAMES = 5
"""Frames painted to measure where no run was profiled; the first of them, which warms everything up, does not count."""
LOOKED_AT = 4
"""Places in the clip where the share of pixels to be generated is found."""
MARGIN = 0.15
"""Share by which a run may be faster or slower than what was measured."""


@dataclass(frozen=True)
class Estimate:
    """What a run would be."""

    frames: int
    size: tuple[int, int]
    shots: list[int]
    """The first frame of each shot, its anchor: it is painted whole."""
    generated_share: float
    """About how much of the pixels has to be generated; the rest is carried over from the frame before."""
    model_calls: int
    """Rows that the denoiser would be given."""
    seconds: tuple[float, float]
    """From and to, without loading the model."""
    profiled_frames: int
    """Frames of an earlier run that the time is taken from; 0 where a few were painted just now instead."""
    memory_bytes: int | None
    """Most memory: the device's on a GPU, else the process's; None where the system does not tell."""
    disk_bytes: int
    """Most room taken while the run works, its output included."""
    free_bytes: int


def estimate(source: str | Path, output: Path, config: RenderConfig) -> Estimate:
    """Read the clip for its shots, and paint its first frames to measure where no run like it was profiled; nothing is
    written beside `output`."""
    output = named_output(output, source, config)
    with open_clip(source, config) as reader:
        sample = _Sample(reader)
        shots = [shot.first for shot in find_shots(sample, chosen_cuts(config))]
        info = reader.info
    renderer = Renderer(config)
    earlier = read_profiles(profiles_file()).get(profile_key(renderer, info.size))
    profile = earlier or _measured(source, output, renderer)
    return Estimate(
        frames=sample.frames,
        size=info.size,
        shots=shots,
        generated_share=_generated_share(renderer, sample.pairs, len(shots), sample.frames),
        model_calls=sample.frames * renderer.model_calls,
        seconds=(
            profile.fast_seconds * sample.frames * (1 - MARGIN),
            profile.slow_seconds * sample.frames * (1 + MARGIN),
        ),
        profiled_frames=earlier.frames if earlier else 0,
        memory_bytes=profile.memory_bytes,
        disk_bytes=profile.room_bytes(sample.frames, SEGMENT_FRAMES),
        free_bytes=shutil.disk_usage(output.absolute().parent).free,
    )


def _measured(source: str | Path, output: Path, renderer: Renderer) -> Profile:
    """Paint the first frames of the clip."""
    codec = output_codec(output, renderer.config)
    with open_clip(source, renderer.config) as reader, tempfile.TemporaryDirectory() as folder:
        info = reader.info
        segment = SegmentWriter(
            Path(folder) / f"segment{output.suffix}", output, codec,
            size=info.size, time_base=info.time_base, rate=info.frame_rate,
        )  # fmt: skip
        durations = []
        with segment:
            began = time.perf_counter()
            for styled in renderer(itertools.islice(reader, MEASURED_FRAMES)):
                segment.write(styled.frame(deep=codec.deep))
                now = time.perf_counter()
                durations.append(now - began)
                began = now
            segment.finish()
        room = segment.path.stat().st_size / len(durations)
    return profile_of(
        durations,
        memory_bytes=memory_bytes(renderer.checkpoint.device),
        segment_bytes=room,
        state_bytes=state_bytes(renderer.state()),
    )


class _Sample:
    """Frames, counted as they pass, and a few pairs of neighbours kept, spread over the clip."""

    def __init__(self, reader: ClipReader):
        self._reader = reader
        self.frames = 0
        self.pairs: list[tuple[Frame, Frame]] = []
        self._stride = 1

    def __iter__(self) -> Iterator[Frame]:
        before = None
        for frame in self._reader:
            if before is not None and self.frames % self._stride == 0:
                self.pairs.append((before, frame))
            if len(self.pairs) == 2 * LOOKED_AT:
                self.pairs, self._stride = self.pairs[::2], 2 * self._stride
            before = frame
            self.frames += 1
            yield frame


def _generated_share(renderer: Renderer, pairs: list[tuple[Frame, Frame]], shots: int, frames: int) -> float:
    """Share of pixels that the guidance does not trust, over neighbouring frames, and all of each shot's first."""
    if not renderer.config.guidance or not pairs:
        return 1.0
    device, grid = renderer.checkpoint.device, renderer.checkpoint.grid
    flow = chosen_flow(renderer.config, device)
    guidance = PreviousFrame(flow, renderer.config, renderer.checkpoint.autoencoder.cell, renderer.clock)
    shares = []
    for before, after in pairs:
        first, second = padded(before, grid), padded(after, grid)
        pictures = [ops.to_model(frame.rgb[None].to(device))[0] for frame in (first, second)]
        guidance.forget()
        guidance.remember(first, pictures[0], pictures[0], None)
        carried = guidance.carry(second, pictures[1])
        shares.append(1.0 if carried is None else 1.0 - carried.confident_share)
    within = sum(shares) / len(shares)
    return (shots + within * (frames - shots)) / frames
