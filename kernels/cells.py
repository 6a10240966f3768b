"""Tiles of whole cells, for the kernels that pool: [EDGE, CELLS, EDGE] with EDGE the power of two from `cell` on."""

import triton
import triton.language as tl
from flowguide.kernels.launch import INTERPRETED


@triton.jit
def tile(at_cell, height, width, cell, EDGE: tl.constexpr):
    """Row, column, place in the plane and mask of every pixel of the cells `at_cell`, counted in reading order."""
    across = (width + cell - 1) // cell
    in_cell = tl.arange(0, EDGE)
    row = (at_cell // across * cell)[None, :, None] + in_cell[:, None, None]
    column = (at_cell % across * cell)[None, :, None] + in_cell[None, None, :]
    mask = (in_cell < cell)[:, None, None] & (in_cell < cell)[None, None, :] & (row < height) & (column < width)
    return row, column, row.to(tl.int64) * width + column, mask


@triton.jit
def summed(value, mask):
    """[EDGE, CELLS, EDGE] -> the sum of each cell, [CELLS]."""
    return tl.sum(tl.sum(tl.where(mask, value, 0.0), axis=2), axis=0)


def cells_of_a_program(edge: int) -> int:
    """A power of two; 256 pixels on a GPU, many more when interpreting."""
    return max((16384 if INTERPRETED else 256) // (edge * edge), 1)
