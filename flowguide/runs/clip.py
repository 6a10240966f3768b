"""One clip from file to file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..config import Option, RenderConfig, changed
from ..errors import Interrupted
from ..renderer import Renderer, Styled
from ..timing import StageClock
from ..video import ClipReader, ClipWriter, fit_size
from .manifest import write_manifest


@dataclass(frozen=True)
class RenderReport:
    """What a finished run did."""

    output: Path
    manifest: Path
    frames: int
    shots: int
    seconds: float
    """From the first frame read to the file closed; loading the model is not in it."""
    stage_seconds: dict[str, float]
    losses: list[str]
    """What could not be decoded, in sentences; empty where all was read."""

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Started:
    """What is known before the first frame."""

    frames: int | None
    """Frames expected, or None where the container does not say."""
    size: tuple[int, int]
    model: str
    device: str
    dtype: str


def render(
    source: str | Path,
    output: str | Path,
    *,
    config: RenderConfig | None = None,
    on_start: Callable[[Started], None] | None = None,
    on_frame: Callable[[Styled], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **options: Option,
) -> RenderReport:
    """Paint the clip `source` into the file `output`, with its sound and its exact times.

    config: all settings; `options` are single fields of RenderConfig that go over it (prompt="ink drawing").
    on_start, on_frame: called before the first and after each frame. should_stop: asked before each frame.
    The output appears under its name only when it is complete, with a manifest `<output>.json` beside it.
    Raises FlowguideError: VideoError, ModelError, UsageError, ScheduleError, Interrupted; each a sentence.
    """
    settings = changed(config or RenderConfig(), **options)
    output = Path(output)
    with ClipReader(source, **_reading(settings, source)) as reader:
        writer = ClipWriter(
            output,
            size=reader.size,
            time_base=reader.time_base,
            frame_rate=reader.info.frame_rate,
            source=reader if settings.audio else None,
            crf=settings.crf,
        )
        with writer:
            renderer = Renderer(settings)
            if on_start is not None:
                on_start(_started(reader, renderer))
            began = time.perf_counter()
            frames, shots = 0, 0
            for styled in renderer(reader):
                with renderer.clock("write"):
                    writer.write(styled.frame())
                frames, shots = frames + 1, styled.shot + 1
                if on_frame is not None:
                    on_frame(styled)
                if should_stop is not None and should_stop():
                    raise Interrupted(f"Stopped after {frames} frames; {output} was not written.")
        seconds = time.perf_counter() - began
        losses = list(reader.losses)
    manifest = write_manifest(output, source=Path(source), renderer=renderer, frames=frames, seconds=seconds)
    return RenderReport(output, manifest, frames, shots, seconds, _totals(renderer.clock), losses)
