"""Strategy `anchors` with a model: anchors are painted guided by what is known of them, slivers are filled."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..config import RenderConfig
from ..diffusion.image_to_image import ImageToImage, LatentPart, NoiseKey
from ..diffusion.image_to_image import Known as Inpainted
from ..diffusion.init import InitialLatent
from ..diffusion.program import RAMP_PX
from ..diffusion.sampling import LatentGuide, StepCallback
from ..seams import joined
from ..types import Frame, Guide
from .anchors import Known, Painted
from .holes import MOST_UNCOVERED, Window, uncovered, windows_around
from .trust import Beginnings, unsharp
from .weights import WeightInputs, weight_schedule


class Generated:
    """The `Paint` of a renderer: its model paints anchors; frames between them need none."""

    def __init__(
        self,
        model: ImageToImage,
        init: InitialLatent,
        cell: int,
        key: Callable[[Frame], NoiseKey],
        on_step: StepCallback | None,
    ):
        self._model, self._init, self._cell, self._key, self._on_step = model, init, cell, key, on_step
        self._beginnings = Beginnings()
        self.fill: Callable[[Guide], Tensor] = filled_around
        """Fills the slivers of a frame that is carried only."""
        self.painted = 0
        """Frames that the model has painted, wholly or in part."""

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings."""
        self._config = config
        self._schedule = weight_schedule(config.flow_weight)

    def __call__(self, frame: Frame, known: Known | None) -> Painted:
        """The frame's own picture; where only slivers are unknown, the known pixels around them.

        The model sees no more of the frame than the holes need (`windows_around`).
        """
        if known is not None and known.distance_px is None:
            return Painted(self.fill(known.guide))
        source = ops.to_model(frame.rgb[None])
        if known is None or self._beginnings.is_anew(
            frame.index, float(known.guide.confidence.mean()), self._config.cut_share
        ):
            self.painted += 1
            return Painted(self._painted(frame, source, None, None, None, Window.whole(frame.size)))
        holes = uncovered(known.guide.confidence)
        if float(holes.float().mean()) <= MOST_UNCOVERED:
            return Painted(self.fill(known.guide), torch.zeros_like(holes))
        self.painted += 1
        windows = self._windows(holes)
        picture = self.fill(known.guide)
        own = torch.zeros_like(holes)
        for window in windows:
            window.of(own)[:] = True
            window.of(picture)[:] = self._guided(frame, window.of(source), known.within(window), window)
        return Painted(picture, own)

    def _windows(self, holes: Tensor) -> list[Window]:
        if self._model.fixes_sizes or self._config.init == "first":
            return [Window.whole((holes.shape[0], holes.shape[1]))]
        return windows_around(holes, grid=self._model.grid, least_px=self._model.native_px)

    def _guided(self, frame: Frame, source: Tensor, known: Known, window: Window) -> Tensor:
        """The picture of a `window` of the frame; source [1, 3, H, W] and `known` are of the window."""
        prior, confidence = known.guide.prior, known.guide.confidence
        assert known.distance_px is not None
        filled = unsharp(prior, self._config.unsharp)[None].contiguous()
        k0 = self._model.encode(filled)
        inputs = WeightInputs(known.distance_px, confidence, (k0.shape[2], k0.shape[3]), self._config.strength)
        least_in_cell = -F.max_pool2d(-confidence[None], self._cell)[0]
        guide = LatentGuide(k0=k0, weights=(self._schedule(self._model.table, inputs) * least_in_cell)[:, None])
        holes = Inpainted(filled, (confidence < 0.5).float()[None, None])
        return joined(self._painted(frame, source, guide, confidence, holes, window), prior, confidence)

    def _painted(
        self,
        frame: Frame,
        source: Tensor,
        guide: LatentGuide | None,
        confidence: Tensor | None,
        holes: Inpainted | None,
        window: Window,
    ) -> Tensor:
        key = self._key(frame)
        start = self._init(source, key.shot, None if guide is None else guide.k0, confidence)
        height, width = (side // self._cell for side in frame.size)
        part = LatentPart(window.top // self._cell, window.left // self._cell, height, width)
        latents = self._model.denoise(start, key, guide, self._on_step, picture=source, known=holes, part=part)
        return self._model.decode(latents)[0]


def filled_around(guide: Guide) -> Tensor:
    """The prior [3, H, W], with what is not known filled from well inside what is."""
    ones = torch.ones_like(guide.confidence)[None, None]
    inside = ops.paste(torch.zeros_like(ones), ones, guide.confidence[None], feather_px=RAMP_PX)[0]
    return ops.fill(guide.prior[None], inside)[0]
