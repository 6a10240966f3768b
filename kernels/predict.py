"""What a finished reference says about this frame: warp, confidence and both pooled to cells, in one launch.

One program handles CELLS cells in reading order, a tile [EDGE, CELLS, EDGE] with EDGE the power of two from `cell` on;
the formulas are those of flowguide/reference.py, `predict` (docs/math.md section 4). Computed in float32.
"""

import triton
import triton.language as tl
from flowguide.kernels.confidence import clamp01, consistency, countable, inside, similarity, smoothness
from flowguide.kernels.launch import INTERPRETED, dense, dense_or
from flowguide.kernels.sample import int64, placed, sampled
from torch import Tensor

from flowguide.reference import ConfidenceSettings


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
    BICUBIC: tl.constexpr,
    BOUNDARY: tl.constexpr,
    GIVEN: tl.constexpr,
    EDGE: tl.constexpr,
    CELLS: tl.constexpr,
):
    plane = int64(height) * width
    cells_across, cells_down = (width + cell - 1) // cell, (height + cell - 1) // cell
    n = tl.program_id(1).to(tl.int64)
    in_cell = tl.arange(0, EDGE)
    at_cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    row = (at_cell // cells_across * cell)[None, :, None] + in_cell[:, None, None]
    column = (at_cell % cells_across * cell)[None, :, None] + in_cell[None, None, :]
    mask = (in_cell < cell)[:, None, None] & (in_cell < cell)[None, None, :] & (row < height) & (column < width)
    pixel = row.to(tl.int64) * width + column  # [EDGE, CELLS, EDGE]
    flow = flow_ptr + n * 2 * plane
    u = tl.load(flow + pixel, mask=mask, other=0.0).to(tl.float32)
    v = tl.load(flow + plane + pixel, mask=mask, other=0.0).to(tl.float32)
    x, y = column.to(tl.float32) + u, row.to(tl.float32) + v
    left, top, fx, fy, known = placed(x, y, height, width, BICUBIC, 0)
    known = known & mask
    for c in tl.static_range(CHANNELS):
        channel = (n * CHANNELS + c) * plane
        value = sampled(reference_ptr + channel, left, top, fx, fy, known, height, width, BICUBIC, 0)
        tl.store(prior_ptr + channel + pixel, value.to(prior_ptr.dtype.element_ty), mask=mask)

    left, top, fx, fy, known = placed(x, y, height, width, False, 0)
    known = known & mask
    if GIVEN:
        confidence = clamp01(tl.load(given_ptr + n * plane + pixel, mask=mask, other=0.0).to(tl.float32))
    else:
        back_u = sampled(back_ptr + n * 2 * plane, left, top, fx, fy, known, height, width, False, 0)
        back_v = sampled(back_ptr + n * 2 * plane + plane, left, top, fx, fy, known, height, width, False, 0)
        confidence = consistency(u, v, back_u, back_v, relative, allowed_px2, softness)
        if BOUNDARY:
            confidence *= smoothness(
                flow, pixel, column, row, u, v, mask, plane, height, width, boundary_relative, boundary_absolute
            )
    if SOURCES > 0:
        difference = u * 0.0
        for c in tl.static_range(SOURCES):
            channel = (n * SOURCES + c) * plane
            moved = sampled(source_to_ptr + channel, left, top, fx, fy, known, height, width, False, 0)
            difference += tl.abs(tl.load(source_at_ptr + channel + pixel, mask=mask, other=0.0).to(tl.float32) - moved)
        confidence *= similarity(difference / SOURCES, photometric)
    confidence = tl.where(inside(x, y, height, width), confidence, 0.0)
    tl.store(confidence_ptr + n * plane + pixel, confidence.to(confidence_ptr.dtype.element_ty), mask=mask)

    count = tl.sum(tl.sum(mask.to(tl.float32), axis=2), axis=0)  # [CELLS]
    mean_u = tl.sum(tl.sum(tl.where(mask, countable(u), 0.0), axis=2), axis=0) / (count * cell)
    mean_v = tl.sum(tl.sum(tl.where(mask, countable(v), 0.0), axis=2), axis=0) / (count * cell)
    least = tl.min(tl.min(tl.where(mask, confidence, 1.0), axis=2), axis=0)
    cell_plane = int64(cells_across) * cells_down
    here = at_cell < cell_plane
    kind = flow_latent_ptr.dtype.element_ty
    tl.store(flow_latent_ptr + n * 2 * cell_plane + at_cell, mean_u.to(kind), mask=here)
    tl.store(flow_latent_ptr + n * 2 * cell_plane + cell_plane + at_cell, mean_v.to(kind), mask=here)
    tl.store(confidence_latent_ptr + n * cell_plane + at_cell, least.to(kind), mask=here)


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
    cells = max((16384 if INTERPRETED else 256) // (edge * edge), 1)
    predict_kernel[(triton.cdiv(triton.cdiv(width, cell) * triton.cdiv(height, cell), cells), n)](
        *(dense(reference), dense(flow)),
        *(dense_or(t, flow) for t in (flow_back, source_at, source_to, given_confidence)),
        *out,
        *(height, width, cell, settings.relative, settings.allowed_px2(width), settings.softness),
        *(settings.boundary_relative, settings.boundary_absolute, settings.photometric or 1.0),
        CHANNELS=channels,
        SOURCES=source_at.shape[1] if looked_at and source_at is not None else 0,
        BICUBIC=mode == "bicubic",
        BOUNDARY=settings.boundary,
        GIVEN=given_confidence is not None,
        EDGE=edge,
        CELLS=cells,
    )
