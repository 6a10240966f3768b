"""What resampling takes from carried pixels is given back: no more than they had when they were painted.

Detail is measured as the squared Laplacian of the luma. A pixel carries its value from the frame in which it was
painted; in cells where the warped picture has less, its own finest band is amplified until it has as much. Nothing is
taken from any other picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CELL_PX = 16
"""Side of the cells."""
RESTORED = 0.95
"""Share of the detail that is given back: all of it would amplify what interpolation added."""
LARGEST_GAIN = 1.0
"""Most that the finest band is amplified by: a zoom has no detail to give back."""


def detail(picture: Tensor) -> Tensor:
    """Squared Laplacian of the luma, [H, W], of a picture [3, H, W]."""
    return _laplacian(_luma(picture)).square()


def restored(picture: Tensor, wanted: Tensor) -> Tensor:
    """`picture` [3, H, W] with the finest band of its luma amplified where its detail is below `wanted` [H, W].

    The gain g solves sum (L(picture) + g L(band))² = wanted over each cell, L the Laplacian of the luma.
    """
    luma = _luma(picture)
    band = torch.sub(luma, _blurred(luma))
    here, fine = _laplacian(luma), _laplacian(band)
    energy, mixed, fine_energy = _pooled(here.square()), _pooled(here * fine), _pooled(fine.square_()).clamp_min(1e-9)
    missing = (RESTORED * _pooled(wanted) - energy).clamp_min(0.0)
    gain = ((mixed.square() + fine_energy * missing).sqrt() - mixed) / fine_energy
    return picture + band.mul_(_spread(gain.clamp(0.0, LARGEST_GAIN), picture.shape[1:]))


def _luma(picture: Tensor) -> Tensor:
    return (0.299 * picture[0]).add_(picture[1], alpha=0.587).add_(picture[2], alpha=0.114)


def _laplacian(luma: Tensor) -> Tensor:
    padded = F.pad(luma[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    across = (padded[1:-1, :-2] + padded[1:-1, 2:]).sub_(luma, alpha=4.0)
    return across.add_(padded[:-2, 1:-1]).add_(padded[2:, 1:-1])


def _blurred(luma: Tensor) -> Tensor:
    """Binomial 1 2 1 along both axes."""
    padded = F.pad(luma[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    rows = (padded[:-2] + padded[2:]).add_(padded[1:-1], alpha=2.0)
    return (rows[:, :-2] + rows[:, 2:]).add_(rows[:, 1:-1], alpha=2.0).mul_(1 / 16)


def _pooled(values: Tensor) -> Tensor:
    """The mean of every cell, those at the border of the pixels they have: down first, along lines of memory."""
    height, width = values.shape
    below, right = -height % CELL_PX, -width % CELL_PX
    if below or right:
        values = F.pad(values, (0, right, 0, below))
    rows, columns = (side // CELL_PX for side in values.shape)
    lines = values.reshape(rows, CELL_PX, columns * CELL_PX).sum(1)
    total = lines.view(rows, columns, CELL_PX).sum(2)
    total[-1] *= CELL_PX / (CELL_PX - below)
    total[:, -1] *= CELL_PX / (CELL_PX - right)
    return total.div_(CELL_PX**2)


def _spread(cells: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(cells[None, None], tuple(size), mode="bilinear", align_corners=False)[0, 0]
