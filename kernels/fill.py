"""Push-pull: averages of known pixels go down a pyramid and come back into the holes.

prior [N, C, H, W], confidence [N, H, W]. `pull` makes a level half as large, `push` blends the coarser level into the
finer one: out = w value + (1 - w) up(coarse). Levels are float32; the result has the prior's dtype.
"""

import torch
import triton
import triton.language as tl
from flowguide.kernels.confidence import clamp01
from flowguide.kernels.launch import block, dense, float32_like
from flowguide.kernels.sample import int64
from torch import Tensor


@triton.jit
def pull_kernel(
    value_ptr,
    weight_ptr,
    coarse_value_ptr,
    coarse_weight_ptr,
    height,
    width,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(1).to(tl.int64)
    across, down = (width + 1) // 2, (height + 1) // 2
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK] of the coarse level
    mask = pixel < across * down
    row, column = 2 * (pixel // across), 2 * (pixel % across)
    plane, coarse_plane = int64(height) * width, int64(across) * down
    mass = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(4):
        here = mask & (row + i // 2 < height) & (column + i % 2 < width)
        at = (row + i // 2).to(tl.int64) * width + column + i % 2
        mass += clamp01(tl.load(weight_ptr + n * plane + at, mask=here, other=0.0).to(tl.float32))
    tl.store(coarse_weight_ptr + n * coarse_plane + pixel, tl.minimum(mass, 1.0), mask=mask)
    for c in tl.static_range(CHANNELS):
        total = tl.zeros([BLOCK], tl.float32)
        for i in tl.static_range(4):
            here = mask & (row + i // 2 < height) & (column + i % 2 < width)
            at = (row + i // 2).to(tl.int64) * width + column + i % 2
            weight = clamp01(tl.load(weight_ptr + n * plane + at, mask=here, other=0.0).to(tl.float32))
            value = tl.load(value_ptr + (n * CHANNELS + c) * plane + at, mask=here & (weight > 0.0), other=0.0)
            total += weight * value.to(tl.float32)
        value = tl.where(mass > 0.0, total / mass, 0.0)
        tl.store(coarse_value_ptr + (n * CHANNELS + c) * coarse_plane + pixel, value, mask=mask)


@triton.jit
def push_kernel(
    value_ptr,
    weight_ptr,
    coarse_ptr,
    out_ptr,
    height,
    width,
    CHANNELS: tl.constexpr,
    COARSEST: tl.constexpr,  # one pixel: there is no coarser level
    BLOCK: tl.constexpr,
):
    n = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    plane = int64(height) * width
    mask = pixel < plane
    row, column = pixel // width, pixel % width
    across, down = (width + 1) // 2, (height + 1) // 2
    far_row = tl.minimum(tl.maximum(row // 2 + 2 * (row % 2) - 1, 0), down - 1)
    far_column = tl.minimum(tl.maximum(column // 2 + 2 * (column % 2) - 1, 0), across - 1)
    weight = clamp01(tl.load(weight_ptr + n * plane + pixel, mask=mask, other=0.0).to(tl.float32))
    for c in tl.static_range(CHANNELS):
        channel = n * CHANNELS + c
        value = tl.load(value_ptr + channel * plane + pixel, mask=mask & (weight > 0.0), other=0.0).to(tl.float32)
        if not COARSEST:
            coarse = coarse_ptr + channel * (int64(across) * down)
            near_near = tl.load(coarse + row // 2 * across + column // 2, mask=mask, other=0.0)
            near_far = tl.load(coarse + row // 2 * across + far_column, mask=mask, other=0.0)
            far_near = tl.load(coarse + far_row * across + column // 2, mask=mask, other=0.0)
            far_far = tl.load(coarse + far_row * across + far_column, mask=mask, other=0.0)
            up = 0.75 * (0.75 * near_near + 0.25 * far_near) + 0.25 * (0.75 * near_far + 0.25 * far_far)
            value = weight * value + (1.0 - weight) * up
        tl.store(out_ptr + channel * plane + pixel, value.to(out_ptr.dtype.element_ty), mask=mask)


def fill(prior: Tensor, confidence: Tensor, out: tuple[Tensor, ...]) -> None:
    n, channels, height, width = prior.shape
    size = block(256)
    levels = [(dense(prior), dense(confidence))]
    while height > 1 or width > 1:
        value, weight = levels[-1]
        coarse = ((height + 1) // 2, (width + 1) // 2)
        levels.append((float32_like(prior, n, channels, *coarse), float32_like(prior, n, *coarse)))
        grid = (triton.cdiv(coarse[0] * coarse[1], size), n)
        pull_kernel[grid](value, weight, *levels[-1], height, width, CHANNELS=channels, BLOCK=size)
        height, width = coarse
    filled = prior
    for level, (value, weight) in reversed(list(enumerate(levels))):
        target = out[0] if level == 0 else torch.empty_like(value)
        height, width = value.shape[2:]
        push_kernel[(triton.cdiv(height * width, size), n)](
            *(value, weight, filled, target, height, width),
            CHANNELS=channels,
            COARSEST=height == 1 and width == 1,
            BLOCK=size,
        )
        filled = target
