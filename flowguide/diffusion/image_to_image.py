"""One picture in, one painted picture out: encode, sample with or without a guide, decode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import RenderConfig
from ..timing import StageClock
from .attention import AttentionSharing
from .checkpoint import Checkpoint
from .conditioning import Condition, scale_embedding, size_ids
from .denoiser import Denoiser
from .hints import Hint
from .latents import Autoencoder
from .memory import MemoryLadder, Rung
from .noise import START, CarriedNoise, keyed_noise
from .program import Networks
from .prompt_text import PromptSchedule, prompt_schedule
from .prompts import Embedding
from .rows import Pull, Row, advance
from .samplers import step_table
from .sampling import LatentGuide, StepCallback, StepPull, sample


@dataclass(frozen=True)
class NoiseKey:
    """Which frame the noise is for."""

    shot: int
    frame: int


class LatentPart(NamedTuple):
    """Which part of a frame's latent is painted."""

    top: int
    left: int
    height: int
    """Of the whole latent, like the width."""
    width: int


@dataclass(frozen=True)
class Known:
    """What an inpainting checkpoint is told beside the latents."""

    picture: Tensor
    """[N, 3, H, W] in [-1, 1]"""
    mask: Tensor
    """[N, 1, H, W]: 1 where the model paints, 0 where `picture` stays."""


class ImageToImage:
    """Image-to-image with one checkpoint under one configuration."""

    def __init__(self, checkpoint: Checkpoint, config: RenderConfig, clock: StageClock):
        self._checkpoint = checkpoint
        self._clock = clock
        self._rows: int | None = None
        self._ladder = MemoryLadder(self._rungs())
        self.carried_noise = CarriedNoise(config.seed, checkpoint.autoencoder.cell)
        """State of the noise `carried`; a resumed run restores it."""
        self.image_prompt: tuple[tuple[Tensor, ...], ...] = ()
        """What the IP-Adapter is shown from now on, without and with; empty: the checkpoint's own picture."""
        alone = checkpoint.denoiser.runtimes is None and not checkpoint.shared
        self.attention = AttentionSharing(checkpoint.unet, plain=alone)
        """Sharing of self-attention between frames; off unless entered."""
        checkpoint.pack()
        if config.vae_tiles:
            checkpoint.autoencoder.use_tiles()
        self.configure(config)

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings; prompts already encoded are kept."""
        scheduler = self._checkpoint.scheduler_config
        self.table = step_table(config.sampler, scheduler, config.steps, config.strength, config.eta)
        self.carried_noise.seed = config.seed
        self._prompts: PromptSchedule = prompt_schedule(config.prompt)
        encode = self._checkpoint.prompts
        self._chunks = max(map(encode.chunks, (*self._prompts.texts, config.negative_prompt)))
        for text in self._prompts.texts:
            encode(text, self._chunks)
        self._config = config

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on with the next frame: carried noise, and what was given up for memory."""
        return {"noise": self.carried_noise.state(), "memory": self._ladder.taken}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self.carried_noise.restore(state["noise"])
        self._ladder.take(state["memory"])

    @property
    def guidance_scale(self) -> float:
        """The scale of classifier-free guidance; 1 for a distilled model, which is told the scale instead."""
        return 1.0 if self._checkpoint.scale_width else self._config.guidance_scale

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of `pictures` [N, 3, H, W] in [-1, 1]; H and W multiples of the checkpoint's grid."""
        with self._clock("encode"):
            return self._ladder(lambda: self._checkpoint.autoencoder.encode(pictures).float())

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures float32 [N, 3, H, W] in [-1, 1]."""
        with self._clock("decode"):
            return self._ladder(lambda: self._checkpoint.autoencoder.decode(latents))

    def denoise(
        self,
        start: Tensor,
        key: NoiseKey | Sequence[NoiseKey],
        guide: LatentGuide | StepPull | None = None,
        on_step: StepCallback | None = None,
        *,
        picture: Tensor | None = None,
        flow: Tensor | None = None,
        known: Known | None = None,
        part: LatentPart | None = None,
    ) -> Tensor:
        """The painted latents [N, C, h, w] that begin from the clean latents `start`, one key per row.

        picture: the sources [N, 3, H, W] in [-1, 1], which ControlNets look at. flow: each frame -> the one before,
        [N, 2, H, W] in pixels, for the noise `carried`. known: for an inpainting checkpoint; default: nothing is. part:
        where `start` lies in a larger latent, whose noise it then gets; not with the noise `carried`.
        """
        keys = [key] if isinstance(key, NoiseKey) else list(key)
        noises = self._noises(keys, start, flow, part)
        cond, uncond = self._conditions(keys, start, picture, known)
        return sample(
            self._predict,
            self.table,
            start,
            noises.__getitem__,
            cond=cond,
            uncond=uncond,
            guidance_scale=self.guidance_scale,
            guide=guide,
            on_step=on_step,
        )

    def row(self, start: Tensor, key: NoiseKey, *, picture: Tensor, flow: Tensor | None = None) -> Row:
        """A frame before its first step, to be taken on by `advance`; arguments as of `denoise`, of one frame."""
        start = start.float()
        noises, cond, uncond = self.before_sampling(key, picture, flow)
        noises = {number: noise.to(start.device) for number, noise in noises.items()}
        x = self.table.s_z * start + self.table.s_n * noises[START] if len(self.table) else start
        return Row(self.table, x, noises, cond, uncond, self.guidance_scale)

    def before_sampling(
        self, key: NoiseKey, picture: Tensor, flow: Tensor | None
    ) -> tuple[dict[int, Tensor], Condition, Condition | None]:
        """Noise by number, drawn where it is made, and what the model is told with the prompt and without it: of one
        frame, its source `picture` [1, 3, H, W]; flow as of `denoise`."""
        like = self.latent_like(picture)
        drawn_on = like.device if self._config.noise == "carried" else torch.device("cpu")
        noises = self._noises([key], like.to(drawn_on), flow)
        cond, uncond = self._conditions([key], like, picture, None)
        return noises, cond.expanded(1), uncond

    def latent_like(self, picture: Tensor) -> Tensor:
        """A tensor like the latent [N, C, h, w] of pictures [N, 3, H, W], not filled."""
        autoencoder = self._checkpoint.autoencoder
        rows, _, height, width = picture.shape
        cell = autoencoder.cell
        return torch.empty(rows, autoencoder.channels, height // cell, width // cell, device=picture.device)

    def networks(self) -> Networks:
        """The networks as they are, without runtime, clock and ladder, for a frame that is one program."""
        whole = self._checkpoint
        denoiser = Denoiser(whole.unet, whole.denoiser.controls)
        autoencoder = Autoencoder(whole.autoencoder.network, whole.autoencoder.cell, checked=False)
        return Networks(autoencoder.encode, denoiser, autoencoder.decode)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self._checkpoint.device

    @property
    def grid(self) -> int:
        """Pixels that height and width must be multiples of."""
        return self._checkpoint.grid

    @property
    def native_px(self) -> int:
        """Side of the pictures that the model was trained on; 0 where its configuration does not tell."""
        cells = self._checkpoint.unet.config.get("sample_size") or 0
        return (cells if isinstance(cells, int) else max(cells)) * self._checkpoint.autoencoder.cell

    @property
    def fixes_sizes(self) -> bool:
        """Whether the networks are built for one size of picture."""
        runtimes = self._checkpoint.denoiser.runtimes
        return runtimes is not None and runtimes.fixes_sizes

    @property
    def may_overflow(self) -> bool:
        """Whether the autoencoder works in half precision."""
        return bool(self._checkpoint.autoencoder.network.dtype == torch.float16)

    @property
    def is_inpainting(self) -> bool:
        return self._checkpoint.inpainting

    @property
    def is_shared(self) -> bool:
        """Whether other lanes call the same networks."""
        return self._checkpoint.shared

    def advance(
        self, rows: Sequence[Row], pull: Pull | None, on_step: StepCallback | None = None, *, most: int = 1
    ) -> None:
        """One model call for all `rows`, each at a step of its own (see `rows.advance`).

        most: rows there will ever be; under another runtime than plain PyTorch, whose networks have one size, the call
        always has that many.
        """
        advance(self._predict, rows, pull, on_step, at_least=most if self.fixes_sizes else 1)

    def _noises(
        self, keys: Sequence[NoiseKey], start: Tensor, flow: Tensor | None, part: LatentPart | None = None
    ) -> dict[int, Tensor]:
        """The noise of the start and of every stochastic step, by its number, each like `start`."""
        config, (_, channels, height, width) = self._config, start.shape
        part = part or LatentPart(0, 0, height, width)
        shape = (1, channels, part.height, part.width)
        here = slice(part.top, part.top + height), slice(part.left, part.left + width)
        steps = [START, *(step + 1 for step in range(len(self.table)) if self.table.D[step])]
        rows: dict[int, list[Tensor]] = {step: [] for step in steps}
        for row, key in enumerate(keys):
            if config.noise == "carried":
                self.carried_noise.begin(key.shot, key.frame, None if flow is None else flow[row : row + 1])
            for step in steps:
                drawn = (
                    self.carried_noise.latent(step, shape)
                    if config.noise == "carried"
                    else keyed_noise(
                        config.noise, seed=config.seed, shot=key.shot, frame=key.frame, step=step, shape=shape
                    )
                )
                rows[step].append(drawn[..., *here].to(start.device))
        return {step: torch.cat(drawn) for step, drawn in rows.items()}

    def _conditions(
        self, keys: Sequence[NoiseKey], start: Tensor, picture: Tensor | None, known: Known | None
    ) -> tuple[Condition, Condition | None]:
        """What the model is told with the prompt and, under classifier-free guidance, without it; a row per key."""
        checkpoint, config, prompts = self._checkpoint, self._config, self._checkpoint.prompts
        rows = start.shape[0]
        without, image = self.image_prompt or checkpoint.image_prompt or ((), ())
        beside: dict[str, Any] = {
            "scale": self._scale(rows),
            "inpaint": self._inpaint(start, known) if checkpoint.inpainting else None,
            "hints": () if picture is None else tuple(_each(hint, picture) for hint in checkpoint.hints),
        }
        painted = [self._told(self._prompt_at(key.frame), image, start) for key in keys]
        cond = replace(Condition.stacked(painted), **beside)
        if self.guidance_scale <= 1.0:
            return cond, None
        empty = prompts(config.negative_prompt, self._chunks)
        if checkpoint.zero_empty_prompt and not config.negative_prompt:
            empty = empty.zeros()
        return cond, replace(self._told(empty, without, start).expanded(rows), **beside)

    def _prompt_at(self, frame: int) -> Embedding:
        this, following, share = self._prompts.at(frame)
        encode = self._checkpoint.prompts
        return encode(this, self._chunks).mixed(encode(following, self._chunks), share)

    def _told(self, prompt: Embedding, image: tuple[Tensor, ...], start: Tensor) -> Condition:
        """One row: the prompt, SDXL's picture size, the image prompt."""
        if prompt.pooled is None:
            return Condition(prompt.text, image=image)
        height, width = self._size_px(start)
        size = size_ids(height, width, prompt.pooled.dtype, prompt.pooled.device)
        return Condition(prompt.text, prompt.pooled, size, image=image)

    def _scale(self, rows: int) -> Tensor | None:
        checkpoint = self._checkpoint
        if checkpoint.scale_width is None:
            return None
        told = scale_embedding(self._config.guidance_scale, checkpoint.scale_width, checkpoint.dtype, checkpoint.device)
        return told.expand(rows, -1)

    def _size_px(self, latents: Tensor) -> tuple[int, int]:
        cell = self._checkpoint.autoencoder.cell
        return latents.shape[2] * cell, latents.shape[3] * cell

    def _inpaint(self, start: Tensor, known: Known | None) -> Tensor:
        """Mask and masked latents [N, 1 + C, h, w]."""
        if known is None:
            rows, (height, width) = start.shape[0], self._size_px(start)
            known = Known(start.new_zeros(rows, 3, height, width), start.new_ones(rows, 1, height, width))
        masked = self.encode(known.picture * (known.mask < 0.5))
        mask = F.interpolate((known.mask >= 0.5).float(), size=start.shape[2:])
        return torch.cat([mask, masked], dim=1).to(self._checkpoint.dtype)

    def _predict(self, latents: Tensor, timestep: float | Tensor, condition: Condition) -> Tensor:
        with self._clock("unet"):
            return self._ladder(lambda: self._in_parts(latents, timestep, condition))

    def _in_parts(self, latents: Tensor, timestep: float | Tensor, condition: Condition) -> Tensor:
        rows = latents.shape[0]
        most = self._rows or rows
        if rows <= most:
            return self._checkpoint.denoiser(latents, timestep, condition)
        parts = []
        for i in range(0, rows, most):
            told = timestep[i : i + most] if isinstance(timestep, Tensor) else timestep
            part = condition.part(i, min(i + most, rows))
            parts.append(self._checkpoint.denoiser(latents[i : i + most], told, part))
        return torch.cat(parts)

    def _rungs(self) -> list[Rung]:
        checkpoint = self._checkpoint

        def one_row() -> bool:
            taken, self._rows = self._rows != 1, 1
            return taken

        return [
            Rung("one row of the batch at a time", one_row),
            Rung("the autoencoder works in tiles", checkpoint.autoencoder.use_tiles),
            Rung("parts of the model wait in main memory", checkpoint.offload),
        ]


def _each(hint: Hint, pictures: Tensor) -> Tensor:
    """The hint of every picture [N, 3, H, W]."""
    return torch.cat([hint(pictures[row : row + 1]) for row in range(pictures.shape[0])])
