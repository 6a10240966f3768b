"""The parts of guidance: trust, stretch, the rolling anchor, and what a frame hands to the next."""

from __future__ import annotations

import math

import pytest
import torch

from flowguide import ops
from flowguide.config import RenderConfig
from flowguide.flow import estimator
from flowguide.guidance.anchor import LEAST_KEPT, LONGEST_FRAMES, Anchor
from flowguide.guidance.detail import detail
from flowguide.guidance.previous import PreviousFrame
from flowguide.guidance.stretch import SOUND, WORN_OUT, log_area, soundness
from flowguide.guidance.trust import DOUBT, TRUSTED, decided, unsharp
from flowguide.timing import StageClock
from flowguide.types import Frame


def shift(u: float, v: float, height: int = 40, width: int = 56) -> torch.Tensor:
    return torch.tensor([u, v]).view(2, 1, 1).expand(2, height, width).contiguous()


def zoom(factor: float, height: int = 40, width: int = 56) -> torch.Tensor:
    """Backward flow of a zoom in: content of (x, y) lies nearer to the centre in the frame before."""
    rows, columns = torch.meshgrid(torch.arange(height) - height / 2, torch.arange(width) - width / 2, indexing="ij")
    return torch.stack([columns, rows]) * (1.0 / factor - 1.0)


def test_a_shift_stretches_nothing() -> None:
    assert torch.allclose(log_area(shift(3.2, -1.7)), torch.zeros(40, 56), atol=1e-6)


@pytest.mark.parametrize("factor", [0.9, 1.03, 1.5])
def test_a_zoom_stretches_by_its_area(factor: float) -> None:
    inner = log_area(zoom(factor))[2:-2, 2:-2]
    torch.testing.assert_close(inner, torch.full_like(inner, -2.0 * math.log(factor)), atol=1e-5, rtol=0)


def test_a_fold_is_finite_and_worn_out() -> None:
    uv = shift(0.0, 0.0)
    uv[0, :, 20:] -= 30.0
    areas = log_area(uv)
    assert bool(torch.isfinite(areas).all())
    assert float(soundness(areas)[10, 20]) == 0.0


def test_soundness_falls_between_its_limits() -> None:
    values = torch.tensor([WORN_OUT - 1.0, WORN_OUT, (WORN_OUT + SOUND) / 2, SOUND, 0.0, 2.0])
    torch.testing.assert_close(soundness(values), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0, 1.0]))


def test_confidence_becomes_a_decision() -> None:
    given = torch.tensor([0.0, DOUBT, (DOUBT + TRUSTED) / 2, TRUSTED, 1.0])
    torch.testing.assert_close(decided(given), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))


def test_unsharp_leaves_the_even_and_lifts_the_edge() -> None:
    even = torch.full((3, 20, 20), 0.25)
    assert unsharp(even, 0.0) is even
    torch.testing.assert_close(unsharp(even, 0.12), even)
    step = torch.cat([torch.full((3, 20, 10), -0.5), torch.full((3, 20, 10), 0.5)], dim=2)
    lifted = unsharp(step, 0.5)
    assert float(lifted[0, 10, 10]) > 0.5
    assert float(lifted[0, 10, 9]) < -0.5


def fine_energy(picture: torch.Tensor) -> float:
    inner = picture[:, 8:-8, 12:-12]
    return float((inner[:, 1:] - inner[:, :-1]).square().mean())


def test_reading_from_the_anchor_keeps_the_detail_that_a_chain_loses() -> None:
    """Ten shifts of 0.3 px: three pixels in all, so both should equal an integer shift."""
    picture = torch.rand(3, 96, 128) * 2 - 1
    anchor, chained, flow = Anchor.at(picture), picture, shift(0.3, 0.0, 96, 128)
    for _ in range(10):
        prior = ops.warp(chained[None], flow[None], mode="spline36")[0]
        anchor, read = anchor.carried(flow, prior)
        chained = prior
    truth = ops.warp(picture[None], shift(3.0, 0.0, 96, 128)[None])[0]
    inner = (slice(None), slice(8, -8), slice(40, -40))
    torch.testing.assert_close(read[inner], truth[inner], atol=1e-3, rtol=0)
    assert fine_energy(read) > 0.99 * fine_energy(truth)
    assert fine_energy(chained) < 0.75 * fine_energy(truth)


def test_half_a_pixel_from_the_anchor_the_detail_is_given_back() -> None:
    picture = torch.nn.functional.avg_pool2d(torch.rand(1, 3, 97, 129) * 2 - 1, 2, 1)[0]
    flow = shift(0.5, 0.0, 96, 128)
    plain = ops.warp(picture[None], flow[None], mode="spline36")[0]
    _, read = Anchor.at(picture).carried(flow, plain)
    inner = (slice(None), slice(20, -20), slice(20, -20))
    before, after, truth = (float(detail(p)[inner[1:]].mean()) for p in (plain, read, picture))
    assert before < 0.9 * truth
    assert 0.93 * truth < after < truth


def test_what_was_generated_after_the_anchor_is_read_from_the_frame_before() -> None:
    anchor = Anchor.at(torch.zeros(3, 40, 56))
    still = shift(0.0, 0.0)
    anchor, _ = anchor.carried(still, torch.zeros(3, 40, 56))
    pasted = torch.ones(40, 56)
    pasted[:, 46:] = 0.0
    finished = torch.zeros(3, 40, 56)
    finished[:, :, 46:] = 0.5
    anchor = anchor.after(pasted, finished)
    assert anchor.age == 1
    _, read = anchor.carried(still, finished)
    assert torch.equal(read, finished)


def test_the_anchor_is_renewed_when_old_or_when_little_of_it_is_left() -> None:
    picture, finished, whole = torch.zeros(3, 8, 8), torch.ones(3, 8, 8), torch.ones(8, 8)
    old = Anchor(picture, whole * 0, torch.zeros(2, 8, 8), whole, LONGEST_FRAMES)
    assert old.after(whole, finished).age == 0
    assert torch.equal(old.after(whole, finished).picture, finished)
    young = Anchor(picture, whole * 0, torch.zeros(2, 8, 8), whole, 3)
    assert young.after(whole, finished).age == 3
    assert young.after(whole * (LEAST_KEPT - 0.01), finished).age == 0


def test_out_of_the_frame_nothing_is_kept() -> None:
    anchor, _ = Anchor.at(torch.rand(3, 16, 24)).carried(shift(5.0, 0.0, 16, 24), torch.rand(3, 16, 24))
    assert bool((anchor.kept[:, :18] == 1.0).all())
    assert bool((anchor.kept[:, 20:] == 0.0).all())


def test_a_fade_is_followed() -> None:
    """Frame against frame a slow fade never looks like a change; the carried picture must not stay in the dark.

    The painter here paints each frame as it is, so the finished picture should end as bright as the source.
    """
    texture = torch.rand(3, 48, 64)
    guidance = PreviousFrame(estimator("dis", confidence=None), RenderConfig(), 8, StageClock())
    shares = []
    for index in range(48):
        rgb = (texture * 255 * (0.05 + 0.95 * index / 47)).round().to(torch.uint8)
        source = ops.to_model(rgb[None])[0]
        carried = guidance.carry(Frame(rgb, index), source)
        finished = source if carried is None else guidance.finish(source, carried)
        guidance.remember(Frame(rgb, index), source, finished, carried)
        shares.append(0.0 if carried is None else carried.confident_share)
    assert max(shares) > 0.9, "most frames should carry most pixels"
    assert float((finished - source).abs().mean()) < 0.2
