"""F_ac(p) = F_ab(p) + F_bc(p + F_ab(p)) and the product of the confidences, sampled likewise.

flows [N, 2, H, W] in pixels, confidences [N, H, W]. Computed in float32. Confidence is 0 out of the picture and where
the composed flow is not finite.
"""

import triton
import triton.language as tl
from flowguide.kernels.confidence import clamp01, finite, inside
from flowguide.kernels.launch import block, dense, dense_or
from flowguide.kernels.sample import int64, placed, sampled
from torch import Tensor


@triton.jit
def compose_kernel(
    flow_ab_ptr,
    flow_bc_ptr,
    confidence_ab_ptr,
    confidence_bc_ptr,
    flow_ac_ptr,
    confidence_ptr,
    height,
    width,
    HAS_AB: tl.constexpr,
    HAS_BC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    plane = int64(height) * width
    n = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    mask = pixel < plane
    field = n * 2 * plane
    u = tl.load(flow_ab_ptr + field + pixel, mask=mask, other=0.0).to(tl.float32)
    v = tl.load(flow_ab_ptr + field + plane + pixel, mask=mask, other=0.0).to(tl.float32)
    x, y = (pixel % width).to(tl.float32) + u, (pixel // width).to(tl.float32) + v
    left, top, fx, fy, known = placed(x, y, height, width, 2, 0)
    known = known & mask
    u += sampled(flow_bc_ptr + field, left, top, fx, fy, known, height, width, 2, 0)
    v += sampled(flow_bc_ptr + field + plane, left, top, fx, fy, known, height, width, 2, 0)
    confidence = tl.where(inside(x, y, height, width) & finite(u) & finite(v), 1.0, 0.0)
    if HAS_AB:
        confidence *= clamp01(tl.load(confidence_ab_ptr + n * plane + pixel, mask=mask, other=0.0).to(tl.float32))
    if HAS_BC:
        confidence *= clamp01(sampled(confidence_bc_ptr + n * plane, left, top, fx, fy, known, height, width, 2, 0))
    kind = flow_ac_ptr.dtype.element_ty
    tl.store(flow_ac_ptr + field + pixel, u.to(kind), mask=mask)
    tl.store(flow_ac_ptr + field + plane + pixel, v.to(kind), mask=mask)
    tl.store(confidence_ptr + n * plane + pixel, confidence.to(kind), mask=mask)


def compose(
    flow_ab: Tensor,
    flow_bc: Tensor,
    confidence_ab: Tensor | None,
    confidence_bc: Tensor | None,
    out: tuple[Tensor, ...],
) -> None:
    n, _, height, width = flow_ab.shape
    size = block(256)
    compose_kernel[(triton.cdiv(height * width, size), n)](
        *(dense(flow_ab), dense(flow_bc), dense_or(confidence_ab, flow_ab), dense_or(confidence_bc, flow_ab)),
        *(*out, height, width),
        HAS_AB=confidence_ab is not None,
        HAS_BC=confidence_bc is not None,
        BLOCK=size,
    )
