"""Confidence made of parts, and flow composed over many frames."""

from __future__ import annotations

import pytest
import torch
from textures import texture
from torch import Tensor

from flowguide import ops
from flowguide.errors import UnknownName, UsageError
from flowguide.flow import estimator
from flowguide.flow.composition import Route, reading_blur
from flowguide.flow.confidence import CONFIDENCE, confidence_measure
from flowguide.flow.parts import PARTS, ConfidenceParts
from flowguide.training.flow_scenes import make_pair
from flowguide.types import Flow, Frame

SIZE = (72, 96)
Seen = tuple[Frame, Frame, Tensor, Tensor]


@pytest.fixture(scope="module")
def seen() -> Seen:
    pair = make_pair("occlusion", 1, SIZE, seed=4)
    return (pair.first, pair.second, *estimator("dis", confidence=None).displacements(pair.first, pair.second))


@pytest.mark.parametrize(
    ("parts", "whole"),
    [("consistency", "forward-backward"), ("consistency:0.5+boundary:0.002+photometric:0.1", "check")],
)
def test_the_parts_make_up_the_measures_that_have_names(seen: Seen, parts: str, whole: str) -> None:
    assert torch.allclose(confidence_measure(parts)(*seen), CONFIDENCE[whole](*seen), atol=2e-3)


@pytest.mark.parametrize("part", ["boundary", "photometric", "erode:30"])
def test_every_part_doubts_more_and_texture_less(seen: Seen, part: str) -> None:
    alone, with_part = (confidence_measure(text)(*seen) for text in ("consistency", f"consistency+{part}"))
    assert (with_part <= alone + 1e-6).all()
    assert with_part.mean() < alone.mean() - 0.01


def test_less_agreement_is_asked_for_where_there_is_no_texture() -> None:
    rgb = texture(*SIZE, 3)
    rgb[:, :, 48:] = 128
    at = Frame(rgb, 0)
    uv, back = torch.zeros(2, *SIZE), torch.full((2, *SIZE), 0.45)
    measured = {text: confidence_measure(text)(at, at, uv, back) for text in ("consistency", "consistency+texture:400")}
    strict, loose = measured.values()
    assert (strict == 0).all()
    assert (loose[:, 56:] > 0.9).all()
    assert (loose[10:-10, 10:40] < 0.5).float().mean() > 0.5


def test_lengths_scale_with_the_width() -> None:
    wide, narrow = (Frame(torch.zeros(3, 8, width, dtype=torch.uint8), 0) for width in (2048, 1024))
    measure = ConfidenceParts({"consistency": 0.5})
    for error in (0.3, 0.55, 0.62, 0.9):
        pair = [
            measure(frame, frame, torch.zeros(2, *frame.size), torch.full((2, *frame.size), error * scale / 2**0.5))
            for frame, scale in ((wide, 2), (narrow, 1))
        ]
        assert pair[0][4, 100] == pytest.approx(float(pair[1][4, 100]), abs=1e-4)


def test_what_is_not_known_or_leaves_the_frame_is_not_believed(seen: Seen) -> None:
    at, to, uv, back = seen
    wrong = uv.clone()
    wrong[0, 10:20, 10:20] = torch.nan
    wrong[1, 30:40, 30:40] = 500
    confidence = confidence_measure("+".join(PARTS))(at, to, wrong, back)
    assert confidence.isfinite().all()
    assert (confidence[10:20, 10:20] == 0).all()
    assert (confidence[30:40, 30:40] == 0).all()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("consistency+textur", "part of confidence 'textur'. Did you mean 'texture'"),
        ("consistency:0", "setting above 0, got 0"),
        ("consistency:nan", "setting above 0, got nan"),
        ("consistency:much", "NAME or NAME:NUMBER"),
        ("photometric+texture", "made of 'consistency'"),
    ],
)
def test_parts_that_are_none_are_refused(text: str, sentence: str) -> None:
    with pytest.raises((UsageError, UnknownName), match=sentence.replace(".", r"\.")):
        confidence_measure(text)


def steps(count: int, u: float, v: float, confidence: float = 1.0) -> list[Flow]:
    field = torch.tensor([u, v]).view(2, 1, 1).expand(2, *SIZE).contiguous()
    return [Flow(field, i + 1, i, torch.full(SIZE, confidence)) for i in range(count)]


def route(flows: list[Flow]) -> Route:
    found = Route.begin(flows[0])
    for flow in flows[1:]:
        found = found.after(flow)
    return found


def test_composed_steps_lead_to_the_anchor() -> None:
    found = route(steps(5, 2.0, -1.0, 0.9))
    assert (found.flow.at, found.flow.to) == (5, 0)
    inner = (slice(10, -10), slice(12, -12))
    assert torch.allclose(found.flow.uv[(0, *inner)], torch.tensor(10.0))
    assert torch.allclose(found.flow.uv[(1, *inner)], torch.tensor(-5.0))
    assert found.flow.confidence is not None
    assert torch.allclose(found.flow.confidence[inner], torch.tensor(0.9**5))
    assert (found.flow.confidence[:, -8:] == 0).all(), "it came from outside of the frame"
    assert (found.compositions == 5).all()
    assert (found.blur_px2 == 0).all(), "whole pixels are read without blur"


def test_confidence_ages_with_every_composition_and_with_blur() -> None:
    inner = (slice(20, -20), slice(30, -30))
    shares = []
    for count in (1, 2, 9, 25):
        aged = route(steps(count, 0.0, 0.0)).aged().confidence
        assert aged is not None
        shares.append(float(aged[inner].mean()))
    assert shares == pytest.approx([1, 0.5 ** (1 / 24), 0.5 ** (8 / 24), 0.5])
    blurred = route(steps(9, 0.5, 0.5)).aged().confidence
    assert blurred is not None
    assert float(blurred[inner].mean()) < 0.3 * shares[2]
    assert reading_blur(torch.full((2, 1, 1), 0.5)).item() == 0.25


def test_one_reading_through_the_composed_flow_keeps_more_detail_than_many() -> None:
    picture = texture(*SIZE, 6).float()[None]
    flows = steps(8, 0.4, 0.3)
    chained = picture
    for flow in flows:
        chained = ops.warp(chained, flow.uv[None])
    once = ops.warp(picture, route(flows).flow.uv[None])
    inner = (..., slice(10, -10), slice(10, -10))

    def detail(value: Tensor) -> float:
        return float((value[..., 1:] - value[..., :-1])[inner].square().mean())

    assert detail(once) > 1.5 * detail(chained)
