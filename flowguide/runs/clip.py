"""One clip from file to file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..config import Option, RenderConfig, changed
from ..errors import FlowguideError, Interrupted, UsageError
from ..renderer import Renderer, Styled
from ..types import ClipInfo
from ..video import ClipReader, ClipWriter, Codec, check_output
from ..video.formats import codec_for
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
    check_output(output, [source])
    with ClipReader(
        source,
        size=settings.size,
        start_seconds=settings.start_seconds,
        end_seconds=settings.end_seconds,
        max_frames=settings.max_frames,
    ) as reader:
        renderer = Renderer(settings)
        with ClipWriter(
            output,
            size=reader.info.size,
            time_base=reader.info.time_base,
            frame_rate=reader.info.frame_rate,
            audio_from=reader if settings.audio and reader.info.audio_codec else None,
            codec=output_codec(output, settings),
        ) as writer:
            if on_start is not None:
                on_start(_started(reader, renderer))
            began = time.perf_counter()
            frames, shots = 0, 0
            for styled in _in_memory(renderer(reader), reader.info.size):
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
    return RenderReport(output, manifest, frames, shots, seconds, dict(renderer.clock.seconds), losses)


def output_codec(output: Path, settings: RenderConfig) -> Codec:
    """The codec for the output's suffix, at the quality that `settings.crf` asks for."""
    codec = codec_for(output, settings.codec)
    if settings.crf is None:
        return codec
    if "crf" not in codec.options:
        raise UsageError(f"The codec of {output.name} has no crf; leave --crf out.")
    return replace(codec, options={**codec.options, "crf": str(settings.crf)})


def _in_memory(styled: Iterator[Styled], size: tuple[int, int]) -> Iterator[Styled]:
    """`styled`, with an exhausted memory told as a sentence."""
    try:
        yield from styled
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
            raise
        height, width = size
        raise FlowguideError(
            f"Out of memory at {width}x{height}. Choose a smaller --size, or --dtype bfloat16 where it is float32."
        ) from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _started(reader: ClipReader, renderer: Renderer) -> Started:
    info, config = reader.info, renderer.config
    frames = info.frames
    if config.start_seconds is not None or config.end_seconds is not None:
        frames = _frames_in_range(info, config)
    if config.max_frames is not None:
        frames = config.max_frames if frames is None else min(frames, config.max_frames)
    checkpoint = renderer.checkpoint
    dtype = str(checkpoint.dtype).removeprefix("torch.")
    return Started(frames, info.size, config.model, str(checkpoint.device), dtype)


def _frames_in_range(info: ClipInfo, config: RenderConfig) -> int | None:
    end = config.end_seconds if config.end_seconds is not None else info.duration_seconds
    if end is None or info.frame_rate is None:
        return None
    end = end if info.duration_seconds is None else min(end, info.duration_seconds)
    return max(1, round((end - (config.start_seconds or 0.0)) * float(info.frame_rate)))
