"""Frames of a renderer as programs: which kind of frame is recorded, and what still goes the ordinary way."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ..config import RenderConfig
from ..types import Guide
from .conditioning import Condition
from .image_to_image import ImageToImage, NoiseKey
from .program import FrameProgram, Kind, Record, Settings, Volatile, cuda_graph
from .sampling import StepCallback

log = logging.getLogger("flowguide.diffusion")

PASTED = ("previous", "references")
"""Strategies whose finished frame is the generated one with what is known pasted over it."""


class FramePrograms:
    """One program for each kind and size of frame, made at the first such frame."""

    def __init__(self, model: ImageToImage, config: RenderConfig, record: Record | None):
        """record: how a program is recorded; None: it runs as it is."""
        self._model, self._record = model, record
        self._made: dict[tuple[Any, ...], FrameProgram] = {}
        self.configure(config)

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings; what was recorded under others is dropped."""
        self._config = config
        self._made.clear()

    def __call__(
        self, rgb: Tensor, key: NoiseKey, source: Tensor, flow: Tensor | None, carried: Any, weights: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """(finished picture [3, H, W], the same as uint8) of the padded frame `rgb` uint8 [3, H, W].

        source: `rgb` in [-1, 1]. flow: to the frame before [1, 2, H, W]. carried, weights: what is known of the frame
        (`filled`, `guide`, `tone` and `alike`) and the pull toward it [steps, 1, h, w]; None for a first frame. None
        where the autoencoder overflowed, or changed settings exclude it: this frame and all that follow go the
        ordinary way.
        """
        why = not_recorded_whole(self._config, self._model, None)
        if why is not None:
            log.warning("Frames are no longer recorded whole, for %s; each network is.", why)
            return None
        told = self._told(rgb, key, source, flow)
        kind: Kind = "first"
        if carried is not None:
            kind = "guided"
            guide = carried.guide
            told = Volatile(told.rgb, told.noises, told.condition, carried.filled[None], guide.prior[None],
                            guide.confidence[None], weights, carried.tone[None], carried.alike[None])  # fmt: skip
        picture, packed = self._program(kind, told)(told)
        if self._model.may_overflow and not bool(torch.isfinite(picture).all()):
            log.warning("The autoencoder overflows in float16; frames are no longer recorded whole.")
            return None
        return picture.clone(), packed.clone()

    def _program(self, kind: Kind, told: Volatile) -> FrameProgram:
        place = (kind, *(tuple(value.shape) for value in told.tensors()))
        if place not in self._made:
            config, model = self._config, self._model
            settings = Settings(model.table, model.guidance_scale, config.paste, config.feather_px)
            made = FrameProgram(kind, model.networks(), settings, told, model.device, self._record)
            self._made[place] = made
        return self._made[place]

    def _told(self, rgb: Tensor, key: NoiseKey, source: Tensor, flow: Tensor | None) -> Volatile:
        noises, cond, uncond = self._model.before_sampling(key, source[None], flow)
        condition = cond if uncond is None else Condition.stacked([uncond, cond])
        return Volatile(rgb[None], noises, condition)


class CarriedPrograms:
    """Frames that are carried only: what is known, its slivers filled; one program for each size."""

    def __init__(self, record: Record | None):
        self._record = record
        self._made: dict[tuple[Any, ...], FrameProgram] = {}

    def __call__(self, guide: Guide) -> Tensor:
        """The prior [3, H, W] of `guide` with what is not known filled from what is."""
        told = Volatile(prior=guide.prior[None], confidence=guide.confidence[None])
        size = tuple(guide.prior.shape)
        if size not in self._made:
            self._made[size] = FrameProgram("carried", None, None, told, guide.prior.device, self._record)
        return self._made[size](told)[0].clone()


def programs_of(config: RenderConfig, model: ImageToImage, on_step: StepCallback | None) -> FramePrograms | None:
    """Programs for the runtime torch-graphed; None under any other, and, told in the log, where settings exclude it."""
    if config.runtime != "torch-graphed":
        return None
    why = not_recorded_whole(config, model, on_step)
    if why is not None:
        log.warning("Frames are not recorded whole, for %s; each network is.", why)
        return None
    return FramePrograms(model, config, cuda_graph)


def not_recorded_whole(config: RenderConfig, model: ImageToImage, on_step: StepCallback | None) -> str | None:
    """What keeps a whole frame from being one recording, or None."""
    if config.guidance and config.strategy not in PASTED:
        return f"the strategy {config.strategy!r} is none of {', '.join(PASTED)}"
    if config.init != "source":
        return f"init {config.init!r} is not 'source'"
    if on_step is not None:
        return "a callback looks at every step"
    if model.is_inpainting:
        return "an inpainting checkpoint is shown the finished frame before"
    if model.is_shared:
        return "several lanes share the networks"
    return None
