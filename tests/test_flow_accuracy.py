"""The scenes of known flow are true, and accuracy is computed as it is defined."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flowguide import ops
from flowguide.errors import UnknownName
from flowguide.flow import estimator
from flowguide.flow.accuracy import Accuracy, endpoint_error
from flowguide.training.flow_scenes import DIFFICULTIES, from_pictures, make_pair, procedural
from flowguide.types import Flow

SIZE = (96, 128)


@pytest.fixture(scope="module", params=DIFFICULTIES)
def pair(request):
    return make_pair(request.param, 3, SIZE, seed=5)


def test_going_there_and_back_ends_where_it_began(pair):
    for there, back, visible in (
        (pair.forward, pair.backward, pair.forward_visible),
        (pair.backward, pair.forward, pair.backward_visible),
    ):
        returned = there + ops.warp(back[None], there[None])[0]
        distance = torch.linalg.vector_norm(returned, dim=0)[visible]
        assert distance.median() < 0.01
        assert (distance < 0.05).float().mean() > 0.9  # not across edges, where the other flow is interpolated


def test_visible_pixels_look_alike_and_hidden_ones_do_not(pair):
    moved = ops.warp(pair.second.rgb[None].float(), pair.forward[None])[0]
    difference = (moved - pair.first.rgb.float()).abs().mean(0)
    assert difference[pair.forward_visible].mean() < 25  # noise and another light on half of the second frames
    assert difference[~pair.forward_visible].mean() > 1.3 * difference[pair.forward_visible].mean()


def test_pixels_that_leave_the_frame_are_not_visible(pair):
    x = torch.arange(SIZE[1]) + pair.forward[0]
    y = torch.arange(SIZE[0])[:, None] + pair.forward[1]
    outside = (x < -0.5) | (x > SIZE[1] - 0.5) | (y < -0.5) | (y > SIZE[0] - 0.5)
    assert not pair.forward_visible[outside].any()


def test_a_scene_comes_from_its_numbers_alone():
    made, again, other = (make_pair("small", number, SIZE, seed=2) for number in (1, 1, 2))
    assert torch.equal(made.first.rgb, again.first.rgb)
    assert torch.equal(made.forward, again.forward)
    assert not torch.equal(made.first.rgb, other.first.rgb)


def test_difficulties_differ_as_their_names_say():
    lengths = {}
    hidden = {}
    for name in DIFFICULTIES:
        found = [make_pair(name, number, SIZE) for number in range(3)]
        lengths[name] = np.mean([float(p.forward.square().sum(0).sqrt().mean()) for p in found])
        hidden[name] = np.mean([float((~p.forward_visible).float().mean()) for p in found])
    assert lengths["large"] > 4 * lengths["small"]
    assert hidden["occlusion"] > 3 * hidden["small"]


def test_layers_can_be_textured_with_pictures(tmp_path):
    import cv2

    for number in range(2):
        picture = procedural(np.random.default_rng(number), 80).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
    pair = make_pair("small", 0, SIZE, texture=from_pictures(sorted(tmp_path.iterdir())))
    assert pair.first.rgb.float().std() > 3
    with pytest.raises(FileNotFoundError, match="not a readable picture"):
        make_pair("small", 0, SIZE, texture=from_pictures([tmp_path / "absent.png"]))


def exact(confidence: float = 1.0) -> tuple[Flow, torch.Tensor, torch.Tensor]:
    truth = torch.randn(2, 8, 10)
    return Flow(truth.clone(), 0, 1, torch.full((8, 10), confidence)), truth, torch.ones(8, 10, dtype=torch.bool)


def test_a_perfect_flow_has_perfect_numbers():
    accuracy = Accuracy()
    accuracy.add(*exact())
    assert accuracy.row() == {
        "epe_px": 0,
        "epe_visible_px": 0,
        "share_above_1px": 0,
        "share_above_3px": 0,
        "occlusion_f1": 0,
        "doubt_f1": 0,
        "calibration_error": 0,
        "sparsification_area": 0,
    }


def test_the_endpoint_error_is_a_length():
    assert endpoint_error(torch.tensor([3.0, 4.0]).view(2, 1, 1), torch.zeros(2, 1, 1)).item() == 5


def test_numbers_of_a_flow_that_is_half_wrong():
    flow, truth, visible = exact()
    flow.uv[0, :4] += 2
    visible[:2] = False
    flow.confidence[:3] = 0.1  # calls the two hidden rows and one visible one
    accuracy = Accuracy()
    accuracy.add(flow, truth, visible)
    row = accuracy.row()
    assert row["epe_px"] == pytest.approx(1, abs=1e-5)
    assert row["epe_visible_px"] == pytest.approx(2 * 2 / 6, abs=1e-5)
    assert (row["share_above_1px"], row["share_above_3px"]) == (0.5, 0)
    assert row["occlusion_f1"] == pytest.approx(2 * 20 / (30 + 20))
    assert row["doubt_f1"] == row["occlusion_f1"]
    # of 0.1 none is right (3 rows), of 1.0 four of five rows are
    assert row["calibration_error"] == pytest.approx((3 * 0.1 + 5 * 0.2) / 8, abs=1e-6)
    assert accuracy.calibration[0] == pytest.approx((0.1, 0.0, 3 / 8))


def test_a_measure_may_call_occlusion_itself():
    flow, truth, visible = exact(0.2)
    visible[:2] = False
    accuracy = Accuracy()
    accuracy.add(flow, truth, visible, called_visible=visible.clone())
    assert accuracy.occlusion_f1 == 1
    assert accuracy.doubt_f1 == pytest.approx(2 * 20 / (80 + 20))


def test_confidence_that_orders_the_errors_has_no_sparsification_area():
    flow, truth, visible = exact()
    flow.uv[0] += torch.linspace(0, 3, 80).view(8, 10)
    ordered, reversed_ = Accuracy(), Accuracy()
    flow.confidence.copy_(torch.linspace(1, 0, 80).view(8, 10))
    ordered.add(flow, truth, visible)
    flow.confidence.copy_(torch.linspace(0, 1, 80).view(8, 10))
    reversed_.add(flow, truth, visible)
    assert ordered.sparsification_area == pytest.approx(0, abs=1e-9)
    assert reversed_.sparsification_area > 0.5


def test_sums_can_be_merged():
    parts = [exact(0.9), exact(0.4)]
    parts[1][0].uv[0] += 2
    whole, merged = Accuracy(), Accuracy()
    for part in parts:
        whole.add(*part)
        one = Accuracy()
        one.add(*part)
        merged.merge(one)
    assert merged.row() == pytest.approx(whole.row())
    assert merged.pairs == 2


def test_a_flow_without_confidence_has_no_numbers_for_it():
    flow, truth, visible = exact()
    accuracy = Accuracy()
    accuracy.add(Flow(flow.uv, 0, 1), truth, visible)
    assert set(accuracy.row()) == {"epe_px", "epe_visible_px", "share_above_1px", "share_above_3px"}


@pytest.mark.parametrize("confidence", ["check", "forward-backward"])
def test_confidence_tells_visible_pixels_from_hidden_ones(confidence):
    made = estimator("dis", confidence=confidence)
    accuracy = Accuracy()
    for number in range(3):
        pair = make_pair("large", number, (160, 208), seed=11)
        flow = made(pair.first, pair.second)
        assert flow.confidence[pair.forward_visible].mean() > flow.confidence[~pair.forward_visible].mean() + 0.3
        accuracy.add(flow, pair.forward, pair.forward_visible)
    assert accuracy.occlusion_f1 > 0.4
    assert accuracy.epe < 4


def test_an_unknown_difficulty_is_refused():
    with pytest.raises(UnknownName, match="Did you mean 'occlusion'"):
        make_pair("oclusion", 0, SIZE)
