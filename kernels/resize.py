"""One axis of a resize: a triangle as wide as the scale when shrinking, linear interpolation when growing.

The weights are those of flowguide/reference_colour.py, `resize_matrix`. Planes are float32 [planes, length, stride].
"""

import triton
import triton.language as tl
from flowguide.kernels.launch import block, float32_like
from torch import Tensor


@triton.jit
def resize_kernel(
    source_ptr, out_ptr, total, length, to, stride, scale, support, TAPS: tl.constexpr, BLOCK: tl.constexpr
):
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK] of the result
    mask = element < total
    place = element // stride % to
    plane = element // stride // to * length
    centre = (place.to(tl.float32) + 0.5) * scale - 0.5
    first = tl.floor(centre - support).to(tl.int32) + 1
    result = tl.zeros([BLOCK], tl.float32)
    weights = tl.zeros([BLOCK], tl.float32)
    for k in tl.static_range(TAPS):
        tap = first + k
        here = mask & (tap >= 0) & (tap < length)
        weight = tl.maximum(1.0 - tl.abs(tap.to(tl.float32) - centre) / support, 0.0)
        weight = tl.where(here, weight, 0.0)
        weights += weight
        at = (plane + tap) * stride + element % stride
        result += weight * tl.load(source_ptr + at, mask=here, other=0.0)
    tl.store(out_ptr + element, result / weights, mask=mask)


def resize(source: Tensor, axis: int, to: int) -> Tensor:
    """source float32 [N, C, H, W], dense -> that axis (2 or 3) with `to` elements."""
    shape = list(source.shape)
    length, shape[axis] = shape[axis], to
    stride = source.shape[3] if axis == 2 else 1
    out = float32_like(source, *shape)
    scale = length / to
    size = block(512)
    resize_kernel[(triton.cdiv(out.numel(), size),)](
        *(source, out, out.numel(), length, to, stride, scale, max(scale, 1.0)),
        TAPS=2 * -(-length // to) + 1,
        BLOCK=size,
    )
    return out
