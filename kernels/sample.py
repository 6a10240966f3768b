"""Sampling a plane at real positions, for the kernels that warp: border rules and tap weights.

The arithmetic of flowguide/reference.py, `sampled`, in float32. BORDER is 0 edge, 1 zero, 2 reflect, 3 wrap; TAPS along
each axis are 2, 4 or 6.
"""

import triton
import triton.language as tl
from flowguide.kernels.confidence import FARTHEST, finite

TAPS_OF = {"bilinear": 2, "bicubic": 4, "spline36": 6}
BORDERS = {"edge": 0, "zero": 1, "reflect": 2, "wrap": 3}


@triton.jit
def int64(size):
    """A size that is 1 reaches the kernel as a constant, which has no `.to`."""
    return tl.full((), size, tl.int64)


@triton.jit
def extended(index, length, BORDER: tl.constexpr):
    """Where the plane, continued beyond its border, takes the value at `index` from."""
    if BORDER == 3:
        place = index % length  # of either sign: the interpreter rounds down, the device towards zero
        place = tl.where(place < 0, place + length, place)
    elif BORDER == 2:
        period = tl.maximum(2 * (length - 1), 1)
        place = index % period
        place = tl.where(place < 0, place + period, place)
        place = tl.minimum(tl.minimum(place, period - place), length - 1)
    else:
        place = tl.minimum(tl.maximum(index, 0), length - 1)
    return place


@triton.jit
def spline36_weight(t, rest, PIECE: tl.constexpr):
    """The pieces of Spline36, by the distance t beyond the nearest, second and third tap on a side.

    rest is 1 - t, a factor of all three, so that at 0 and 1 they are 0 and 1 without a rounding error.
    """
    if PIECE == 0:
        weight = rest * ((206.0 / 209.0 - 13.0 / 11.0 * t) * t + 1.0)
    elif PIECE == 1:
        weight = rest * t * (6.0 / 11.0 * t - 156.0 / 209.0)
    else:
        weight = rest * t * (26.0 / 209.0 - 1.0 / 11.0 * t)
    return weight


@triton.jit
def tap_weight(t, TAP: tl.constexpr, TAPS: tl.constexpr):
    """Linear (2 taps), Catmull-Rom (4 taps) or Spline36 (6 taps) at fraction t."""
    if TAPS == 6:
        weight = spline36_weight(t, 1.0 - t, 2 - TAP) if TAP <= 2 else spline36_weight(1.0 - t, t, TAP - 3)
    elif TAPS == 2:
        weight = 1.0 - t if TAP == 0 else t
    elif TAP == 0:
        weight = ((-0.5 * t + 1.0) * t - 0.5) * t
    elif TAP == 1:
        weight = (1.5 * t - 2.5) * t * t + 1.0
    elif TAP == 2:
        weight = ((-1.5 * t + 2.0) * t + 0.5) * t
    else:
        weight = (0.5 * t - 0.5) * t * t
    return weight


@triton.jit
def placed(x, y, height, width, TAPS: tl.constexpr, BORDER: tl.constexpr):
    """The left and top tap's integer position, the fractions, and where x and y are finite."""
    known = finite(x) & finite(y)
    x = tl.minimum(tl.maximum(tl.where(known, x, 0.0), -FARTHEST), FARTHEST)
    y = tl.minimum(tl.maximum(tl.where(known, y, 0.0), -FARTHEST), FARTHEST)
    left, top = tl.floor(x), tl.floor(y)
    if TAPS == 2 and BORDER == 0:  # the same value, from two pixels of the picture wherever it has two
        x = tl.minimum(tl.maximum(x, 0.0), width - 1.0)
        y = tl.minimum(tl.maximum(y, 0.0), height - 1.0)
        left = tl.minimum(tl.floor(x), tl.maximum(width - 2.0, 0.0))
        top = tl.minimum(tl.floor(y), tl.maximum(height - 2.0, 0.0))
    return left.to(tl.int32), top.to(tl.int32), x - left, y - top, known


@triton.jit
def sampled(
    plane_ptr, left, top, fraction_x, fraction_y, mask, height, width, TAPS: tl.constexpr, BORDER: tl.constexpr
):
    """The plane at what `placed` returned; 0 where the mask is false."""
    FIRST: tl.constexpr = 1 - TAPS // 2
    total = fraction_x * 0.0
    for r in tl.static_range(TAPS):
        row = top + (r + FIRST)
        line_at = extended(row, height, BORDER).to(tl.int64) * width
        line = fraction_x * 0.0
        for k in tl.static_range(TAPS):
            column = left + (k + FIRST)
            here = mask
            if BORDER == 1:
                here = here & (column >= 0) & (column < width) & (row >= 0) & (row < height)
            value = tl.load(plane_ptr + line_at + extended(column, width, BORDER), mask=here, other=0.0)
            line += tap_weight(fraction_x, k, TAPS) * value.to(tl.float32)
        total += tap_weight(fraction_y, r, TAPS) * line
    return total


@triton.jit
def warp_planes(
    source_ptr,
    out_ptr,
    first,
    pixel,
    x,
    y,
    mask,
    height,
    width,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    BORDER: tl.constexpr,
):
    """Writes at `pixel` what CHANNELS planes, from plane `first` on, hold at (x, y)."""
    plane = int64(height) * width
    left, top, fraction_x, fraction_y, known = placed(x, y, height, width, TAPS, BORDER)
    known = known & mask
    for c in tl.static_range(CHANNELS):
        source = source_ptr + (first + c) * plane
        value = sampled(source, left, top, fraction_x, fraction_y, known, height, width, TAPS, BORDER)
        tl.store(out_ptr + (first + c) * plane + pixel, value.to(out_ptr.dtype.element_ty), mask=mask)
