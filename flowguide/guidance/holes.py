"""Holes: what no other frame shows, apart from slivers, which are filled from around them."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

MOST_UNCOVERED = 0.01
"""Share of a frame that may be unknown, slivers not counted."""
SLIVER = 1 / 64
"""Width of a sliver, as a share of the frame's shorter side; at least SLIVER_PX."""
SLIVER_PX = 4
LEAST_PAINTED = 0.0015
"""Share of the frame from which a hole by itself is worth a window."""
CONTEXT_PX = 48
"""What a model sees around the holes that it paints, at least."""
WHOLE_FROM = 0.75
"""Share of the frame from which windows are not worth their borders."""


class Window(NamedTuple):
    """A rectangle of a frame, in pixels; the last row and column are the first ones outside."""

    top: int
    bottom: int
    left: int
    right: int

    @staticmethod
    def whole(size: tuple[int, int]) -> Window:
        """All of a frame of this height and width."""
        return Window(0, size[0], 0, size[1])

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    def of(self, planes: Tensor) -> Tensor:
        """This part of `planes` [..., H, W]."""
        return planes[..., self.top : self.bottom, self.left : self.right]

    def overlaps(self, other: Window) -> bool:
        """Whether they share a pixel."""
        rows = max(self.top, other.top) < min(self.bottom, other.bottom)
        return rows and max(self.left, other.left) < min(self.right, other.right)

    def united(self, other: Window) -> Window:
        """The smallest window that holds both."""
        first, last = map(min, self, other), map(max, self, other)
        (top, _, left, _), (_, bottom, _, right) = first, last
        return Window(top, bottom, left, right)


def uncovered(confidence: Tensor) -> Tensor:
    """bool [H, W]: where `confidence` [H, W] in [0, 1] says that nothing is known, without slivers."""
    hidden = (confidence < 0.5).cpu().numpy().astype(np.uint8)
    wider = max(SLIVER_PX, round(SLIVER * min(hidden.shape))) // 2 * 2 + 1
    sliver = np.ones((wider, wider), np.uint8)
    return torch.from_numpy(cv2.morphologyEx(hidden, cv2.MORPH_OPEN, sliver)).bool().to(confidence.device)


def windows_around(holes: Tensor, *, grid: int, least_px: int) -> list[Window]:
    """Windows that hold the larger of the `holes` (bool [H, W], some True) and CONTEXT_PX around them.

    Sides and places are multiples of `grid`, as H and W are, and sides at least `least_px` where the frame's are.
    Windows that would overlap are one. The whole frame where there is no larger hole, or nearly all would be windows.
    """
    height, width = holes.shape
    whole = Window.whole((height, width))
    _, _, found, _ = cv2.connectedComponentsWithStats(holes.cpu().numpy().astype(np.uint8), connectivity=8)
    windows: list[Window] = []
    for left, top, wide, high, area in found[1:].tolist():
        if area >= LEAST_PAINTED * whole.area:
            rows = _reach(top, top + high, height, grid, least_px)
            added = Window(*rows, *_reach(left, left + wide, width, grid, least_px))
            windows = _with(windows, added)
    covered = sum(window.area for window in windows)
    return windows if 0 < covered < WHOLE_FROM * whole.area else [whole]


def _with(windows: list[Window], added: Window) -> list[Window]:
    """`windows` and one more; those that overlap, and those that are no larger as one than apart, are one."""
    for place, window in enumerate(windows):
        both = window.united(added)
        if window.overlaps(added) or both.area <= window.area + added.area:
            return _with([*windows[:place], *windows[place + 1 :]], both)
    return [*windows, added]


def _reach(first: int, last: int, length: int, grid: int, least: int) -> tuple[int, int]:
    """Where a window along one side begins and ends that holds `first` to `last`."""
    least = min(-(-least // grid) * grid, length)
    begin = max(0, first - CONTEXT_PX) // grid * grid
    end = min(length, -(-(last + CONTEXT_PX) // grid) * grid)
    if end - begin < least:
        begin = min(max(0, (begin + end - least) // 2), length - least) // grid * grid
        end = begin + least
    return begin, end
