"""The reference is proven by properties, not by itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flowguide import ops
from flowguide.ops import ConfidenceSettings


@pytest.fixture(autouse=True)
def reference():
    with ops.use("reference"):
        yield


def shift(height: int, width: int, u: float, v: float) -> Tensor:
    flow = torch.zeros(1, 2, height, width)
    flow[:, 0], flow[:, 1] = u, v
    return flow


def ramp(height: int, width: int) -> Tensor:
    """A picture that is linear in x and y, in float64."""
    x, y = torch.arange(width, dtype=torch.float64), torch.arange(height, dtype=torch.float64)[:, None]
    return (0.01 * x - 0.02 * y).expand(1, 1, height, width).contiguous()


@pytest.mark.parametrize("mode", ops.MODES)
def test_warp_of_a_ramp_is_exact_inside(mode: str) -> None:
    image, flow = ramp(20, 30), shift(20, 30, 2.25, -1.5).double()
    moved = ops.warp(image, flow, mode=mode)
    expected = image + 0.01 * 2.25 + 0.02 * 1.5
    inside = (..., slice(4, -4), slice(4, -4))
    allowed = 2e-4 if mode == "spline36" else 1e-12  # whose weights balance about the position only nearly
    assert torch.allclose(moved[inside], expected[inside], atol=allowed)


def test_a_positive_flow_fetches_from_the_right_and_below() -> None:
    image = torch.zeros(1, 1, 10, 12)
    image[0, 0, 6, 9] = 1  # the content of (5, 2) lies at (9, 6)
    moved = ops.warp(image, shift(10, 12, 4, 4))
    assert moved[0, 0, 2, 5] == 1
    assert moved.sum() == 1


def test_borders_continue_the_picture_as_they_say() -> None:
    image = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    left = shift(1, 4, -2, 0)
    expected = {"edge": [1, 1, 1, 2], "zero": [0, 0, 1, 2], "reflect": [3, 2, 1, 2], "wrap": [3, 4, 1, 2]}
    for border, values in expected.items():
        assert ops.warp(image, left, border=border).flatten().tolist() == values


def test_an_inverse_pair_of_flows_is_certain_except_where_it_leaves() -> None:
    forth = shift(32, 48, 5, -3)
    made = ops.predict(torch.rand(1, 3, 32, 48), forth, -forth)
    assert (made.confidence[:, 3:, :-5] == 1).all()
    assert (made.confidence[:, :2] == 0).all()
    assert (made.confidence[:, :, -4:] == 0).all()


def test_disagreement_is_occlusion_at_the_stated_threshold() -> None:
    settings = ConfidenceSettings(boundary=False)
    for width, allowed in ((512, 0.125), (1024, 0.5), (64, 0.1)):
        flow = torch.zeros(1, 2, 2, width)
        for error_px2, certain in ((0.4 * allowed, 1.0), (1.05 * allowed, 0.0)):
            back = torch.full_like(flow, math.sqrt(error_px2 / 2))
            made = ops.predict(torch.zeros(1, 1, 2, width), flow, back, settings=settings)
            assert (made.confidence == certain).all()


def test_a_zoom_of_three_percent_is_no_motion_boundary_and_an_edge_is() -> None:
    x, y = torch.arange(64.0) - 31.5, (torch.arange(48.0) - 23.5)[:, None]
    zoom = torch.stack([(0.03 * x).expand(48, 64), (0.03 * y).expand(48, 64)])[None]
    back = -zoom / 1.03
    assert (ops.predict(torch.rand(1, 3, 48, 64), zoom, back).confidence[:, 2:-2, 2:-2] == 1).all()
    edge = shift(48, 64, 0, 0)
    edge[:, 0, :, 32:] = 3
    confidence = ops.predict(torch.rand(1, 3, 48, 64), edge, -edge).confidence
    assert (confidence[:, :, 31:33] == 0).all()
    assert (confidence[:, :, :30] == 1).all()


def test_the_photometric_check_falls_smoothly_to_a_half_at_its_tolerance() -> None:
    flow, image = shift(8, 8, 0, 0), torch.zeros(1, 3, 8, 8)
    seen = [
        ops.predict(image, flow, flow, image, image + difference).confidence.mean().item()
        for difference in (0.0, 0.03, 0.1, 0.3)
    ]
    assert seen[0] == 1
    assert seen[1] > 0.98
    assert abs(seen[2] - 0.5) < 1e-5
    assert seen[3] < 0.02


def test_latent_flow_is_the_mean_in_cells_and_latent_confidence_the_minimum() -> None:
    flow = shift(16, 24, 4, -8)
    confidence = torch.ones(1, 16, 24)
    confidence[0, 11, 9] = 0.25
    made = ops.predict(torch.rand(1, 3, 16, 24), flow, None, given_confidence=confidence)
    assert torch.equal(made.flow_latent[:, 0], torch.full((1, 2, 3), 0.5))
    assert torch.equal(made.flow_latent[:, 1], torch.full((1, 2, 3), -1.0))
    assert made.confidence_latent[0].tolist() == [[0, 0, 0], [1, 0.25, 0]]  # the upper row and the right cell leave


def test_nan_flow_is_confidence_zero_and_a_finite_prior() -> None:
    flow = torch.full((1, 2, 9, 9), float("nan"))
    made = ops.predict(torch.rand(1, 3, 9, 9), flow, flow)
    assert (made.confidence == 0).all()
    assert all(t.isfinite().all() for t in made)


def test_composing_shifts_adds_them_and_confidences_multiply() -> None:
    one, two = shift(20, 30, 2, 1), shift(20, 30, -4.5, 3)
    flow, confidence = ops.compose(one, two, torch.full((1, 20, 30), 0.5), torch.full((1, 20, 30), 0.5))
    assert torch.equal(flow, one + two)
    assert (confidence[:, :-1, :-2] == 0.25).all()
    assert (confidence[:, -1:] == 0).all()


def test_the_mean_of_priors_is_weighted_and_the_best_is_whole() -> None:
    priors = torch.stack([torch.full((1, 8, 8), value) for value in (1.0, 3.0)])[None]
    confidences = torch.tensor([0.25, 0.75]).view(1, 2, 1, 1).expand(1, 2, 8, 8).contiguous()
    prior, confidence = ops.composite(priors, confidences)
    assert (prior == 2.5).all()
    assert (confidence == 0.75).all()
    confidences[:, 0] = 0.9
    confidences[:, 0, :, :3] = 0.1  # reliable on the smaller area
    prior, confidence = ops.composite(priors, confidences, rule="best")
    assert (prior == 3).all()
    confidences[:, 1, 0] = 0
    prior, confidence = ops.composite(priors, confidences, rule="best")
    assert (prior[:, :, 1:] == 3).all()
    assert (prior[:, :, 0] == 1).all()
    assert confidence[0, 0, 0] == pytest.approx(0.1)


def test_filling_keeps_what_is_known_and_makes_everything_finite() -> None:
    prior, confidence = torch.rand(1, 3, 33, 47), (torch.rand(1, 33, 47) > 0.8).float()
    holed = torch.where(confidence[:, None] > 0, prior, float("nan"))
    filled = ops.fill(holed, confidence)
    known = (confidence[:, None] > 0).expand_as(prior)
    assert torch.equal(filled[known], prior[known])
    assert filled.isfinite().all()
    assert filled.min() >= prior[known].min() - 1e-6
    assert filled.max() <= prior[known].max() + 1e-6
    assert (ops.fill(torch.full_like(prior, float("nan")), torch.zeros_like(confidence)) == 0).all()


def test_filling_a_constant_is_constant() -> None:
    confidence = (torch.rand(1, 40, 24) > 0.95).float()
    assert torch.allclose(ops.fill(torch.full((1, 1, 40, 24), 0.3), confidence), torch.tensor(0.3), atol=1e-6)


def test_a_guided_step_is_the_written_formula() -> None:
    x, m, k0, previous, noise = (torch.randn(2, 4, 6, 7, dtype=torch.float64) for _ in range(5))
    weight = torch.full((2, 6, 7), 0.5, dtype=torch.float64)
    rows = [ops.StepRow(1.1, -0.4, 0.9, 0.2, 0.1, 0.3, share=0.6), ops.StepRow(1.0, -0.8, 0.5, 0.7, 0.2, 0.1)]
    x_next, x0 = ops.guided_step(x, m, rows, k0=k0, weight=weight, x0_prev=previous, noise=noise)
    for n, row in enumerate(rows):
        plain = row.P * x[n] + row.Q * m[n]
        guided = plain + 0.5 * row.share * (k0[n] - plain)
        step = row.A * x[n] + row.B * guided + row.C * previous[n] + row.D * noise[n]
        assert torch.allclose(x0[n], guided, atol=1e-12)
        assert torch.allclose(x_next[n], step, atol=1e-12)


def test_erosion_takes_one_cell_off() -> None:
    weight = torch.ones(1, 7, 9)
    weight[0, 3, 4] = 0
    k0 = torch.ones(1, 1, 7, 9)
    row = ops.StepRow(0.0, 0.0, 0.0, 1.0, share=1.0)
    _, x0 = ops.guided_step(torch.zeros_like(k0), torch.zeros_like(k0), row, k0=k0, weight=weight)
    expected = torch.ones(7, 9)
    expected[2:5, 3:6] = 0
    assert torch.equal(x0[0, 0], expected)


FLOWS = {
    "translation": lambda x, y: (3.4 + 0 * x, -2.7 + 0 * y),
    "zoom": lambda x, y: (-0.05 * x, -0.05 * y),
    "rotation and waves": lambda x, y: (0.05 * y + 3 * (y / 20).sin(), -0.05 * x + 3 * (x / 15).cos()),
}


@pytest.mark.parametrize("name", FLOWS)
def test_carried_noise_stays_white_and_unit(name: str) -> None:
    height = width = 128
    x, y = torch.meshgrid(torch.arange(width) - 64.0, torch.arange(height) - 64.0, indexing="xy")
    flow = torch.stack(torch.broadcast_tensors(*FLOWS[name](x, y)))[None].contiguous()
    noise, seen = torch.randn(1, 4, height, width), []
    for _ in range(16):
        before = noise
        noise, latent = ops.carry_noise(noise, flow, torch.randn_like(noise))
        neighbours = ((noise[..., 1:] * noise[..., :-1]).mean(), (noise[..., 1:, :] * noise[..., :-1, :]).mean())
        seen.append(torch.tensor([noise.var(), latent.var(), *neighbours]))
    variance, latent_variance, across, down = torch.stack(seen).mean(0).tolist()
    assert abs(variance - 1) < 0.02
    assert abs(latent_variance - 1) < 0.05  # 64 times fewer samples
    assert abs(across) < 0.02
    assert abs(down) < 0.02
    if name == "translation":
        followed = ops.warp(before, flow.round())
        inside = (..., slice(8, -8), slice(8, -8))
        assert torch.corrcoef(torch.stack([followed[inside].flatten(), noise[inside].flatten()]))[0, 1] > 0.9


def test_colour_survives_the_way_there_and_back() -> None:
    rgb = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    assert torch.equal(ops.from_model(ops.to_model(rgb, pad_to=64), size=(32, 48)), rgb)
    flat = torch.tensor([200, 30, 90], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 16, 16).contiguous()
    for layout in ("nv12", "p010"):
        for matrix in ("bt601", "bt709", "bt2020"):
            for full_range in (False, True):
                colour = {"matrix": matrix, "full_range": full_range}
                planes = ops.from_model(ops.to_model(flat), layout=layout, **colour)
                back = ops.from_model(ops.to_model(*planes, **colour))
                assert (back.int() - flat.int()).abs().max() <= 2


def test_known_codes_of_white_black_and_red() -> None:
    colours = {(255, 255, 255): (235, 128, 128), (0, 0, 0): (16, 128, 128), (255, 0, 0): (63, 102, 240)}
    for rgb, codes in colours.items():
        image = ops.to_model(torch.tensor(rgb, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4))
        luma, chroma = ops.from_model(image, layout="nv12", matrix="bt709")
        assert (luma[0, 0, 0].item(), *chroma[0, 0, 0].tolist()) == codes


def test_resizing_keeps_a_constant_and_a_ramp() -> None:
    flat = torch.full((1, 3, 30, 44), 77, dtype=torch.uint8)
    assert torch.allclose(ops.to_model(flat, size=(13, 90)), torch.tensor(77 / 127.5 - 1), atol=1e-6)
    steps = torch.arange(0, 240, 2, dtype=torch.uint8).view(1, 1, 1, 120).expand(1, 3, 8, 120).contiguous()
    half = ops.to_model(steps, size=(8, 60))[0, 0, 0]
    assert torch.allclose(half[2:-2], (torch.arange(60.0) * 4 + 1)[2:-2] / 127.5 - 1, atol=1e-5)
