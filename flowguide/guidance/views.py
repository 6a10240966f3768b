"""What a frame shows of the frames in which its pixels were painted: paths to them, and their pictures along these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..types import Frame
from .detail import detail
from .paths import Path
from .stretch import log_area, soundness, unsqueezed
from .trust import DOUBT, allowed_change, decided, unchanged

MOST_ORIGINS = 3
"""Frames that pixels are read from at a time; those of further ones are painted over into the newest."""
LEAST_OWNED = 0.02
"""Share of the frame below which an origin is given up likewise."""
SAME_WAY_PX = 1.0
"""Two ways to one origin that end further apart are not mixed."""


@dataclass(frozen=True)
class Origin:
    """A frame in which pixels were painted, as it is seen from an anchor."""

    index: int
    painted: Tensor
    """[7, H, W]: the finished picture, the source's colours when each pixel was painted, and its detail then."""
    path: Path
    """From the anchor to the origin; its confidence is 1 where the anchor's pixels are the origin's."""


class Way(NamedTuple):
    """How a frame comes to an origin."""

    origin: Origin
    path: Path
    share: Tensor | float
    """[H, W] or one number: how much the origin counts beside others."""


@dataclass(frozen=True)
class Views:
    """The origins as they are seen from one frame, N of them."""

    ways: Sequence[Way]
    warped: Tensor
    """[N, 7, H, W]: what they have painted, 0 where that is not believed."""
    confidence: Tensor
    """[N, H, W]"""
    weights: Tensor
    """[N, H, W]: confidence times share."""

    def mixed(self) -> tuple[Tensor, Tensor]:
        """[7, H, W], the mean of what the origins have painted, 0 where nothing is known; and [H, W], how far it is."""
        confidence = self.confidence.amax(0)
        mean = ops.composite(self.warped[None], self.weights[None])[0][0]
        return mean.mul_(confidence > 0), confidence

    def painted_in(self) -> Tensor:
        """int64 [H, W]: number of the frame in which most of each carried pixel was painted."""
        numbers = torch.tensor([way.origin.index for way in self.ways], device=self.weights.device)
        return numbers[self.weights.argmax(0)]

    def most(self) -> Way:
        """The way to the origin that counts most."""
        return self.ways[int(self.weights.mean((1, 2)).argmax())]

    def distance_px(self) -> Tensor:
        """[H, W]: length of the flow to the origin that is trusted most."""
        lengths = torch.stack([torch.hypot(way.path.uv[0], way.path.uv[1]) for way in self.ways])
        return lengths.gather(0, self.confidence.argmax(0, keepdim=True))[0].nan_to_num()


def own_origin(frame: Frame, picture: Tensor) -> Origin:
    """The origin of a frame all of whose pixels are its own."""
    painted = torch.cat([picture, source_of(frame), detail(picture)[None]])
    return _origin(frame, painted, torch.ones_like(picture[0]))


def source_of(frame: Frame) -> Tensor:
    """The frame's colours, [3, H, W] in [-1, 1]."""
    return ops.to_model(frame.rgb[None])[0]


def views_of(source: Tensor, ways: Sequence[Way]) -> Views:
    """What a frame of the colours `source` [3, H, W] sees along `ways`; those that lead nowhere are left out."""
    followed = [way for way in ways if float(way.path.confidence.amax()) > DOUBT] or ways[:1]
    size = source.shape[1:]
    warped = source.new_empty(len(followed), 7, *size)
    confidence, weights = source.new_empty(len(followed), *size), source.new_empty(len(followed), *size)
    allowed = allowed_change(source)
    for place, (origin, (uv, believed), share) in enumerate(followed):
        seen = warped[place]
        followed_uv = uv.masked_fill(believed <= DOUBT, torch.nan)  # what is not known costs nothing to warp
        ops.warp(origin.painted[None], followed_uv[None], mode="bicubic", out=seen[None])
        areas = log_area(uv)
        trusted = decided(unchanged(source, seen[3:6], allowed).mul_(believed))
        torch.mul(trusted.mul_(unsqueezed(areas)), soundness(areas), out=confidence[place])
        torch.mul(confidence[place], share, out=weights[place])
    return Views(followed, warped, confidence, weights)


def ways_between(
    left: Path, right: Path, before: Sequence[Origin], after: Sequence[Origin], progress: float
) -> list[Way]:
    """Ways to all origins of both anchors; those of the later one count as much as there is `progress`."""
    ways_left = {origin.index: (origin, left.then(origin.path)) for origin in before}
    ways_right = {origin.index: (origin, right.then(origin.path)) for origin in after}
    ways = []
    for index, (origin, path) in {**ways_left, **ways_right}.items():
        if index in ways_left and index in ways_right:
            ways.append(Way(origin, *_mixed(ways_left[index][1], ways_right[index][1], progress)))
        else:
            ways.append(Way(origin, path, progress if index in ways_right else 1.0 - progress))
    return ways


def origins_after(
    frame: Frame, source: Tensor, picture: Tensor, views: Views, carried: Tensor, own: Tensor
) -> list[Origin]:
    """The origins of the anchor `frame`: the earlier ones that still own enough of it, and itself for its own pixels.

    carried, own: [H, W], where the finished `picture` [3, H, W] is carried, and where it was painted for this frame.
    What is neither belongs to nobody, and is unknown in the next frames again.
    """
    total = views.confidence.sum(0).clamp_min_(1e-6)
    owned = [(confidence / total * carried, place) for place, confidence in enumerate(views.confidence)]
    owned.sort(key=lambda pair: -float(pair[0].mean()))
    kept: list[Origin] = []
    rest, travels = own, torch.cat([source, detail(picture)[None]])
    birth = (1.0 - carried) * travels
    for share, place in owned:
        birth = birth + share * views.warped[place, 3:]
        way = views.ways[place]
        if len(kept) < MOST_ORIGINS - 1 and float(share.mean()) > LEAST_OWNED:
            kept.append(replace(way.origin, path=Path(way.path.uv, share)))
        else:
            rest = rest + share
    return [*kept, _origin(frame, torch.cat([picture, birth]), rest)]


def _origin(frame: Frame, painted: Tensor, owned: Tensor) -> Origin:
    return Origin(frame.index, painted, Path(painted.new_zeros(2, *painted.shape[1:]), owned))


def _mixed(left: Path, right: Path, progress: float) -> tuple[Path, Tensor]:
    """Two ways to one origin as one, and how much it counts; where they end apart, the weightier one."""
    weight_right = right.confidence * progress
    total = torch.add(weight_right, left.confidence, alpha=1.0 - progress)
    lean = weight_right.add_(1e-6 * progress).div_(total + 1e-6)
    apart = (left.uv - right.uv).square_().sum(0) > SAME_WAY_PX**2
    lean = torch.where(apart, (lean > 0.5).to(lean.dtype), lean)
    confidence = torch.maximum(left.confidence, right.confidence)
    share = total.div_(confidence.clamp_min(1e-6))
    return Path(torch.lerp(left.uv, right.uv, lean), confidence), share
