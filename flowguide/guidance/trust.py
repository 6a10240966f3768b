"""From a measured confidence to a decision, and the seed's unsharp mask of the guide."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import ConfidenceSettings

log = logging.getLogger("flowguide.guidance")

TRUST = ConfidenceSettings(boundary=False, absolute_floor_px2=1.0)
"""How a flow is trusted here; why so: docs/decisions/0002-confidence.md."""

DOUBT, TRUSTED = 0.4, 0.6
"""Confidence up to which a pixel is generated, and from which it is carried. In between both are mixed, and a mixture
of two paintings is a blurred one: so the range is short."""


def decided(confidence: Tensor) -> Tensor:
    """`confidence` in [0, 1], stretched toward 0 and 1."""
    return ((confidence - DOUBT) / (TRUSTED - DOUBT)).clamp_(0.0, 1.0)


CHANGE = 0.1
"""Mean absolute difference of the source, range [-1, 1], that halves the trust in a carried pixel."""
MISREGISTERED_PX = 0.5
"""Error of the flow at which an edge of the source is not yet taken for a change."""


def unchanged(source: Tensor, seen: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Whether the source still looks as it did when each carried pixel was generated, [H, W] in [0, 1].

    source, seen: [3, H, W] in [-1, 1]. allowed: what `allowed_change` says of `source`, where it is known already. Not
    frame against frame: a fade, a slow change of light or a slowly slipping flow passes every such test and adds up.
    """
    difference = total((source - seen).abs_())
    difference.div_(allowed_change(source) if allowed is None else allowed)
    return difference.square_().square_().add_(1.0).reciprocal_()


def allowed_change(source: Tensor) -> Tensor:
    """The difference to `source` [3, H, W], summed over its channels, that halves the trust, [H, W]."""
    luma = total(source)
    steepest, down = torch.zeros_like(luma), torch.zeros_like(luma)
    torch.sub(luma[:, 1:], luma[:, :-1], out=steepest[:, :-1])
    torch.sub(luma[1:], luma[:-1], out=down[:-1])
    torch.maximum(steepest.abs_(), down.abs_(), out=steepest)
    return steepest.mul_(MISREGISTERED_PX).add_(len(source) * CHANGE)


def total(picture: Tensor) -> Tensor:
    """The sum over the channels of [3, H, W]: as three passes it takes half the time of `sum`."""
    return (picture[0] + picture[1]).add_(picture[2])


def unsharp(picture: Tensor, amount: float) -> Tensor:
    """`picture` + amount·(picture − blurred), [3, H, W]; the blur has σ = 2 px. 0 returns the picture itself."""
    if amount == 0.0:
        return picture
    reach = 6
    offsets = picture.new_tensor([float(x) for x in range(-reach, reach + 1)])
    kernel = (-(offsets**2) / 8.0).exp()
    kernel = kernel / kernel.sum()
    channels = picture.shape[0]
    padded = F.pad(picture[None], (reach,) * 4, mode="replicate")
    across = F.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    blurred = F.conv2d(across, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)[0]
    return (picture + amount * (picture - blurred)).clamp(-1.0, 1.0)


class Beginnings:
    """Logs where frames within a shot have to begin anew: the first of each row of such frames."""

    def __init__(self) -> None:
        self._told = False

    def is_anew(self, index: int, share: float, least: float) -> bool:
        """Whether frame `index`, of which `share` is known from finished frames, begins anew: under `least`."""
        anew = share < least
        if anew and not self._told:
            log.warning(
                "Frame %d begins anew: %.1f %% of it can be told from finished frames, less than the cut share of %g.",
                index,
                100.0 * share,
                least,
            )
        self._told = anew
        return anew
