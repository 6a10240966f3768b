"""No seam where a frame's own pixels fill what is not known: they join on to the carried ones around them.

Two paintings of one thing differ in tone from place to place. The difference along the border of a hole is continued
into it by push-pull, coarser the further in, and added to the frame's own pixels: their detail stays, their tone meets
the surroundings'. It is gradient-domain cloning with push-pull in the place of the Laplace equation (Perez et al.,
SIGGRAPH 2003; Farbman et al., SIGGRAPH 2009), and, since fine differences reach only as far as their own size, a paste
in as many bands as the hole is wide.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops

TONE_CELL_PX = 8
"""Side of the cells whose mean tone is kept: finer differences are strokes."""
ALIKE_FROM = 0.8
"""Share of a cell that must look alike before anything of its tone is taken: less, and slivers that came into view take
on the tone of what hid them."""
TONE_KEPT = 0.7
"""Share of a difference in tone that is taken off: with all of it, chance differences travel on for ever and add up."""


def joined(own: Tensor, prior: Tensor, confidence: Tensor) -> Tensor:
    """`own` [3, H, W] with its tone brought by TONE_KEPT to that of `prior` around it, in [-1, 1].

    prior: [3, H, W], finite where it is known. confidence: [H, W] in [0, 1]; 1 is known. Where nothing is known, or
    all is, `own` comes back as it is.
    """
    difference = (prior - own).masked_fill(confidence == 0, 0.0)
    return (own + TONE_KEPT * ops.fill(difference[None], confidence[None])[0]).clamp(-1.0, 1.0)


class Toner:
    """Keeps the tone that a place had before, as far as it looks the same; of one size of picture, in its own memory.

    What is painted anew though it never left the view, because flow or confidence failed for a moment, keeps its tone
    so; where something else came into view the painting stays (docs/math.md, section 6).
    """

    def __init__(self, size: tuple[int, int], device: torch.device):
        height, width = size
        rows, columns = (-(-side // TONE_CELL_PX) for side in size)
        self._size = size
        down, across = (_pixels_in_cells(side, device) for side in size)
        self._share = 1.0 / (down[:, None] * across)
        """One over the pixels that each cell has."""
        self._pixels = torch.zeros(5, rows * TONE_CELL_PX, columns * TONE_CELL_PX, device=device)
        """Difference in tone times confidence, confidence, likeness."""
        self._lines = torch.empty(5, rows, columns * TONE_CELL_PX, device=device)
        self._cells = torch.empty(5, rows, columns, device=device)
        self._tone = torch.empty(1, 4, rows, columns, device=device)
        """Difference in tone, likeness."""
        self._known, self._filled = torch.empty(1, rows, columns, device=device), self._tone[:, :3]
        self._spread = torch.empty(1, 4, height, width, device=device)

    def fits(self, size: tuple[int, int], device: torch.device) -> bool:
        """Whether it is for pictures of this size, there."""
        return self._size == size and self._pixels.device == device

    def __call__(self, own: Tensor, tone: Tensor, confidence: Tensor, alike: Tensor) -> Tensor:
        """`own` [3, H, W] with TONE_KEPT of the difference in tone taken off, in [-1, 1]; changed in place.

        tone: [3, H, W], what was painted before, in the light of now, finite. confidence: [H, W] in [0, 1], where that
        is known to be of this place: the difference from it is measured there. alike: [H, W] in [0, 1], how far the
        source looks as it did then: the difference is taken off there.
        """
        height, width = self._size
        _, rows, columns = self._cells.shape
        inside = self._pixels[:, :height, :width]
        torch.sub(tone, own, out=inside[:3])
        inside[:3].mul_(confidence)
        inside[3].copy_(confidence)
        inside[4].copy_(alike)
        torch.sum(self._pixels.view(5, rows, TONE_CELL_PX, -1), 2, out=self._lines)
        torch.sum(self._lines.view(5, rows, columns, TONE_CELL_PX), 3, out=self._cells)
        torch.mul(self._cells[3], self._share, out=self._known[0]).clamp_(0.0, 1.0)
        self._cells[:3].div_(self._cells[3].clamp_min_(1e-6))
        ops.fill(self._cells[None, :3], self._known, out=self._filled)
        # By cells too: with a border of its own in every pixel, likeness would cut steps into the tone.
        likeness = torch.mul(self._cells[4], self._share, out=self._tone[0, 3])
        likeness.sub_(ALIKE_FROM).mul_(1.0 / (1.0 - ALIKE_FROM)).clamp_(0.0, 1.0)
        torch.ops.aten.upsample_bilinear2d.out(self._tone, self._size, False, None, None, out=self._spread)
        return own.addcmul_(self._spread[0, :3], self._spread[0, 3], value=TONE_KEPT).clamp_(-1.0, 1.0)


def _pixels_in_cells(side: int, device: torch.device) -> Tensor:
    cells = -(-side // TONE_CELL_PX)
    return (side - TONE_CELL_PX * torch.arange(cells, device=device)).clamp_max(TONE_CELL_PX).float()


def pooled(planes: Tensor, cell: int) -> Tensor:
    """The mean of every cell of `planes` [C, H, W], [C, ceil(H / cell), ceil(W / cell)]; cells cut by the border have
    the mean of the pixels they have."""
    channels, height, width = planes.shape
    below, right = -height % cell, -width % cell
    if below or right:
        planes = F.pad(planes, (0, right, 0, below))
    rows, columns = (side // cell for side in planes.shape[1:])
    # Down first, along lines of memory.
    lines = planes.reshape(channels, rows, cell, columns * cell).sum(2)
    total = lines.view(channels, rows, columns, cell).sum(3)
    total[:, -1] *= cell / (cell - below)
    total[:, :, -1] *= cell / (cell - right)
    return total.div_(cell**2)


def spread(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """`cells` [C, h, w] at the pixels of a picture of `size`, [C, H, W], bilinear."""
    return F.interpolate(cells[None], size, mode="bilinear", align_corners=False)[0]
