"""DIS for cameras that stand still: walls, floors and skies do not drift.

On plain surfaces nothing holds a search; it finds small motions that the opposite direction contradicts, and such
pixels are lost. Where most of the textured picture stands still, this estimator gives those pixels no motion, if the
picture looks no worse for it and the textured surroundings stand still as well. So the inside of a plain moving thing,
whose outline moves, keeps its flow.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import ops
from ..types import Frame
from .confidence import forward_backward
from .dis import DIS
from .protocol import grey

Field = NDArray[np.float32]

SLOW_PX, STILL_PX = 0.5, 0.15
"""Textured pixels with shorter flow may well stand still, and do."""
STILL_SHARE = 0.5
"""Of the textured pixels of the frame, and of those around a pixel, that must stand still."""
TEXTURE_LEVELS = 5.0
"""Gradient, in grey levels a pixel, from which a place counts half as textured."""
CONTRADICTED_LEVELS = 1.0
"""How much larger the difference of the pictures may be without motion than along a flow that is contradicted."""
OVERFIT = 0.2
"""Share by which a search lowers that difference by following the noise."""
IDLE_PX, IDLE_LEVELS = 1.0, 0.3
"""How long a flow that is not contradicted may be, and how much larger that difference, to be taken for none."""


class StillDIS(DIS):
    """`DIS` whose contradicted flow is zero where the picture stands still; elsewhere, and in pans, the same."""

    @property
    def name(self) -> str:
        return f"{super().name}-still"

    def displacement(self, at: Frame, to: Frame) -> Tensor:
        return self.displacements(at, to)[0]

    def displacements(self, at: Frame, to: Frame) -> tuple[Tensor, Tensor]:
        uv, back = DIS.displacement(self, at, to), DIS.displacement(self, to, at)
        return _at_rest(at, to, uv, back), _at_rest(to, at, back, uv)


def _at_rest(at: Frame, to: Frame, uv: Tensor, back: Tensor) -> Tensor:
    agrees = forward_backward(at, to, uv, back) > 0.5
    here, there = (grey(frame).astype(np.float32) for frame in (at, to))
    length = uv.square().sum(0).sqrt()
    votes = agrees * torch.from_numpy(_texture(here)).to(uv.device)
    if float((votes * (length < SLOW_PX)).sum()) < STILL_SHARE * float(votes.sum()):
        return uv
    slow, still = (ops.fill((length < px).float()[None, None], votes[None])[0, 0] for px in (SLOW_PX, STILL_PX))
    without, along = (torch.from_numpy(_mean(np.abs(here - p))).to(uv.device) for p in (there, _moved(there, uv)))
    worse = without - (1 + OVERFIT) * along
    wrong = ~agrees & (slow > STILL_SHARE) & (worse <= CONTRADICTED_LEVELS)
    idle = agrees & (length < IDLE_PX) & (still > STILL_SHARE) & (worse <= IDLE_LEVELS)
    return uv * (1 - _softened(wrong | idle) * (slow > STILL_SHARE))


def _texture(picture: Field) -> Field:
    across, down = (cv2.Sobel(picture, cv2.CV_32F, *order) / 4 for order in ((1, 0), (0, 1)))
    energy = cv2.blur(across**2 + down**2, (7, 7))
    return np.asarray((energy / (energy + TEXTURE_LEVELS**2)) ** 2, dtype=np.float32)


def _moved(picture: Field, uv: Tensor) -> Field:
    return ops.warp(torch.from_numpy(picture)[None, None].to(uv.device), uv[None])[0, 0].cpu().numpy()


def _mean(picture: Field) -> Field:
    return np.asarray(cv2.blur(picture, (9, 9)), dtype=np.float32)


def _softened(region: Tensor) -> Tensor:
    """1 inside and near the region, falling off over a few pixels."""
    grown = cv2.dilate(region.cpu().numpy().astype(np.float32), np.ones((5, 5), np.uint8))
    return torch.from_numpy(cv2.GaussianBlur(grown, (0, 0), 4)).to(region.device)
