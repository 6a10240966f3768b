"""Frames that are denoised together pull each other toward one picture, at every step.

math.md, section 7. With x̂_i the prediction of frame i, W_ij the warp of frame j to it and c_ij its confidence,
one Jacobi step on the smoothness energy

    E = Σ_i |x_i − x̂_i|² + Σ_ij c_ij |x_i − W_ij x_j|²

is x_i = (x̂_i + Σ_j c_ij W_ij x̂_j) / (1 + Σ_j c_ij): the guide k0_i is the confidence-weighted mean of what the others
predict, and its weight is Σc / (1 + Σc). A full pull toward the mean would let two frames change places at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from .paths import Path
from .trust import decided, unchanged

Rows = Sequence[Sequence[Path | None]]
"""Path from each frame under way to every frame that pulls it, None to itself."""


@dataclass(frozen=True)
class Mutual:
    """What each frame under way sees of each frame that pulls it."""

    flows: Tensor
    """[N, K, 2, h, w] in latent cells."""
    trusts: Tensor
    """[N, K, h, w] in [0, 1]; 0 to itself."""
    base: Tensor
    """Pull at each step, [steps, N, h, w] in [0, 1], by the schedule."""
    fixed: Tensor
    """Latents [F, C, h, w] of finished frames: the last F of the K."""

    def __call__(self, step: int, x0: Tensor) -> tuple[Tensor, Tensor]:
        """k0 [N, C, h, w] and its weight [N, h, w] from the unguided predictions `x0` [N, C, h, w]."""
        there = torch.cat([x0, self.fixed])
        rows = [ops.warp(there, flow, mode="bicubic") for flow in self.flows]
        mean, _ = ops.composite(torch.stack(rows), self.trusts)
        total = self.trusts.sum(1)
        sure = total[:, None]
        k0 = x0 + _smoothed(sure * (mean - x0)) / _smoothed(sure).clamp_min(1e-6)
        return k0, self.base[step] * total / (1.0 + total)


def seen_cells(path: Path, source: Tensor, there: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """Flow [2, h, w] in latent cells and trust [h, w] of a path between two frames.

    source, there: the sources [3, H, W] in [-1, 1] at its two ends. A cell is trusted as its least trusted pixel.
    """
    moved = ops.warp(there[None], path.uv[None])[0]
    trust = decided(path.confidence * unchanged(source, moved)).nan_to_num()
    flow = F.avg_pool2d(path.uv.nan_to_num()[None], cell)[0] / cell
    return flow, -F.max_pool2d(-trust[None], cell)[0]


def _smoothed(values: Tensor) -> Tensor:
    """Binomial 1 2 1 over the cells, [N, C, h, w]; zeros outside."""
    kernel = values.new_tensor([1.0, 2.0, 1.0]) / 4.0
    channels = values.shape[1]
    both = (kernel[:, None] * kernel).expand(channels, 1, 3, 3)
    return F.conv2d(values, both, padding=1, groups=channels)
