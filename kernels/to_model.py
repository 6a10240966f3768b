"""A decoded surface becomes planar RGB in [-1, 1]: colour, resize, pad.

surface uint8 RGB [N, 3, H, W] of any strides, or luma [N, H, W] with chroma [N, h, w, 2] in uint8 or uint16 (ten bits
at the top; read as int16 of the same bits). Without a resize it is one launch.
"""

import torch
import triton
import triton.language as tl
from flowguide.kernels.confidence import clamp01
from flowguide.kernels.launch import block, dense, float32_like
from flowguide.kernels.resize import resize
from flowguide.kernels.sample import int64
from torch import Tensor

from flowguide.reference_colour import LUMA_WEIGHTS, levels


@triton.jit
def code_at(plane_ptr, at, mask, WIDE: tl.constexpr):
    """A stored number as float."""
    value = tl.load(plane_ptr + at, mask=mask, other=0).to(tl.int32)
    return (value & 0xFFFF if WIDE else value).to(tl.float32)


@triton.jit
def chroma_at(chroma_ptr, row, column, mask, height, width, WIDE: tl.constexpr):
    """Bilinear at (column, row) of the luma plane, left siting; chroma_ptr stands at the component."""
    across, down = (width + 1) // 2, (height + 1) // 2
    far_row = tl.minimum(tl.maximum(row // 2 + 2 * (row % 2) - 1, 0), down - 1)
    near = column // 2
    far = tl.minimum(near + column % 2, across - 1)
    first = 0.75 * code_at(chroma_ptr, 2 * (row // 2 * across + near), mask, WIDE)
    first += 0.25 * code_at(chroma_ptr, 2 * (far_row * across + near), mask, WIDE)
    second = 0.75 * code_at(chroma_ptr, 2 * (row // 2 * across + far), mask, WIDE)
    second += 0.25 * code_at(chroma_ptr, 2 * (far_row * across + far), mask, WIDE)
    return 0.5 * (first + second)


@triton.jit
def to_model_kernel(
    surface_ptr,
    chroma_ptr,
    out_ptr,
    height,
    width,
    padded_height,
    padded_width,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    k_r,
    k_b,
    luma_zero,
    luma_span,
    chroma_zero,
    chroma_span,
    unit,
    PLANES: tl.constexpr,  # luma and chroma rather than RGB
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK] of the padded picture
    plane = int64(padded_height) * padded_width
    mask = pixel < plane
    row = tl.minimum(pixel // padded_width, height - 1)
    column = tl.minimum(pixel % padded_width, width - 1)
    out = out_ptr + n * 3 * plane + pixel
    kind = out_ptr.dtype.element_ty
    surface = surface_ptr + n * stride_n + row * stride_y + column * stride_x
    if PLANES:
        chroma = chroma_ptr + n * int64((height + 1) // 2) * ((width + 1) // 2) * 2
        y = (code_at(surface, 0, mask, WIDE) / unit - luma_zero) / luma_span
        c_b = (chroma_at(chroma, row, column, mask, height, width, WIDE) / unit - chroma_zero) / chroma_span
        c_r = (chroma_at(chroma + 1, row, column, mask, height, width, WIDE) / unit - chroma_zero) / chroma_span
        red = y + 2.0 * (1.0 - k_r) * c_r
        blue = y + 2.0 * (1.0 - k_b) * c_b
        green = (y - k_r * red - k_b * blue) / (1.0 - k_r - k_b)
        tl.store(out, (2.0 * clamp01(red) - 1.0).to(kind), mask=mask)
        tl.store(out + plane, (2.0 * clamp01(green) - 1.0).to(kind), mask=mask)
        tl.store(out + 2 * plane, (2.0 * clamp01(blue) - 1.0).to(kind), mask=mask)
    else:
        for c in tl.static_range(3):
            value = code_at(surface + c * stride_c, 0, mask, WIDE) / 127.5 - 1.0
            tl.store(out + c * plane, value.to(kind), mask=mask)


def to_model(
    surface: Tensor,
    chroma: Tensor | None,
    matrix: str,
    full_range: bool,
    size: tuple[int, int],
    pad_to: int,
    dtype: torch.dtype,
    out: tuple[Tensor, ...],
) -> None:
    height, width = surface.shape[-2:]
    wide = surface.dtype == torch.uint16
    code = levels(10 if wide else 8, full_range)
    n, strides = surface.shape[0], surface.stride()
    if chroma is not None:
        strides = (strides[0], 0, *strides[1:])
        chroma = dense(chroma)
    if wide and chroma is not None:
        surface, chroma = surface.view(torch.int16), chroma.view(torch.int16)
    resized = size != (height, width)
    target = float32_like(surface, n, 3, height, width) if resized else out[0]
    block_size = block(512)
    to_model_kernel[(triton.cdiv(target.shape[2] * target.shape[3], block_size), n)](
        *(surface, surface if chroma is None else chroma, target, height, width, *target.shape[2:], *strides),
        *(*LUMA_WEIGHTS[matrix], *code[:4], code.unit),
        PLANES=chroma is not None,
        WIDE=wide,
        BLOCK=block_size,
    )
    if resized:
        small = resize(resize(target, 3, size[1]), 2, size[0])
        beyond = (0, out[0].shape[3] - size[1], 0, out[0].shape[2] - size[0])
        out[0].copy_(torch.nn.functional.pad(small, beyond, mode="replicate"))
