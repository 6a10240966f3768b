"""DIS, filled in from textured surroundings where the picture has no texture of its own.

On walls, floors and skies nothing holds a search: it follows noise and changes of light, differently in every frame,
and a painting that is carried along drifts and tears. Here a place without texture takes the motion of the textured
places around it (push-pull, docs/math.md, section 6), and none at all where the camera stands still; unless the two
pictures look clearly worse so. They are compared without their local mean, for a shadow that passes over a wall is no
motion of the wall. All of this happens at half resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import ops
from ..types import Frame
from .confidence import Confidence
from .dis import DIS, search
from .protocol import field, grey

Picture = NDArray[np.float32]

TEXTURE_LEVELS, RESTING_LEVELS = 3.0, 4.5
"""Gradient, in grey levels a half pixel, from which a place counts a quarter as textured; and the same where the
camera rests, where a place needs more of it to be believed to move."""
WINDOW, LOCAL_MEAN = (5, 5), (9, 9)
"""Windows in half pixels: of texture and differences; of the mean that is taken off the differences."""
OVERFIT = 0.2
"""Share by which a search lowers the difference of the pictures by following noise."""
AGREED_LEVELS, CONTRADICTED_LEVELS = 0.1, 0.5
"""How much larger the difference may become where both directions of the search agree, and where they do not."""
AGREED_PX = 1.5
"""How far a flow may be changed on which both directions agree."""
STILL_PX, SLOW_PX = 0.15, 0.5
"""Flow that may be none at all; and motion of the surroundings that is taken for none where the camera rests."""
RESTING_SHARE, STILL_SHARE = 0.5, 0.2
"""Of the textured pixels of the frame, and of those around a place, that must stand still for that."""


class FilledDIS(DIS):
    """`DIS` whose flow is that of the textured surroundings where there is no texture."""

    def __init__(self, preset: str = "balanced", *, confidence: str | Confidence | None = "check"):
        super().__init__(preset, confidence=confidence)

    @property
    def name(self) -> str:
        return f"{super().name}-filled"

    def displacement(self, at: Frame, to: Frame) -> Tensor:
        return self.displacements(at, to)[0]

    def displacements(self, at: Frame, to: Frame) -> tuple[Tensor, Tensor]:
        here, there = grey(at), grey(to)
        uv, back = search(here, there, self.preset), search(there, here, self.preset)
        if min(at.size) < 4:
            return field(uv, at), field(back, at)
        planes, planes_back = _planes(uv), _planes(back)
        half, half_there = _half(here), _half(there)
        small, small_back = _halved(planes), _halved(planes_back)
        _fill(planes, *_surroundings(half, half_there, small, small_back))
        _fill(planes_back, *_surroundings(half_there, half, small_back, small))
        device = at.rgb.device
        return torch.from_numpy(np.stack(planes)).to(device), torch.from_numpy(np.stack(planes_back)).to(device)


def _surroundings(here: Picture, there: Picture, uv: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """(flow of the textured surroundings [2, h, w], where it is better [h, w] in [0, 1]), in half pixels."""
    agrees, energy = _agree(uv, back), _gradient_energy(here)
    still = (uv.square().sum(0) < (STILL_PX / 2) ** 2).float()
    votes = agrees * _textured(energy, TEXTURE_LEVELS)
    resting = float((still * votes).sum()) >= RESTING_SHARE * float(votes.sum())
    if resting:
        votes = agrees * _textured(energy, RESTING_LEVELS)
    filled = ops.fill(torch.cat([uv, still[None]])[None], votes[None])[0]
    around, still_around = filled[:2], filled[2]
    if resting:
        slow = around.square().sum(0) < (SLOW_PX / 2) ** 2
        around = around * (1 - _softened(slow & (still_around > STILL_SHARE)))
    worse = _difference(here, there, around) - (1 + OVERFIT) * _difference(here, there, uv)
    near = (around - uv).square().sum(0) < (AGREED_PX / 2) ** 2
    better = torch.where(agrees, (worse <= AGREED_LEVELS) & near, worse <= CONTRADICTED_LEVELS)
    return around, _softened(better)


def _agree(uv: Tensor, back: Tensor) -> Tensor:
    """bool [h, w]: forward-backward consistency with Ruder et al.'s constants."""
    constants = ops.ConfidenceSettings(boundary=False, photometric=None)
    return ops.predict(uv[None, :1], uv[None], back[None], mode="bilinear", settings=constants).confidence[0] > 0.5


def _gradient_energy(picture: Picture) -> Tensor:
    across, down = (cv2.Sobel(picture, cv2.CV_32F, *order) / 4 for order in ((1, 0), (0, 1)))
    return torch.from_numpy(cv2.blur(across**2 + down**2, WINDOW))


def _textured(energy: Tensor, levels: float) -> Tensor:
    """[h, w] in [0, 1]."""
    return (energy / (energy + levels**2)).square()


def _difference(here: Picture, there: Picture, uv: Tensor) -> Tensor:
    """Mean absolute difference along the flow, less its local mean, in grey levels [h, w]."""
    moved = ops.warp(torch.from_numpy(there)[None, None], uv[None], mode="bilinear")[0, 0]
    difference = here - moved.numpy()
    difference -= cv2.blur(difference, LOCAL_MEAN)
    return torch.from_numpy(cv2.blur(np.abs(difference), WINDOW))


def _softened(region: Tensor) -> Tensor:
    """1 inside and near the region, falling off over a few pixels."""
    grown = cv2.dilate(region.numpy().astype(np.float32), np.ones((3, 3), np.uint8))
    return torch.from_numpy(cv2.GaussianBlur(grown, (0, 0), 2))


def _half(picture: NDArray[np.uint8]) -> Picture:
    size = (picture.shape[1] // 2, picture.shape[0] // 2)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.float32)


def _planes(uv: Picture) -> list[Picture]:
    return [np.asarray(plane, dtype=np.float32) for plane in cv2.split(uv)]


def _halved(planes: Sequence[Picture]) -> Tensor:
    """Flow [H, W] each of u and v in pixels -> [2, h, w] in half pixels."""
    height, width = (side // 2 for side in planes[0].shape)
    whole = (plane[: 2 * height, : 2 * width] for plane in planes)
    small = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA) for plane in whole]
    return torch.from_numpy(np.stack(small)).mul_(0.5)


def _fill(planes: Sequence[Picture], around: Tensor, better: Tensor) -> None:
    """Set the flow `planes` [H, W] to that of `around` [2, h, w] in half pixels, where that is `better` [h, w]."""
    size = planes[0].shape[::-1]
    # OpenCV resizes a plane in a twentieth of the time that torch takes, with the same result.
    share, *flow = (cv2.resize(plane.numpy(), size, interpolation=cv2.INTER_LINEAR) for plane in (better, *around * 2))
    for plane, other in zip(planes, flow, strict=True):
        other -= plane
        other *= share
        plane += other
