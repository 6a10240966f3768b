"""What resampling takes from carried pixels is given back: no more than they had when they were painted.

Detail is measured as the squared Laplacian of the luma. A pixel carries its value from the frame in which it was
painted; in cells where the warped picture has less, its own finest band is amplified until it has as much. Nothing is
taken from any other picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..seams import pooled, spread

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
    measured = pooled(torch.stack([here.square(), here * fine, fine.square_(), wanted]), CELL_PX)
    energy, mixed, fine_energy = measured[0], measured[1], measured[2].clamp_min(1e-9)
    missing = (RESTORED * measured[3] - energy).clamp_min(0.0)
    gain = ((mixed.square() + fine_energy * missing).sqrt() - mixed) / fine_energy
    return picture + band.mul_(spread(gain.clamp(0.0, LARGEST_GAIN)[None], (luma.shape[0], luma.shape[1]))[0])


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
