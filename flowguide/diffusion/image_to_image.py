"""One picture in, one painted picture out: encode, sample with or without a guide, decode."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..config import RenderConfig
from ..timing import StageClock
from .checkpoint import Checkpoint
from .noise import keyed_noise
from .sampling import LatentGuide, StepCallback, sample
from .samplers import step_table


@dataclass(frozen=True)
class NoiseKey:
    """Which frame the noise is for."""

    shot: int
    frame: int


class ImageToImage:
    """Image-to-image with one checkpoint under one configuration."""

    def __init__(self, checkpoint: Checkpoint, config: RenderConfig, clock: StageClock):
        self._checkpoint = checkpoint
        self._clock = clock
        self.configure(config)

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings; prompts already encoded are kept."""
        table = step_table(
            config.sampler, self._checkpoint.scheduler_config, config.steps, config.strength, config.eta
        )
        cond = self._checkpoint.prompts(config.prompt)
        uncond = self._checkpoint.prompts(config.negative_prompt) if config.guidance_scale != 1.0 else None
        self._config, self.table, self._cond, self._uncond = config, table, cond, uncond

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of `pictures` [N, 3, H, W] in [-1, 1]; H and W multiples of the checkpoint's grid."""
        with self._clock("encode"):
            return self._checkpoint.autoencoder.encode(pictures).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures float32 [N, 3, H, W] in [-1, 1]."""
        with self._clock("decode"):
            return self._checkpoint.autoencoder.decode(latents)

    def denoise(
        self, start: Tensor, key: NoiseKey, guide: LatentGuide | None = None, on_step: StepCallback | None = None
    ) -> Tensor:
        """The painted latent [1, C, h, w] that begins from the clean latent `start`."""
        config = self._config

        def noise(step: int) -> Tensor:
            drawn = keyed_noise(
                config.noise, seed=config.seed, shot=key.shot, frame=key.frame, step=step, shape=tuple(start.shape)
            )
            return drawn.to(start.device)

        return sample(
            self._predict,
            self.table,
            start,
            noise,
            cond=self._cond,
            uncond=self._uncond,
            guidance_scale=config.guidance_scale,
            guide=guide,
            on_step=on_step,
        )

    def _predict(self, latents: Tensor, timestep: float, embeddings: Tensor) -> Tensor:
        with self._clock("unet"):
            return self._checkpoint.predict(latents, timestep, embeddings)

