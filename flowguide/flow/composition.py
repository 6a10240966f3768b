"""Flow over many frames: composed step by step to an anchor, from which pixels are then read once.

Reading through every frame between resamples a picture once per frame, and each time dims its detail. A composed flow
resamples once, but the error of every step stays in it, so what it says is believed less the older it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..types import Flow

HALF_LIFE = 24.0
"""Compositions after which confidence is halved."""
BLUR_PX2 = 0.5
"""Variance of the resampling blur that halves the confidence: twice the most of one bilinear reading."""


@dataclass(frozen=True)
class Route:
    """The way from a frame back to its anchor."""

    flow: Flow
    """From the frame to the anchor; its confidence is the product of all steps', without ageing."""
    compositions: Tensor
    """float [H, W]: how many flows were composed for each pixel."""
    blur_px2: Tensor
    """float [H, W]: variance that the flows' own interpolation along the way adds, px^2."""

    @staticmethod
    def begin(flow: Flow) -> Route:
        """A single step: the flow itself."""
        confidence = torch.ones_like(flow.uv[0]) if flow.confidence is None else flow.confidence
        known = Flow(flow.uv, flow.at, flow.to, confidence)
        return Route(known, torch.ones_like(confidence), torch.zeros_like(confidence))

    def after(self, step: Flow) -> Route:
        """The route of the frame that `step` leads here from: F_{n→a}(p) = F_{n→m}(p) + F_{m→a}(p + F_{n→m}(p))."""
        confidence = None if step.confidence is None else step.confidence[None]
        assert self.flow.confidence is not None
        uv, trust = ops.compose(step.uv[None], self.flow.uv[None], confidence, self.flow.confidence[None])
        carried = ops.warp(torch.stack([self.compositions, self.blur_px2])[None], step.uv[None])[0]
        flow = Flow(uv[0], step.at, self.flow.to, trust[0])
        return Route(flow, carried[0] + 1, carried[1] + reading_blur(step.uv))

    def aged(self, half_life: float = HALF_LIFE, blur_px2: float = BLUR_PX2) -> Flow:
        """The flow with its confidence lowered by age: halved after `half_life` compositions, and where the blur has
        the variance `blur_px2`. One step alone is not aged."""
        assert self.flow.confidence is not None
        age = 0.5 ** ((self.compositions - 1) / half_life) / (1 + self.blur_px2 / blur_px2)
        return Flow(self.flow.uv, self.flow.at, self.flow.to, self.flow.confidence * age)


def reading_blur(uv: Tensor) -> Tensor:
    """float [H, W], px^2: variance of the bilinear kernel with which the ends of `uv` [2, H, W] are read, f (1 - f) for
    the fraction f of each axis, their mean: 0 at whole pixels, 1/4 half way between."""
    fraction = uv - uv.floor()
    return (fraction * (1 - fraction)).mean(0).nan_to_num()
