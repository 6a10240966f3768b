"""The prior's pixels where they are certain, behind an inward feather (docs/math.md section 6).

The window operations are separable: `slide` takes the minimum, or the sum, of 2 radius + 1 neighbours along one axis;
`blend` divides by the pixels that are there and mixes. generated and prior [N, C, H, W], confidence [N, H, W]; float32.
"""

import triton
import triton.language as tl
from flowguide.kernels.confidence import clamp01
from flowguide.kernels.launch import block, dense, float32_like
from flowguide.kernels.sample import int64
from torch import Tensor


@triton.jit
def slide_kernel(
    source_ptr, out_ptr, total, length, stride, RADIUS: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr
):
    """Along the axis of `length` elements, `stride` apart; elements beyond its ends do not count."""
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    mask = element < total
    place = element // stride % length
    result = tl.zeros([BLOCK], tl.float32) + (0.0 if SUM else 1.0)
    for k in range(-RADIUS, RADIUS + 1):
        here = mask & (place + k >= 0) & (place + k < length)
        value = tl.load(source_ptr + element + k * stride, mask=here, other=0.0 if SUM else 1.0).to(tl.float32)
        if SUM:
            result += value
        else:
            result = tl.minimum(result, clamp01(value))
    tl.store(out_ptr + element, result, mask=mask)


@triton.jit
def difference_kernel(
    generated_ptr, prior_ptr, confidence_ptr, region_ptr, out_ptr, plane, CHANNELS: tl.constexpr, BLOCK: tl.constexpr
):
    """prior - generated where confidence is above 0, else 0; and 1 or 0 there."""
    n = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    mask = pixel < plane
    region = tl.load(confidence_ptr + n * plane + pixel, mask=mask, other=0.0).to(tl.float32) > 0.0
    tl.store(region_ptr + n * plane + pixel, region.to(tl.float32), mask=mask)
    for c in tl.static_range(CHANNELS):
        at = (n * CHANNELS + c) * plane + pixel
        generated = tl.load(generated_ptr + at, mask=mask, other=0.0).to(tl.float32)
        prior = tl.load(prior_ptr + at, mask=mask & region, other=0.0).to(tl.float32)
        tl.store(out_ptr + at, tl.where(region, prior - generated, 0.0), mask=mask)


@triton.jit
def window(row, column, height, width, RADIUS: tl.constexpr):
    """How many pixels of the window around (column, row) are there."""
    across = tl.minimum(column + RADIUS, width - 1) - tl.maximum(column - RADIUS, 0) + 1
    down = tl.minimum(row + RADIUS, height - 1) - tl.maximum(row - RADIUS, 0) + 1
    return (across * down).to(tl.float32)


@triton.jit
def blend_kernel(
    generated_ptr,
    prior_ptr,
    confidence_ptr,
    detail_ptr,  # sums of the eroded confidence over RADIUS
    base_ptr,  # the same over 4 RADIUS
    region_ptr,  # sums of the region over 4 RADIUS
    difference_ptr,  # sums of the difference over 4 RADIUS
    out_ptr,
    height,
    width,
    weight,
    CHANNELS: tl.constexpr,
    RADIUS: tl.constexpr,
    MULTIBAND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    plane = int64(height) * width
    n = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    mask = pixel < plane
    row, column = pixel // width, pixel % width
    region = mask & (tl.load(confidence_ptr + n * plane + pixel, mask=mask, other=0.0).to(tl.float32) > 0.0)
    detail = tl.load(detail_ptr + n * plane + pixel, mask=mask, other=0.0)
    detail = weight * (detail / window(row, column, height, width, RADIUS))
    base = detail
    if MULTIBAND:
        base = tl.load(base_ptr + n * plane + pixel, mask=mask, other=0.0)
        base = weight * (base / window(row, column, height, width, 4 * RADIUS))
        share = tl.load(region_ptr + n * plane + pixel, mask=region, other=1.0)
    for c in tl.static_range(CHANNELS):
        at = (n * CHANNELS + c) * plane + pixel
        generated = tl.load(generated_ptr + at, mask=mask, other=0.0).to(tl.float32)
        prior = tl.load(prior_ptr + at, mask=region, other=0.0).to(tl.float32)
        difference = tl.where(region, prior - generated, 0.0)
        finished = generated + detail * difference
        if MULTIBAND:
            low = tl.load(difference_ptr + at, mask=region, other=0.0) / share
            finished = generated + detail * (difference - low) + base * low
        finished = tl.where(base == 1.0, prior, finished)
        finished = tl.where(detail == 0.0, generated, finished)
        tl.store(out_ptr + at, finished.to(out_ptr.dtype.element_ty), mask=mask)


def slide(source: Tensor, radius: int, total: bool, down: bool) -> Tensor:
    """Along rows, or down columns, of the last two axes."""
    height, width = source.shape[-2:]
    out = float32_like(source, *source.shape)
    axis = (height, width) if down else (width, 1)
    size = block(1024)
    grid = (triton.cdiv(source.numel(), size),)
    slide_kernel[grid](source, out, source.numel(), *axis, RADIUS=radius, SUM=total, BLOCK=size)
    return out


def paste(
    generated: Tensor,
    prior: Tensor,
    confidence: Tensor,
    weight: float,
    feather_px: int,
    rule: str,
    out: tuple[Tensor, ...],
) -> None:
    n, channels, height, width = generated.shape
    generated, prior, certain = dense(generated), dense(prior), dense(confidence)
    size = block(512)
    grid = (triton.cdiv(height * width, size), n)

    def summed(plane: Tensor, radius: int) -> Tensor:
        return slide(slide(plane, radius, True, False), radius, True, True)

    def ramp(radius: int) -> Tensor:
        return summed(slide(slide(certain, radius, False, False), radius, False, True), radius)

    detail = base = region = difference = ramp(feather_px)
    if rule == "multiband":
        region, difference = float32_like(certain, *certain.shape), float32_like(certain, *generated.shape)
        plane = height * width
        difference_kernel[grid](generated, prior, certain, region, difference, plane, CHANNELS=channels, BLOCK=size)
        base, region, difference = ramp(4 * feather_px), *(summed(t, 4 * feather_px) for t in (region, difference))
    blend_kernel[grid](
        *(generated, prior, certain, detail, base, region, difference, out[0], height, width, weight),
        CHANNELS=channels,
        RADIUS=feather_px,
        MULTIBAND=rule == "multiband",
        BLOCK=size,
    )
