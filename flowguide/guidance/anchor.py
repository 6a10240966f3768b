"""Warp once: a rolling anchor from which finished pixels are read through the composed flow.

Reading each frame from the one before resamples a pixel once per frame and dims its detail each time. Here a pixel
that has been carried without a break since the anchor is read from the anchor itself, through F_{n→anchor}; only what
was generated after the anchor comes from the frame before. What one interpolation takes is given back (see `detail`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .. import ops
from .detail import detail, restored

LONGEST_FRAMES = 24
"""Frames after which the anchor is renewed: composed flows drift."""
LEAST_KEPT = 0.6
"""Share of the frame below which it is renewed: what is younger than the anchor would go on being resampled."""
CERTAIN = 0.6
"""How much of a pixel's neighbourhood must have come from the anchor for it to be read there."""


@dataclass(frozen=True)
class Anchor:
    """A painted picture and where the current frame's pixels lie in it."""

    picture: Tensor
    """float [C, H, W]: finished pixels in three channels, and whatever else travels with them."""
    detail: Tensor
    """float [H, W]: how much detail its finished pixels have."""
    flow: Tensor
    """float [2, H, W] in pixels, from the current frame into the anchor."""
    kept: Tensor
    """float [H, W] in [0, 1]: 1 where the finished pixel is the anchor's."""
    age: int
    """Frames since the anchor."""

    @staticmethod
    def at(picture: Tensor) -> Anchor:
        """An anchor that begins at this frame."""
        _, height, width = picture.shape
        still, all_of_it = picture.new_zeros(2, height, width), picture.new_ones(height, width)
        return Anchor(picture, detail(picture[:3]), still, all_of_it, age=0)

    def state(self) -> dict[str, Any]:
        """What `from_state` needs. An anchor of age 0 is told by its age: the current picture says all of it."""
        return {"age": 0} if self.age == 0 else dict(vars(self))

    @staticmethod
    def from_state(state: Mapping[str, Any], picture: Tensor) -> Anchor:
        """The anchor that `state` told of; `picture` [C, H, W] is what the current frame keeps."""
        return Anchor(**state) if state["age"] else Anchor.at(picture)

    def carried(self, flow: Tensor, prior: Tensor) -> tuple[Anchor, Tensor]:
        """The anchor seen from the next frame, and that frame's `prior` [C, H, W] with what is known from the anchor.

        flow: float [2, H, W], from the next frame to this one. prior: this frame's picture warped by it.
        """
        composed, kept = ops.compose(flow[None], self.flow[None], None, self.kept[None])
        seen = prior if self.age == 0 else ops.warp(self.picture[None], composed, mode="spline36")[0]
        wanted = ops.warp(self.detail[None, None], composed)[0, 0]
        seen = torch.cat([restored(seen[:3], wanted), seen[3:]])
        read = (kept > CERTAIN).to(prior.dtype)
        return Anchor(self.picture, self.detail, composed[0], kept[0], self.age + 1), torch.lerp(prior, seen, read)

    def after(self, pasted: Tensor, picture: Tensor) -> Anchor:
        """The anchor once this frame's `picture` is there: `pasted` [H, W] is 1 where it is the carried one."""
        kept = self.kept * pasted
        if self.age >= LONGEST_FRAMES or float(kept.mean()) < LEAST_KEPT:
            return Anchor.at(picture)
        return replace(self, kept=kept)
