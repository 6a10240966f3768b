"""Where the model paints what no other frame shows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flowguide.guidance.holes import LEAST_PAINTED, WHOLE_FROM, Window, uncovered, windows_around

SIZE = (384, 640)
WHOLE = Window(0, 384, 0, 640)


def holes(*places: tuple[int, int, int, int]) -> Tensor:
    """bool [H, W], True in rectangles of (top, bottom, left, right)."""
    found = torch.zeros(SIZE, dtype=torch.bool)
    for place in places:
        Window(*place).of(found)[:] = True
    return found


@pytest.mark.parametrize(
    "places",
    [
        [(100, 140, 200, 260)],
        [(0, 20, 0, 40)],
        [(364, 384, 600, 640)],
        [(100, 140, 30, 60), (120, 180, 560, 600)],
        [(100, 140, 200, 230), (150, 190, 250, 290)],
        [(70, 160, 70, 160), (230, 310, 230, 310)],
    ],
)
@pytest.mark.parametrize("least_px", [0, 64, 128, 200])
def test_windows_hold_every_hole_with_context_on_the_grid(places: list[tuple[int, ...]], least_px: int) -> None:
    windows = windows_around(holes(*places), grid=32, least_px=least_px)
    inside = torch.zeros(SIZE, dtype=torch.bool)
    for window in windows:
        assert all(side % 32 == 0 for side in window)
        assert window.bottom - window.top >= min(least_px, 384)
        assert window.right - window.left >= min(least_px, 640)
        assert 0 <= window.top < window.bottom <= 384
        assert 0 <= window.left < window.right <= 640
        assert not bool(window.of(inside).any()), "no place is painted twice"
        window.of(inside)[:] = True
    for top, bottom, left, right in places:
        near = Window(max(0, top - 48), min(384, bottom + 48), max(0, left - 48), min(640, right + 48))
        assert bool(near.of(inside).all())


def test_holes_far_apart_are_painted_apart_and_near_ones_together() -> None:
    assert len(windows_around(holes((100, 140, 30, 60), (120, 180, 560, 600)), grid=32, least_px=0)) == 2
    assert len(windows_around(holes((100, 140, 200, 230), (150, 190, 250, 290)), grid=32, least_px=0)) == 1


def test_a_speck_asks_for_no_window_of_its_own() -> None:
    side = int((LEAST_PAINTED * 384 * 640) ** 0.5)
    speck = (4, 4 + side, 600, 600 + side)
    alone = windows_around(holes((100, 140, 30, 60)), grid=32, least_px=0)
    assert windows_around(holes((100, 140, 30, 60), speck), grid=32, least_px=0) == alone
    assert windows_around(holes(speck), grid=32, least_px=0) == [WHOLE], "but it is painted where there is nothing else"


def test_nearly_all_is_all() -> None:
    wide = holes((10, 374, 20, int(640 * WHOLE_FROM)))
    assert windows_around(wide, grid=32, least_px=0) == [WHOLE]


@pytest.mark.parametrize(("side", "widest"), [(128, 4), (256, 4), (384, 6), (1024, 16)])
def test_slivers_are_no_holes(side: int, widest: int) -> None:
    for width, counts in ((widest, False), (widest + 2, True)):
        confidence = torch.ones(side, 2 * side)
        confidence[:, 40 : 40 + width] = 0.0
        assert bool(uncovered(confidence).any()) == counts, width
