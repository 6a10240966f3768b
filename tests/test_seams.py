"""Own pixels beside carried ones: tone, and means over cells."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flowguide.seams import TONE_KEPT, Toner, pooled, spread


def toned(own: Tensor, tone: Tensor, confidence: Tensor, alike: Tensor) -> Tensor:
    return Toner((own.shape[1], own.shape[2]), own.device)(own.clone(), tone, confidence, alike)


SIZES = [(64, 96), (50, 70), (8, 8), (5, 90)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("cell", [4, 8, 16])
def test_pooling_is_the_mean_of_the_pixels_a_cell_has(size: tuple[int, int], cell: int) -> None:
    planes = torch.rand(3, *size)
    expected = F.avg_pool2d(planes[None], cell, ceil_mode=True, count_include_pad=False)[0]
    torch.testing.assert_close(pooled(planes, cell), expected)


def test_spreading_keeps_a_constant_and_the_size() -> None:
    torch.testing.assert_close(spread(torch.full((2, 5, 7), 0.25), (40, 50)), torch.full((2, 40, 50), 0.25))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_painting_of_another_tone_takes_on_the_tone_and_keeps_its_strokes(size: tuple[int, int]) -> None:
    before, ones = torch.rand(3, *size) - 0.5, torch.ones(size)
    own = before + torch.tensor([0.2, -0.1, 0.05])[:, None, None]
    torch.testing.assert_close(toned(own, before, ones, ones), own.lerp(before, TONE_KEPT), atol=1e-5, rtol=0.0)


def test_where_something_else_came_into_view_the_painting_stays() -> None:
    own, before, ones = torch.rand(3, 64, 64) - 0.5, torch.rand(3, 64, 64) - 0.5, torch.ones(64, 64)
    assert torch.equal(toned(own, before, ones, 0 * ones), own)
    alike = 0 * ones
    alike[:, :32] = 1.0
    kept = toned(own, before, ones, alike)
    assert torch.equal(kept[:, :, 40:], own[:, :, 40:]), "but for half a cell, so that there is no step"
    assert not torch.equal(kept[:, :, :32], own[:, :, :32])


def test_without_confidence_nothing_changes() -> None:
    own, before, ones = torch.rand(3, 64, 64) - 0.5, torch.rand(3, 64, 64) - 0.5, torch.ones(64, 64)
    assert torch.equal(toned(own, before, 0 * ones, ones), own)


def test_a_hole_takes_the_tone_of_what_is_known_around_it_alone() -> None:
    """Whatever the prior shows where it is not trusted."""
    own, before, ones = torch.zeros(3, 64, 64), torch.full((3, 64, 64), 0.25), torch.ones(64, 64)
    confidence = ones.clone()
    confidence[24:40, 24:40] = 0.0
    wild = before.clone()
    wild[:, 24:40, 24:40] = 1.0
    kept = toned(own, wild, confidence, ones)
    torch.testing.assert_close(kept, TONE_KEPT * before, atol=1e-5, rtol=0.0)


def test_memory_is_used_again() -> None:
    toner = Toner((50, 70), torch.device("cpu"))
    for seed in range(3):
        torch.manual_seed(seed)
        own, before = torch.rand(3, 50, 70) - 0.5, torch.rand(3, 50, 70) - 0.5
        confidence, alike = torch.rand(50, 70), torch.rand(50, 70)
        expected = toned(own, before, confidence, alike)
        assert torch.equal(toner(own, before, confidence, alike), expected)
