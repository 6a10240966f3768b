"""Planar RGB in [-1, 1] becomes a surface: cropped, rounded to nearest (half upwards), clamped; NaN is stored as black.

image [N, 3, H', W'] -> uint8 RGB [N, 3, H, W], or luma [N, H, W] and chroma [N, h, w, 2] in uint8 (NV12) or uint16
(P010, written as int16 of the same bits). Chroma is sited left: 1 2 1 across, the mean of two rows. One launch.
"""

import torch
import triton
import triton.language as tl
from flowguide.kernels.confidence import clamp01
from flowguide.kernels.launch import block, dense
from flowguide.kernels.sample import int64
from torch import Tensor

from flowguide.reference_colour import LUMA_WEIGHTS, levels


@triton.jit
def stored(value, largest, unit):
    return (tl.floor(tl.where(value > 0.0, tl.minimum(value, largest), 0.0) + 0.5) * unit).to(tl.int32)


@triton.jit
def rgb_at(image_ptr, at, plane, mask):
    """Red, green, blue in [0, 1]."""
    red = clamp01((tl.load(image_ptr + at, mask=mask, other=0.0).to(tl.float32) + 1.0) / 2.0)
    green = clamp01((tl.load(image_ptr + plane + at, mask=mask, other=0.0).to(tl.float32) + 1.0) / 2.0)
    blue = clamp01((tl.load(image_ptr + 2 * plane + at, mask=mask, other=0.0).to(tl.float32) + 1.0) / 2.0)
    return red, green, blue


@triton.jit
def rgb_kernel(image_ptr, out_ptr, padded_height, padded_width, height, width, BLOCK: tl.constexpr):
    channel = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK] of the cropped picture
    mask = pixel < int64(height) * width
    at = (channel * padded_height + pixel // width) * padded_width + pixel % width
    value = tl.load(image_ptr + at, mask=mask, other=0.0).to(tl.float32)
    code = stored((value + 1.0) * 127.5, 255.0, 1.0)
    tl.store(out_ptr + channel * (int64(height) * width) + pixel, code.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def planes_kernel(
    image_ptr,
    luma_ptr,
    chroma_ptr,
    padded_height,
    padded_width,
    height,
    width,
    k_r,
    k_b,
    luma_zero,
    luma_span,
    chroma_zero,
    chroma_span,
    largest,
    unit,
    BLOCK: tl.constexpr,
):
    """One element of a program is one chroma sample and its two by two luma pixels."""
    n = tl.program_id(1).to(tl.int64)
    across, down = (width + 1) // 2, (height + 1) // 2
    sample = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    mask = sample < int64(across) * down
    row, column = 2 * (sample // across), 2 * (sample % across)
    plane = int64(padded_height) * padded_width
    image = image_ptr + n * 3 * plane
    kind = luma_ptr.dtype.element_ty
    c_b = tl.zeros([BLOCK], tl.float32)
    c_r = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(6):  # two rows of the columns to the left, here and to the right
        line = tl.minimum(row + i // 3, height - 1)
        place = tl.minimum(tl.maximum(column + (i % 3 - 1), 0), width - 1)
        red, green, blue = rgb_at(image, line * padded_width + place, plane, mask)
        y = k_r * red + (1.0 - k_r - k_b) * green + k_b * blue
        c_b += (2.0 if i % 3 == 1 else 1.0) * (blue - y) / (2.0 * (1.0 - k_b))
        c_r += (2.0 if i % 3 == 1 else 1.0) * (red - y) / (2.0 * (1.0 - k_r))
        if i % 3 > 0:
            here = mask & (row + i // 3 < height) & (column + (i % 3 - 1) < width)
            at = (n * height + line) * width + place
            tl.store(luma_ptr + at, stored(y * luma_span + luma_zero, largest, unit).to(kind), mask=here)
    at = (n * down * across + sample) * 2
    tl.store(chroma_ptr + at, stored(c_b * 0.125 * chroma_span + chroma_zero, largest, unit).to(kind), mask=mask)
    tl.store(chroma_ptr + at + 1, stored(c_r * 0.125 * chroma_span + chroma_zero, largest, unit).to(kind), mask=mask)


def from_model(
    image: Tensor, layout: str, matrix: str, full_range: bool, size: tuple[int, int], out: tuple[Tensor, ...]
) -> None:
    n, _, padded_height, padded_width = image.shape
    height, width = size
    sizes = (padded_height, padded_width, height, width)
    block_size = block(512)
    if layout == "rgb":
        grid = (triton.cdiv(height * width, block_size), 3 * n)
        rgb_kernel[grid](dense(image), out[0], *sizes, BLOCK=block_size)
        return
    wide = layout == "p010"
    code = levels(10 if wide else 8, full_range)
    luma, chroma = (t.view(torch.int16) for t in out) if wide else out
    samples = ((height + 1) // 2) * ((width + 1) // 2)
    planes_kernel[(triton.cdiv(samples, block_size), n)](
        *(dense(image), luma, chroma, *sizes, *LUMA_WEIGHTS[matrix], *code),
        BLOCK=block_size,
    )
