"""Sampling a picture at real positions: border rules and tap weights (docs/math.md, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

FARTHEST_PX = 2.0**22
"""Coordinates are clamped to this distance, so that their integer parts are exact in every implementation."""


def extended(index: Tensor, length: int, border: str) -> Tensor:
    """Where the picture, continued beyond its border, takes the value at `index` from."""
    if border == "wrap":
        return index.remainder(length)
    if border == "reflect":  # about the outermost centres, the outermost pixel once: d c b | a b c d | c b a
        period = max(2 * (length - 1), 1)
        index = index.remainder(period)
        return torch.minimum(index, period - index) if length > 1 else torch.zeros_like(index)
    return index.clamp(0, length - 1)


SPLINE36 = ((13, -453 / 19, -3 / 19, 11), (-6, 270 / 19, -156 / 19, 0), (1, -45 / 19, 26 / 19, 0))
"""Elevenths of the cubics in t, highest power first, of the taps at distance t, t + 1 and t + 2."""


def tap_weights(fraction: Tensor, mode: str) -> list[tuple[int, Tensor]]:
    """(offset, weight) of each tap along one axis."""
    t = fraction
    if mode == "bilinear":
        return [(0, 1 - t), (1, t)]
    if mode == "spline36":
        left, right = ([((a * d + b) * d + c) * d / 11 + e / 11 for a, b, c, e in SPLINE36] for d in (t, 1 - t))
        return [*zip((-2, -1, 0), reversed(left), strict=True), *zip((1, 2, 3), right, strict=True)]
    return [  # Keys' cubic with a = -1/2, that is Catmull-Rom
        (-1, ((-0.5 * t + 1) * t - 0.5) * t),
        (0, (1.5 * t - 2.5) * t * t + 1),
        (1, ((-1.5 * t + 2) * t + 0.5) * t),
        (2, (0.5 * t - 0.5) * t * t),
    ]


def sampled(image: Tensor, x: Tensor, y: Tensor, mode: str, border: str) -> Tensor:
    """image [N, C, H, W] at (x, y), each [N, h, w]; 0 where x or y is not finite."""
    height, width = image.shape[-2:]
    known = x.isfinite() & y.isfinite()
    x = torch.where(known, x, 0).clamp(-FARTHEST_PX, FARTHEST_PX)
    y = torch.where(known, y, 0).clamp(-FARTHEST_PX, FARTHEST_PX)
    left, top = x.floor(), y.floor()
    if mode == "bilinear" and border == "edge":  # the same value, from two pixels of the picture wherever it has two
        x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
        left, top = x.floor().clamp(max=max(width - 2, 0)), y.floor().clamp(max=max(height - 2, 0))
    flat = image.flatten(2)
    total = torch.zeros((*image.shape[:2], *x.shape[1:]), dtype=image.dtype, device=image.device)
    for dy, weight_y in tap_weights(y - top, mode):
        for dx, weight_x in tap_weights(x - left, mode):
            column, row = left.long() + dx, top.long() + dy
            index = extended(row, height, border) * width + extended(column, width, border)
            value = flat.gather(2, index.flatten(1)[:, None].expand(-1, image.shape[1], -1)).view_as(total)
            if border == "zero":
                here = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                value = torch.where(here[:, None], value, 0)
            total = total + (weight_y * weight_x)[:, None] * value
    return torch.where(known[:, None], total, 0)
