"""The arithmetic of confidences, for the kernels: flowguide/reference.py in float32 (docs/math.md section 4)."""

import triton
import triton.language as tl

FARTHEST: tl.constexpr = tl.constexpr(4194304.0)  # 2^22, as FARTHEST_PX of the reference
LARGEST: tl.constexpr = tl.constexpr(3.4028234e38)


@triton.jit
def clamp01(value):
    """[0, 1]; NaN becomes 0."""
    return tl.where(value > 0.0, tl.minimum(value, 1.0), 0.0)


@triton.jit
def finite(value):
    return tl.abs(value) <= LARGEST


@triton.jit
def inside(x, y, height, width):
    """On the picture's area: half a pixel beyond the outermost centres still is."""
    return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)


@triton.jit
def consistency(u, v, back_u, back_v, relative, allowed_px2, softness):
    """Forward-backward: 1 up to a part of the threshold, 0 from it on."""
    error = (u + back_u) * (u + back_u) + (v + back_v) * (v + back_v)
    threshold = relative * (u * u + v * v + back_u * back_u + back_v * back_v) + allowed_px2
    return clamp01((threshold - error) / (softness * threshold))


@triton.jit
def smoothness(flow_ptr, pixel, x, y, u, v, mask, plane, height, width, boundary_relative, boundary_absolute):
    """1 while central differences stay below the threshold, 0 from twice it on."""
    right, left = tl.where(x < width - 1, 1, 0), tl.where(x > 0, 1, 0)
    below, above = tl.where(y < height - 1, width, 0), tl.where(y > 0, width, 0)
    gradient = u * 0.0
    for component in tl.static_range(2):
        at = flow_ptr + component * plane + pixel
        across = tl.load(at + right, mask=mask, other=0.0).to(tl.float32)
        across -= tl.load(at - left, mask=mask, other=0.0).to(tl.float32)
        down = tl.load(at + below, mask=mask, other=0.0).to(tl.float32)
        down -= tl.load(at - above, mask=mask, other=0.0).to(tl.float32)
        gradient += 0.25 * (across * across + down * down)
    return clamp01(2.0 - gradient / (boundary_relative * (u * u + v * v) + boundary_absolute))


@triton.jit
def countable(component):
    return tl.minimum(tl.maximum(tl.where(finite(component), component, 0.0), -FARTHEST), FARTHEST)


@triton.jit
def similarity(difference, photometric):
    ratio = difference / photometric
    return clamp01(1.0 / (1.0 + ratio * ratio * (ratio * ratio)))
