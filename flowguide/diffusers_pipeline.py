"""The renderer in the manner of a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .config import Option, RenderConfig, render_config
from .diffusion.checkpoint import Checkpoint, load_checkpoint
from .errors import UsageError
from .machine import choose_device, choose_dtype
from .pictures import as_frame
from .renderer import Renderer, Styled
from .video import ClipReader

StepEnd = Callable[["FlowGuidePipeline", int, float, dict[str, Tensor]], dict[str, Tensor] | None]
"""callback_on_step_end(pipeline, step, timestep, {"latents": x}) -> the same, its latents possibly replaced."""


@dataclass(frozen=True)
class FlowGuideOutput:
    """`frames`: the painted clip as asked for by `output_type`."""

    frames: Any


class FlowGuidePipeline:
    """Video to painted, steady video with a checkpoint in diffusers layout.

    pipeline = FlowGuidePipeline.from_pretrained("path/to/checkpoint")
    frames = pipeline(video="clip.mp4", prompt="oil painting", strength=0.5).frames
    """

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self._renderer: Renderer | None = None

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, torch_dtype: torch.dtype | None = None, device: str = "auto"
    ) -> FlowGuidePipeline:
        """Load a bundled model by name, or a local folder. Nothing is downloaded."""
        chosen = choose_device(device)
        return cls(load_checkpoint(str(model), torch_dtype or choose_dtype("auto", chosen), chosen))

    def __call__(
        self,
        *,
        video: str | Path | Iterable[Any],
        prompt: str,
        negative_prompt: str = "",
        strength: float = 0.5,
        num_inference_steps: int = 8,
        guidance_scale: float = 2.0,
        generator: torch.Generator | None = None,
        callback_on_step_end: StepEnd | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        **options: Option,
    ) -> FlowGuideOutput:
        """Paint `video`: a path, or pictures as `Renderer.step` takes them (PIL pictures too).

        generator: its initial seed keys all noise. options: any further field of RenderConfig.
        output_type: 'pil' list of pictures; 'np' float32 [frames, H, W, 3] in [0, 1]; 'pt' [frames, 3, H, W] likewise.
        Raises UsageError, VideoError and the other FlowguideErrors.
        """
        if output_type not in ("pil", "np", "pt"):
            raise UsageError(f"output_type should be pil, np or pt, got {output_type!r}.")
        if generator is not None:
            options["seed"] = generator.initial_seed() % 2**63
        config = render_config(
            options,
            prompt=prompt,
            negative_prompt=negative_prompt,
            strength=strength,
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )
        self._renderer = Renderer(config, checkpoint=self.checkpoint, on_step=self._step_end(callback_on_step_end))
        pictures = [_unit(styled) for styled in self._styled(self._renderer, config, video)]
        if not pictures:
            raise UsageError("video should hold at least one picture, got none.")
        return FlowGuideOutput(_as_type(pictures, output_type))

    def interrupt(self) -> None:
        """Stop before the next frame; the call then raises Interrupted."""
        if self._renderer is not None:
            self._renderer.cancel()

    def _styled(self, renderer: Renderer, config: RenderConfig, video: str | Path | Iterable[Any]) -> Iterable[Styled]:
        if isinstance(video, str | Path):
            with ClipReader(video, size=config.size, max_frames=config.max_frames) as reader:
                yield from renderer(reader)
            return
        for index, picture in enumerate(video):
            yield renderer.render(as_frame(_plain(picture), index=index))

    def _step_end(self, callback: StepEnd | None) -> Callable[[int, float, Tensor], Tensor | None] | None:
        if callback is None:
            return None

        def on_step(step: int, timestep: float, latents: Tensor) -> Tensor | None:
            returned = callback(self, step, timestep, {"latents": latents})
            return None if returned is None else returned.get("latents")

        return on_step


def _plain(picture: Any) -> Any:
    """A PIL picture as an array; anything else as it is."""
    return np.asarray(picture.convert("RGB")) if hasattr(picture, "convert") else picture


def _unit(styled: Styled) -> Tensor:
    return (styled.picture.cpu() + 1.0) / 2.0


def _as_type(pictures: list[Tensor], output_type: str) -> Any:
    if output_type == "pt":
        return torch.stack(pictures)
    if output_type == "np":
        return torch.stack(pictures).permute(0, 2, 3, 1).numpy()
    from PIL import Image

    eight_bit = [(picture.permute(1, 2, 0) * 255.0).round().to(torch.uint8).numpy() for picture in pictures]
    return [Image.fromarray(picture) for picture in eight_bit]
