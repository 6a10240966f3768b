"""Textured pictures that move in a known way."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from flowguide.types import Frame


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """uint8 [3, H, W]: smooth coloured noise with detail at several scales and full contrast."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 3, height, width)
    for cell in (2, 4, 8, 16, 32):
        coarse = torch.randn(1, 3, height // cell + 2, width // cell + 2, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, scale_factor=cell, mode="bicubic", align_corners=False)
        total += fine[:, :, :height, :width] * cell**0.5
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    return ((total - low) / (high - low) * 255).round().to(torch.uint8)[0]


def view(canvas: Tensor, top: int, left: int, size: tuple[int, int], index: int = 0) -> Frame:
    """The part of `canvas` that begins at (top, left)."""
    height, width = size
    return Frame(canvas[:, top : top + height, left : left + width].contiguous(), index)


def panned(canvas: Tensor, size: tuple[int, int], frames: int, right: int, down: int) -> list[Frame]:
    """The picture moves `right`, `down` pixels from frame to frame; the canvas is large enough for it."""
    rows, columns = canvas.shape[1] - size[0], canvas.shape[2] - size[1]
    top, left = (rows if down > 0 else 0), (columns if right > 0 else 0)
    return [view(canvas, top - down * i, left - right * i, size, i) for i in range(frames)]


def passing(count: int, size: tuple[int, int], cuts: Sequence[int] = ()) -> list[Frame]:
    """A camera that moves right by 1 px a frame, over another smooth texture from each frame in `cuts` on."""
    height, width = size
    frames, seed = [], 0
    for index in range(count):
        seed += index in cuts
        coarse = np.random.default_rng(seed).random((24, 60, 3), dtype=np.float32)
        whole = (cv2.resize(coarse, (480, 192), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255).astype(np.uint8)
        picture = whole[40 : 40 + height, 30 + index : 30 + index + width]
        frames.append(Frame(torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))), index, 3 * index))
    return frames


def inner(field: Tensor, margin: int) -> Tensor:
    """Without `margin` pixels at each side."""
    return field[..., margin:-margin, margin:-margin]


def numbers(curve: list[float | None]) -> np.ndarray:
    """The values of a curve where it has any."""
    return np.array([value for value in curve if value is not None])
