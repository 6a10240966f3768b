"""The meaning of the two ends, `to_model` and `from_model`: 8- and 10-bit surfaces and planar float in [-1, 1].

NV12 and P010 chroma is sited left: sample i lies on luma column 2i, between luma rows 2j and 2j + 1. P010 holds its ten
bits at the top of sixteen.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LUMA_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
"""Colour matrix -> (K_r, K_b)."""


class Levels(NamedTuple):
    """Code values of one component format."""

    luma_zero: float
    luma_span: float
    chroma_zero: float
    chroma_span: float
    largest: float
    unit: float
    """Stored value of code 1: 64 where ten bits lie at the top of sixteen."""


def levels(bits: int, full_range: bool) -> Levels:
    """8 bits (NV12) or 10 (P010)."""
    scale, largest, unit = 2.0 ** (bits - 8), 2.0**bits - 1, 1.0 if bits == 8 else 64.0
    if full_range:
        return Levels(0, largest, 128 * scale, largest, largest, unit)
    return Levels(16 * scale, 219 * scale, 128 * scale, 224 * scale, largest, unit)


def resize_matrix(length: int, to: int, like: Tensor) -> Tensor:
    """[to, length]: a triangle as wide as the scale when shrinking, linear interpolation when growing."""
    scale = length / to
    centre = (torch.arange(to, device=like.device, dtype=like.dtype) + 0.5) * scale - 0.5
    source = torch.arange(length, device=like.device, dtype=like.dtype)
    weights = (1 - (source - centre[:, None]).abs() / max(scale, 1.0)).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def resized(image: Tensor, height: int, width: int) -> Tensor:
    """image [N, C, H, W] -> [N, C, height, width], separably."""
    rows = resize_matrix(image.shape[2], height, image)
    columns = resize_matrix(image.shape[3], width, image)
    return torch.einsum("yh,nchw,xw->ncyx", rows, image, columns)


def chroma_at_luma(chroma: Tensor, height: int, width: int) -> Tensor:
    """chroma [N, 2, h, w] bilinearly at every luma pixel of the left siting, the border repeated."""
    x = torch.arange(width, device=chroma.device, dtype=chroma.dtype) / 2
    y = (torch.arange(height, device=chroma.device, dtype=chroma.dtype) - 0.5) / 2
    for axis, place in ((3, x), (2, y)):
        below = place.floor()
        low, high = (i.long().clamp(0, chroma.shape[axis] - 1) for i in (below, below + 1))
        share = (place - below).view(-1, 1) if axis == 2 else place - below
        chroma = chroma.index_select(axis, low) * (1 - share) + chroma.index_select(axis, high) * share
    return chroma


def rgb_from_planes(luma: Tensor, chroma: Tensor, matrix: str, full_range: bool, wide: torch.dtype) -> Tensor:
    """luma [N, H, W], chroma [N, h, w, 2] -> RGB [N, 3, H, W] in [0, 1]."""
    k_r, k_b = LUMA_WEIGHTS[matrix]
    k_g = 1 - k_r - k_b
    code = levels(8 if luma.dtype == torch.uint8 else 10, full_range)
    y = (luma.to(wide) / code.unit - code.luma_zero) / code.luma_span
    c = (chroma.to(wide) / code.unit - code.chroma_zero) / code.chroma_span
    c_b, c_r = chroma_at_luma(c.permute(0, 3, 1, 2), *luma.shape[1:]).unbind(1)
    red = y + 2 * (1 - k_r) * c_r
    blue = y + 2 * (1 - k_b) * c_b
    green = (y - k_r * red - k_b * blue) / k_g
    return torch.stack((red, green, blue), 1).clamp(0, 1)


def to_model(
    surface: Tensor,
    chroma: Tensor | None,
    matrix: str,
    full_range: bool,
    size: tuple[int, int],
    pad_to: int,
    dtype: torch.dtype,
) -> Tensor:
    """Stored codes -> planar RGB in [-1, 1], resized, right and bottom border repeated up to multiples of pad_to."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    if chroma is None:
        image = surface.to(wide) / 127.5 - 1
    else:
        image = 2 * rgb_from_planes(surface, chroma, matrix, full_range, wide) - 1
    if size != image.shape[-2:]:
        image = resized(image, *size)
    beyond = (0, -size[1] % pad_to, 0, -size[0] % pad_to)
    return torch.nn.functional.pad(image, beyond, mode="replicate").to(dtype)


def stored(code: Tensor, largest: float, unit: float) -> Tensor:
    """Rounded to nearest (half upwards), clamped; NaN is stored as 0."""
    code = torch.where(code > 0, code.clamp(max=largest), 0)
    code = (code + 0.5).floor() * unit
    return code.to(torch.uint8) if unit == 1 else code.to(torch.int32).to(torch.uint16)


def chroma_from_rgb(component: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, ceil(H/2), ceil(W/2)]: weights 1 2 1 around column 2i, the mean of rows 2j and 2j + 1."""
    height, width = component.shape[-2:]
    padded = torch.nn.functional.pad(component, (1, 1 + width % 2, 0, height % 2), mode="replicate")
    left, here, right = padded[..., 0:-2:2], padded[..., 1:-1:2], padded[..., 2::2]
    columns = (left + 2 * here + right) / 4
    return (columns[:, :, 0::2] + columns[:, :, 1::2]) / 2


def from_model(image: Tensor, layout: str, matrix: str, full_range: bool, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """The top left `size` of planar RGB in [-1, 1] -> (RGB,) uint8, or (luma, chroma) of NV12 or P010."""
    wide = torch.float64 if image.dtype == torch.float64 else torch.float32
    image = image[..., : size[0], : size[1]].to(wide)
    if layout == "rgb":
        return (stored((image + 1) * 127.5, 255, 1),)
    k_r, k_b = LUMA_WEIGHTS[matrix]
    code = levels(8 if layout == "nv12" else 10, full_range)
    rgb = torch.where(image > -1, ((image + 1) / 2).clamp(max=1), 0)
    red, green, blue = rgb.unbind(1)
    y = k_r * red + (1 - k_r - k_b) * green + k_b * blue
    c = chroma_from_rgb(torch.stack(((blue - y) / (2 * (1 - k_b)), (red - y) / (2 * (1 - k_r))), 1))
    luma = stored(y * code.luma_span + code.luma_zero, code.largest, code.unit)
    chroma = stored(c * code.chroma_span + code.chroma_zero, code.largest, code.unit)
    return luma, chroma.permute(0, 2, 3, 1).contiguous()
