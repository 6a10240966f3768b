"""The first thing a newcomer runs: one clip painted without and with guidance, measured, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config import RenderConfig, changed
from ..diffusion.model_folders import preset
from ..errors import FlowguideError, UsageError
from ..metrics import Report, measure, metric_estimator
from ..video import ClipReader, probe
from .clip import RenderReport, render
from .compare import compare
from .request import Request

HEIGHT = "384"


@dataclass(frozen=True)
class Demo:
    """Where everything is and what was measured."""

    source: Path
    unguided: RenderReport
    guided: RenderReport
    side_by_side: Path
    steadiness: Report


def run_demo(prompt: str, frames: int, folder: Path, clip: Path | None, config: RenderConfig | None = None) -> Demo:
    """Paint the first `frames` of `clip` (or of the project's own scene) into `folder`.

    Without a config, with the bundled model's preset for the style that the prompt names; 384 px high where no size is
    given.
    """
    if frames < 1:
        raise UsageError(f"--frames should be at least 1, got {frames}.")
    if clip is not None:
        probe(clip)  # refuses what is no video before a folder is made for it
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FlowguideError(f"{folder} cannot be made ({error.strerror or error}); choose another place.") from error
    if clip is None:
        from ..synthetic import write_demo_clip

        clip = folder / "source.mp4"
        write_demo_clip(clip, frames=frames)
    config = config or changed(RenderConfig(), **{"size": HEIGHT, **preset(RenderConfig().model, prompt)})
    settings = changed(config, prompt=prompt, max_frames=frames, size=config.size or HEIGHT)
    anew = Request(overwrite=True)
    unguided = render(clip, folder / "unguided.mp4", config=changed(settings, guidance=False), request=anew)
    guided = render(clip, folder / "guided.mp4", config=settings, request=anew)
    side_by_side = folder / "side-by-side.mp4"
    _comparison(clip, settings, unguided.output, guided.output, side_by_side)
    steadiness = _steadiness(clip, settings, unguided.output, guided.output)
    return Demo(clip, unguided, guided, side_by_side, steadiness)


def _comparison(clip: Path, settings: RenderConfig, unguided: Path, guided: Path, output: Path) -> None:
    scaled = output.with_name("source-scaled.mp4")
    _copy_scaled(clip, scaled, settings)
    compare({"source": scaled, "unguided": unguided, "guided": guided}, output, overwrite=True)
    scaled.unlink()


def _copy_scaled(clip: Path, output: Path, settings: RenderConfig) -> None:
    from ..video import ClipWriter

    with (
        ClipReader(clip, size=settings.size, max_frames=settings.max_frames) as reader,
        ClipWriter(
            output, size=reader.info.size, time_base=reader.info.time_base, frame_rate=reader.info.frame_rate
        ) as writer,
    ):
        for frame in reader:
            writer.write(frame)


def _steadiness(clip: Path, settings: RenderConfig, unguided: Path, guided: Path) -> Report:
    with (
        ClipReader(clip, size=settings.size, max_frames=settings.max_frames) as source,
        ClipReader(unguided) as before,
        ClipReader(guided) as after,
    ):
        clips = {"unguided": before, "guided": after}
        return measure(source, clips, unguided="unguided", estimator=metric_estimator(settings.flow))
