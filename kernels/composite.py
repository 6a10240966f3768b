"""K priors become one: the confidence-weighted mean, or best region first.

priors [N, K, C, H, W], confidences [N, K, H, W]. "best": each pixel takes the first reference that is reliable there
(confidence from 1/2) in the order of their reliable area, else the one of highest confidence. Computed in float32.
"""

import triton
import triton.language as tl
from flowguide.kernels.confidence import clamp01
from flowguide.kernels.launch import block, dense
from torch import Tensor

from flowguide.reference import RELIABLE


@triton.jit
def composite_kernel(
    priors_ptr,
    confidences_ptr,
    order_ptr,  # int64 [N, K], read by "best" alone
    prior_ptr,
    confidence_ptr,
    plane,
    RELIABLE_FROM: tl.constexpr,
    REFERENCES: tl.constexpr,
    CHANNELS: tl.constexpr,
    BEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    mask = pixel < plane
    most = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    chosen = tl.full([BLOCK], 0, tl.int64)
    for i in tl.static_range(REFERENCES):
        k = n * REFERENCES + i
        if BEST:
            k = n * REFERENCES + tl.load(order_ptr + n * REFERENCES + i)
        value = clamp01(tl.load(confidences_ptr + k * plane + pixel, mask=mask, other=0.0).to(tl.float32))
        if BEST:
            better = (most < RELIABLE_FROM) & (value > most)
            most = tl.where(better, value, most)
            chosen = tl.where(better, k, chosen)
        else:
            most = tl.maximum(most, value)
            total += value
    tl.store(confidence_ptr + n * plane + pixel, most.to(confidence_ptr.dtype.element_ty), mask=mask)
    for c in tl.static_range(CHANNELS):
        if BEST:
            at = (chosen * CHANNELS + c) * plane + pixel
            prior = tl.load(priors_ptr + at, mask=mask & (most > 0.0), other=0.0).to(tl.float32)
        else:
            prior = tl.zeros([BLOCK], tl.float32)
            for i in tl.static_range(REFERENCES):
                k = n * REFERENCES + i
                weight = clamp01(tl.load(confidences_ptr + k * plane + pixel, mask=mask, other=0.0).to(tl.float32))
                at = (k * CHANNELS + c) * plane + pixel
                prior += weight * tl.load(priors_ptr + at, mask=mask & (weight > 0.0), other=0.0).to(tl.float32)
            prior = tl.where(total > 0.0, prior / total, 0.0)
        tl.store(prior_ptr + (n * CHANNELS + c) * plane + pixel, prior.to(prior_ptr.dtype.element_ty), mask=mask)


def composite(priors: Tensor, confidences: Tensor, rule: str, out: tuple[Tensor, ...]) -> None:
    n, references, channels, height, width = priors.shape
    order = confidences.new_zeros(1)
    if rule == "best":
        areas = (confidences >= RELIABLE).flatten(2).sum(2)
        order = areas.argsort(dim=1, descending=True, stable=True)
    size = block(512)
    composite_kernel[(triton.cdiv(height * width, size), n)](
        *(dense(priors), dense(confidences), order, *out, height * width),
        RELIABLE_FROM=RELIABLE,
        REFERENCES=references,
        CHANNELS=channels,
        BEST=rule == "best",
        BLOCK=size,
    )
