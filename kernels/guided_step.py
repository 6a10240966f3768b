"""One guided sampler step (docs/math.md sections 1 and 2) in one launch.

m = uncond + guidance_scale (cond - uncond); x0 = P x + Q m, clamped; w = share * min3x3(weight);
x0' = x0 + w (k0 - x0); x_next = A x + B x0' + C x0_prev + D noise. States [N, C, h, w] of one dtype, weight [N, h, w],
coefficients float32 [N, 9] in the columns of StepRow. Computed in float32; nothing of k0 is read where w is 0.
"""

import torch
import triton
import triton.language as tl
from flowguide.kernels.confidence import clamp01
from flowguide.kernels.launch import block, dense, dense_or
from flowguide.kernels.sample import int64
from torch import Tensor


@triton.jit
def guidance_weight(weight_ptr, pixel, mask, height, width, ERODE: tl.constexpr):
    if ERODE:
        row, column = pixel // width, pixel % width
        weight = pixel.to(tl.float32) * 0.0 + 1.0
        for i in tl.static_range(9):
            near_row, near_column = row + (i // 3 - 1), column + (i % 3 - 1)
            here = mask & (near_row >= 0) & (near_row < height) & (near_column >= 0) & (near_column < width)
            near = tl.load(weight_ptr + near_row * width + near_column, mask=here, other=1.0)
            weight = tl.minimum(weight, clamp01(near.to(tl.float32)))
    else:
        weight = clamp01(tl.load(weight_ptr + pixel, mask=mask, other=0.0).to(tl.float32))
    return weight


@triton.jit
def guided_step_kernel(
    x_ptr,
    output_ptr,
    uncond_ptr,
    k0_ptr,
    x0_prev_ptr,
    noise_ptr,
    coefficients_ptr,
    weight_ptr,
    x_next_ptr,
    x0_ptr,
    channels,
    height,
    width,
    UNCOND: tl.constexpr,
    GUIDED: tl.constexpr,
    HISTORY: tl.constexpr,
    NOISE: tl.constexpr,
    ERODE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    plane = int64(height) * width
    n = tl.program_id(1).to(tl.int64)
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK] of one row's channels
    mask = element < channels * plane
    at = n * channels * plane + element
    row = coefficients_ptr + n * 9
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    m = tl.load(output_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if UNCOND:
        uncond = tl.load(uncond_ptr + at, mask=mask, other=0.0).to(tl.float32)
        m = uncond + tl.load(row + 7) * (m - uncond)
    x0 = tl.load(row) * x + tl.load(row + 1) * m
    clip = tl.load(row + 8)
    bound = tl.where(clip > 0.0, clip, float("inf"))
    x0 = tl.where(x0 > bound, bound, tl.where(x0 < -bound, -bound, x0))
    if GUIDED:
        w = tl.load(row + 6) * guidance_weight(weight_ptr + n * plane, element % plane, mask, height, width, ERODE)
        guided = mask & (w > 0.0)
        k0 = tl.load(k0_ptr + at, mask=guided, other=0.0).to(tl.float32)
        x0 = tl.where(guided, x0 + w * (k0 - x0), x0)
    x_next = tl.load(row + 2) * x + tl.load(row + 3) * x0
    if HISTORY:
        c = tl.load(row + 4)
        x_next += tl.where(c != 0.0, c * tl.load(x0_prev_ptr + at, mask=mask, other=0.0).to(tl.float32), 0.0)
    if NOISE:
        d = tl.load(row + 5)
        x_next += tl.where(d != 0.0, d * tl.load(noise_ptr + at, mask=mask, other=0.0).to(tl.float32), 0.0)
    tl.store(x_next_ptr + at, x_next.to(x_next_ptr.dtype.element_ty), mask=mask)
    tl.store(x0_ptr + at, x0.to(x0_ptr.dtype.element_ty), mask=mask)


def guided_step(
    x: Tensor,
    model_output: Tensor,
    coefficients: Tensor,
    model_output_uncond: Tensor | None,
    k0: Tensor | None,
    weight: Tensor | None,
    x0_prev: Tensor | None,
    noise: Tensor | None,
    erode: bool,
    out: tuple[Tensor, ...],
) -> None:
    n, channels, height, width = x.shape
    table = dense(coefficients.to(x.device, torch.float32, non_blocking=True))
    size = block(256)
    guided_step_kernel[(triton.cdiv(channels * height * width, size), n)](
        *(dense(x), dense(model_output)),
        *(dense_or(t, x) for t in (model_output_uncond, k0, x0_prev, noise)),
        *(table, dense_or(weight, x), *out, channels, height, width),
        UNCOND=model_output_uncond is not None,
        GUIDED=weight is not None,
        HISTORY=x0_prev is not None,
        NOISE=noise is not None,
        ERODE=erode,
        BLOCK=size,
    )
