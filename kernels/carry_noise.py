"""Unit Gaussian noise follows the flow and stays unit Gaussian (docs/math.md section 5).

noise and fresh [N, C, H, W], flow [N, 2, H, W] to the previous frame, in samples. `address` counts the targets of each
source and sums their fresh noise in fixed point, so that the order of the atomic additions does not matter; `carry`
writes the carried noise and its sums over cells. Computed in float32.
"""

import torch
import triton
import triton.language as tl
from flowguide.kernels.cells import cells_of_a_program, summed, tile
from flowguide.kernels.launch import block, dense
from flowguide.kernels.sample import int64
from torch import Tensor

FIXED: tl.constexpr = tl.constexpr(1048576.0)  # 2^20: a sum of 2^31 samples fits 64 bits


@triton.jit
def source_of(flow_ptr, pixel, row, column, mask, plane, height, width):
    """The addressed sample, and whether there is one (NaN compares false)."""
    x = column.to(tl.float32) + tl.load(flow_ptr + pixel, mask=mask, other=0.0).to(tl.float32)
    y = row.to(tl.float32) + tl.load(flow_ptr + plane + pixel, mask=mask, other=0.0).to(tl.float32)
    x, y = tl.floor(x + 0.5), tl.floor(y + 0.5)
    here = mask & (x >= 0.0) & (x < width) & (y >= 0.0) & (y < height)
    x, y = tl.where(here, x, 0.0), tl.where(here, y, 0.0)
    return y.to(tl.int64) * width + x.to(tl.int64), here


@triton.jit
def address_kernel(
    flow_ptr, fresh_ptr, targets_ptr, sums_ptr, height, width, CHANNELS: tl.constexpr, BLOCK: tl.constexpr
):
    plane = int64(height) * width
    n = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    mask = pixel < plane
    source, here = source_of(flow_ptr + n * 2 * plane, pixel, pixel // width, pixel % width, mask, plane, height, width)
    tl.atomic_add(targets_ptr + n * plane + source, here.to(tl.int32), mask=here)
    for c in tl.static_range(CHANNELS):
        channel = (n * CHANNELS + c) * plane
        z = tl.load(fresh_ptr + channel + pixel, mask=mask, other=0.0).to(tl.float32)
        tl.atomic_add(sums_ptr + channel + source, tl.floor(z * FIXED + 0.5).to(tl.int64), mask=here)


@triton.jit
def carry_kernel(
    noise_ptr,
    flow_ptr,
    fresh_ptr,
    targets_ptr,
    sums_ptr,
    carried_ptr,
    latent_ptr,
    height,
    width,
    cell,
    CHANNELS: tl.constexpr,
    EDGE: tl.constexpr,
    CELLS: tl.constexpr,
):
    plane = int64(height) * width
    cell_plane = int64(height // cell) * (width // cell)
    n = tl.program_id(1).to(tl.int64)
    at_cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    row, column, pixel, mask = tile(at_cell, height, width, cell, EDGE)  # [EDGE, CELLS, EDGE]
    source, here = source_of(flow_ptr + n * 2 * plane, pixel, row, column, mask, plane, height, width)
    targets = tl.load(targets_ptr + n * plane + source, mask=here, other=1).to(tl.float32)
    for c in tl.static_range(CHANNELS):
        channel = (n * CHANNELS + c) * plane
        z = tl.load(fresh_ptr + channel + pixel, mask=mask, other=0.0).to(tl.float32)
        v = tl.load(noise_ptr + channel + source, mask=here, other=0.0).to(tl.float32)
        mean = tl.load(sums_ptr + channel + source, mask=here, other=0).to(tl.float32) / (FIXED * targets)
        v = tl.where(targets > 1.0, v / tl.sqrt(targets) + (z - mean), v)
        v = tl.where(here, v, z)
        tl.store(carried_ptr + channel + pixel, v.to(carried_ptr.dtype.element_ty), mask=mask)
        total = summed(v, mask) / cell
        at = (n * CHANNELS + c) * cell_plane + at_cell
        tl.store(latent_ptr + at, total.to(latent_ptr.dtype.element_ty), mask=at_cell < cell_plane)


def carry_noise(noise: Tensor, flow: Tensor, fresh: Tensor, cell: int, out: tuple[Tensor, ...]) -> None:
    n, channels, height, width = noise.shape
    noise, flow, fresh = dense(noise), dense(flow), dense(fresh)
    targets = torch.zeros((n, height, width), dtype=torch.int32, device=noise.device)
    sums = torch.zeros(noise.shape, dtype=torch.int64, device=noise.device)
    size = block(256)
    address_kernel[(triton.cdiv(height * width, size), n)](
        flow, fresh, targets, sums, height, width, CHANNELS=channels, BLOCK=size
    )
    edge = triton.next_power_of_2(cell)
    cells = cells_of_a_program(edge)
    carry_kernel[(triton.cdiv((height // cell) * (width // cell), cells), n)](
        *(noise, flow, fresh, targets, sums, *out, height, width, cell),
        CHANNELS=channels,
        EDGE=edge,
        CELLS=cells,
    )
