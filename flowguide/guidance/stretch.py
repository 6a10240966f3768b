"""How far carried pixels have been stretched since they were generated.

A smooth flow explains a dis-occlusion as a stretch: what is uncovered one pixel a frame is filled, frame after frame,
with the pulled-out edge of its surroundings, and every pair of frames agrees with it. The area that a pixel covers in
the frame before, multiplied along the way, tells: far below 1, its content was pulled out of too few pixels.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

WORN_OUT, SOUND = math.log(0.6), math.log(0.8)
"""Log area up to which a pixel is generated anew, and from which it is carried as it is."""

SQUEEZED, CRUSHED = math.log(1.5), math.log(2.0)
"""Log area beyond that of the whole frame, up to which a pixel is carried as it is, and from which not at all."""


def log_area(uv: Tensor) -> Tensor:
    """log det(I + ∇uv), [H, W]: the area in the other frame that one pixel of this one is read from.

    uv: float [2, H, W] in pixels. Central differences; a fold (det ≤ 0) counts as an area of 1/20.
    """
    padded = F.pad(uv[None], (1, 1, 1, 1), mode="replicate")[0]
    across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]).mul_(0.5)
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]).mul_(0.5)
    determinant = across[0].add_(1.0).mul_(down[1].add_(1.0)).addcmul_(down[0], across[1], value=-1.0)
    return determinant.clamp_(0.05, 20.0).log_()


def soundness(log_areas: Tensor) -> Tensor:
    """Factor of the confidence, [H, W] in [0, 1], from the log area accumulated since a pixel was generated."""
    return ((log_areas - WORN_OUT) / (SOUND - WORN_OUT)).clamp_(0.0, 1.0)


def unsqueezed(log_areas: Tensor) -> Tensor:
    """Factor of the confidence, [H, W] in [0, 1]: little where a place is read from many more pixels than it has.

    A smooth flow squeezes what a moving thing covers along its edge, and drawn with every pixel skipped it is a contour
    that nobody painted. What the whole frame does, a camera that moves away, is no fault.
    """
    whole = log_areas[::8, ::8].nanmedian().clamp_min(0.0)
    return ((CRUSHED + whole - log_areas) / (CRUSHED - SQUEEZED)).clamp_(0.0, 1.0)
