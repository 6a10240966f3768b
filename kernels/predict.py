"""What a finished reference says about this frame: warp, confidence and both pooled to cells, in one launch.

One program handles a tile of whole cells (cells.py); the formulas are those of flowguide/reference.py, `predict`
(docs/math.md section 4). Computed in float32.
"""

import triton
import triton.language as tl
from flowguide.kernels.cells import cells_of_a_program, summed, tile
from flowguide.kernels.confidence import clamp01, consistency, countable, inside, similarity, smoothness
from flowguide.kernels.launch import dense, dense_or
from flowguide.kernels.sample import TAPS_OF, int64, placed, sampled, warp_planes
from torch import Tensor

from flowguide.reference import ConfidenceSettings


@triton.jit
def pool(flow_ptr, confidence_ptr, n, at_cell, u, v, confidence, mask, height, width, cell):
    """Writes the mean flow, in cells, and the least confidence of every cell."""
    plane = int64((height + cell - 1) // cell) * ((width + cell - 1) // cell)
    here = at_cell < plane
    kind = flow_ptr.dtype.element_ty
    pixels_cell = summed(mask.to(tl.float32), mask) * cell
    least = tl.min(tl.min(tl.where(mask, confidence, 1.0), axis=2), axis=0)
    flow = flow_ptr + n * 2 * plane + at_cell
    tl.store(flow, (summed(countable(u), mask) / pixels_cell).to(kind), mask=here)
    tl.store(flow + plane, (summed(countable(v), mask) / pixels_cell).to(kind), mask=here)
    tl.store(confidence_ptr + n * plane + at_cell, least.to(kind), mask=here)


@triton.jit
def predict_kernel(
    reference_ptr,
    flow_ptr,
    back_ptr,
    source_at_ptr,
    source_to_ptr,
    given_ptr,
    prior_ptr,
    confidence_ptr,
    flow_latent_ptr,
    confidence_latent_ptr,
    height,
    width,
    cell,
    relative,
    allowed_px2,
    softness,
    boundary_relative,
    boundary_absolute,
    photometric,
    CHANNELS: tl.constexpr,
    SOURCES: tl.constexpr,  # channels of the source pictures; 0: not looked at
    TAPS: tl.constexpr,
    BOUNDARY: tl.constexpr,
    GIVEN: tl.constexpr,
    EDGE: tl.constexpr,
    CELLS: tl.constexpr,
):
    plane = int64(height) * width
    n = tl.program_id(1).to(tl.int64)
    at_cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    row, column, pixel, mask = tile(at_cell, height, width, cell, EDGE)  # [EDGE, CELLS, EDGE]
    flow = flow_ptr + n * 2 * plane
    u = tl.load(flow + pixel, mask=mask, other=0.0).to(tl.float32)
    v = tl.load(flow + plane + pixel, mask=mask, other=0.0).to(tl.float32)
    x, y = column.to(tl.float32) + u, row.to(tl.float32) + v
    warp_planes(reference_ptr, prior_ptr, n * CHANNELS, pixel, x, y, mask, height, width, CHANNELS, TAPS, 0)
    left, top, fx, fy, known = placed(x, y, height, width, 2, 0)
    known = known & mask
    if GIVEN:
        confidence = clamp01(tl.load(given_ptr + n * plane + pixel, mask=mask, other=0.0).to(tl.float32))
    else:
        back_u = sampled(back_ptr + n * 2 * plane, left, top, fx, fy, known, height, width, 2, 0)
        back_v = sampled(back_ptr + n * 2 * plane + plane, left, top, fx, fy, known, height, width, 2, 0)
        confidence = consistency(u, v, back_u, back_v, relative, allowed_px2, softness)
        if BOUNDARY:
            confidence *= smoothness(
                flow, pixel, column, row, u, v, mask, plane, height, width, boundary_relative, boundary_absolute
            )
    difference = u * 0.0
    for c in tl.static_range(SOURCES):
        source = (n * SOURCES + c) * plane
        moved = sampled(source_to_ptr + source, left, top, fx, fy, known, height, width, 2, 0)
        here = tl.load(source_at_ptr + source + pixel, mask=mask, other=0.0).to(tl.float32)
        difference += tl.abs(here - moved)
    if SOURCES > 0:
        confidence *= similarity(difference / SOURCES, photometric)
    confidence = tl.where(inside(x, y, height, width), confidence, 0.0)
    tl.store(confidence_ptr + n * plane + pixel, confidence.to(confidence_ptr.dtype.element_ty), mask=mask)
    pool(flow_latent_ptr, confidence_latent_ptr, n, at_cell, u, v, confidence, mask, height, width, cell)


def predict(
    reference: Tensor,
    flow: Tensor,
    flow_back: Tensor | None,
    source_at: Tensor | None,
    source_to: Tensor | None,
    given_confidence: Tensor | None,
    cell: int,
    mode: str,
    settings: ConfidenceSettings,
    out: tuple[Tensor, ...],
) -> None:
    n, channels, height, width = reference.shape
    looked_at = source_at is not None and settings.photometric is not None
    edge = triton.next_power_of_2(cell)
    cells = cells_of_a_program(edge)
    predict_kernel[(triton.cdiv(triton.cdiv(width, cell) * triton.cdiv(height, cell), cells), n)](
        *(dense(reference), dense(flow)),
        *(dense_or(t, flow) for t in (flow_back, source_at, source_to, given_confidence)),
        *out,
        *(height, width, cell, settings.relative, settings.allowed_px2(width), settings.softness),
        *(settings.boundary_relative, settings.boundary_absolute, settings.photometric or 1.0),
        CHANNELS=channels,
        SOURCES=source_at.shape[1] if looked_at and source_at is not None else 0,
        TAPS=TAPS_OF[mode],
        BOUNDARY=settings.boundary,
        GIVEN=given_confidence is not None,
        EDGE=edge,
        CELLS=cells,
    )
