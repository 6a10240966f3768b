"""Estimators against known motion, bad input, and the confidence that comes with every flow."""

from __future__ import annotations

import subprocess
import sys

import cv2
import pytest
import torch
from textures import inner, texture, view

from flowguide.errors import FlowguideError, UnknownName, UsageError
from flowguide.flow import ESTIMATORS, FlowEstimator, estimator
from flowguide.synthetic import crossing
from flowguide.types import Frame

MADE = [
    pytest.param("dis", {"preset": "ultrafast"}, id="dis-ultrafast"),
    pytest.param("dis", {"preset": "fast"}, id="dis-fast"),
    pytest.param("dis", {"preset": "medium"}, id="dis-medium"),
    pytest.param("dis-filled", {}, id="dis-filled"),
    pytest.param("farneback", {}, id="farneback"),
]
SIZE = (120, 200)


@pytest.fixture(scope="module")
def canvas() -> torch.Tensor:
    return texture(180, 260)


def shifted(canvas: torch.Tensor, right: int, down: int) -> tuple[Frame, Frame]:
    """Two frames; the content of the second lies (right, down) pixels from where it was in the first."""
    return view(canvas, 30, 30, SIZE, 4), view(canvas, 30 - down, 30 - right, SIZE, 5)


@pytest.mark.parametrize(("name", "options"), MADE)
@pytest.mark.parametrize(("right", "down"), [(6, 0), (0, 6), (-5, 3), (4, -7)])
def test_flow_points_where_the_content_went(canvas, name, options, right, down):
    at, to = shifted(canvas, right, down)
    flow = estimator(name, **options)(at, to)
    assert (flow.at, flow.to) == (4, 5)
    assert flow.uv.shape == (2, *SIZE)
    error = inner(flow.uv, 16) - torch.tensor([right, down]).view(2, 1, 1)
    assert error.abs().mean() < 0.25


@pytest.mark.parametrize(("name", "options"), MADE)
def test_both_directions_are_two_estimates(canvas, name, options):
    at, to = shifted(canvas, 5, 2)
    made = estimator(name, **options)
    forward, backward = made.both(at, to)
    assert (forward.at, forward.to, backward.at, backward.to) == (4, 5, 5, 4)
    assert torch.equal(forward.uv, made(at, to).uv)
    assert torch.equal(forward.confidence, made(at, to).confidence)
    assert torch.equal(backward.uv, made(to, at).uv)
    assert not torch.equal(backward.uv, -forward.uv)


@pytest.mark.parametrize(("name", "options"), MADE)
def test_warping_along_the_flow_gives_the_frame_back(canvas, name, options):
    from flowguide import ops

    at, to = shifted(canvas, 6, -3)
    flow = estimator(name, **options)(at, to)
    moved = ops.warp(to.rgb[None].float(), flow.uv[None])[0]
    difference = inner(moved - at.rgb.float(), 16).abs().mean()
    assert difference < 0.1 * inner(to.rgb.float() - at.rgb.float(), 16).abs().mean()


def test_the_same_frame_has_no_flow(canvas):
    frame = view(canvas, 0, 0, SIZE)
    still = estimator("dis")(frame, frame)
    assert still.uv.abs().max() < 1e-3
    assert still.confidence.min() > 0.99
    almost = estimator("farneback")(frame, frame)  # its prior from the coarser level leaves a trace at the border
    assert almost.uv.abs().max() < 0.15
    assert almost.uv.abs().mean() < 0.01


def test_confidence_is_low_where_content_is_covered_or_leaves(canvas):
    at, to = shifted(canvas, 20, 0)
    covered = to.rgb.clone()
    covered[:, 40:80, 90:150] = texture(40, 60, seed=9)
    confidence = estimator("dis")(at, Frame(covered, 5)).confidence
    assert confidence[:, -16:].mean() < 0.1  # leaves on the right
    hidden = confidence[46:74, 78:122]  # where it lay before it went under the patch
    visible = confidence[10:110, 20:60]
    assert hidden.mean() < 0.25
    assert visible.mean() > 0.9


def test_confidence_agrees_with_what_a_scene_really_hides():
    scene = crossing((140, 220), near=(9, 2), far=(-4, 0), frames=3)
    at, to = list(scene.frames())[1:]
    truth, seen = scene.flow(at.index, to.index)
    for name in ("dis", "farneback"):
        flow = estimator(name)(at, to)
        assert inner(flow.uv - truth.uv, 8).square().sum(0).sqrt()[inner(seen, 8)].median() < 0.3
        assert flow.confidence[seen].mean() > 0.7
        assert flow.confidence[~seen].mean() < 0.3


def test_confidence_can_be_left_out_or_given(canvas):
    at, to = shifted(canvas, 3, 0)
    assert estimator("dis", confidence=None)(at, to).confidence is None
    assert torch.equal(estimator("dis", confidence=None)(at, to).uv, estimator("dis")(at, to).uv)
    halves = estimator("dis", confidence=lambda at, to, uv, back: torch.full(at.size, 0.5))(at, to)
    assert (halves.confidence == 0.5).all()


def walled(canvas: torch.Tensor, right: int) -> list[Frame]:
    """A plain wall with sensor noise above a textured floor; a plain dark thing with a textured rim passes by."""
    frames = []
    for index in range(2):
        generator = torch.Generator().manual_seed(index)
        picture = canvas[:, : SIZE[0], : SIZE[1]].float().clone()
        picture[:, :70] = 180
        left = 60 + right * index
        picture[:, 30:90, left : left + 50] = canvas[:, 30:90, 130:180].float() * 0.5
        picture[:, 40:80, left + 10 : left + 40] = 30
        noisy = picture + 3 * torch.randn(picture.shape, generator=generator)
        frames.append(Frame(noisy.round().clamp(0, 255).to(torch.uint8), index))
    return frames


def test_walls_stand_still_and_the_inside_of_moving_things_does_not(canvas):
    at, to = walled(canvas, right=7)
    plain, filled = estimator("dis")(at, to), estimator("dis-filled")(at, to)
    wall = torch.zeros(SIZE, dtype=torch.bool)
    wall[:62, 125:] = True
    assert filled.confidence[wall].mean() > plain.confidence[wall].mean()
    assert filled.uv[:, wall].abs().mean() < 0.7 * plain.uv[:, wall].abs().mean()
    inside = (slice(45, 75), slice(75, 95))
    assert (filled.uv[0][inside] - 7).abs().max() < 0.5
    assert estimator("dis-filled:fast").name == "dis-fast-filled"


def test_a_plain_sky_pans_with_the_land_below(canvas):
    at, to = shifted(canvas, 5, 0)
    generator = torch.Generator().manual_seed(0)
    for frame in (at, to):
        sky = frame.rgb[:, :50].float() * 0.02 + 150 + torch.randn(frame.rgb[:, :50].shape, generator=generator)
        frame.rgb[:, :50] = sky.round().to(torch.uint8)
    plain, filled = (
        estimator(name).displacement(at, to)[:, 4:40, 20:-20] for name in ("dis:balanced", "dis-filled:balanced")
    )
    truth = torch.tensor([5.0, 0.0])[:, None, None]
    before, after = ((uv - truth).square().sum(0).sqrt().mean() for uv in (plain, filled))
    assert after < 0.6 * before


def test_a_textured_pan_is_left_as_it_is(canvas):
    at, to = shifted(canvas, 5, 0)
    for found, plain in zip(estimator("dis-filled:medium").both(at, to), estimator("dis").both(at, to), strict=True):
        assert (found.uv - plain.uv)[:, 10:-10, 10:-10].abs().mean() < 0.02


def test_threads_do_not_change_the_flow(canvas):
    at, to = shifted(canvas, 7, 3)
    threads = cv2.getNumThreads()
    try:
        for name, options in (case.values for case in MADE):
            found = []
            for count in (1, 2, 4):
                cv2.setNumThreads(count)
                found.append(estimator(name, **options)(at, to))
            assert all(torch.equal(found[0].uv, other.uv) for other in found)
            assert all(torch.equal(found[0].confidence, other.confidence) for other in found)
    finally:
        cv2.setNumThreads(threads)


SMALL_PICTURES = """
import itertools, sys, torch
from flowguide.flow import estimator
from flowguide.types import Frame
sides = (1, 2, 3, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 40, 100, 300)
made = [estimator("dis", preset=preset) for preset in ("ultrafast", "fast", "medium")] + [estimator("farneback")]
for height, width in itertools.product(sides, sides):
    if min(height, width) > 40:
        continue
    rgb = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    at, to = Frame(rgb, 0), Frame(rgb.roll(1, 2), 1)
    for each in made:
        for flow in each.both(at, to):
            assert flow.uv.shape == (2, height, width) and flow.uv.isfinite().all(), (each, height, width)
            assert flow.confidence.isfinite().all(), (each, height, width)
"""


def test_pictures_of_any_size_are_taken():
    """In a process of its own: OpenCV answers sizes it cannot take by reading outside its memory."""
    result = subprocess.run([sys.executable, "-c", SMALL_PICTURES], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize(("name", "options"), MADE)
@pytest.mark.parametrize("level", [0, 255])
def test_flat_pictures_have_no_flow(name, options, level):
    at, to = (Frame(torch.full((3, 48, 70), level, dtype=torch.uint8), i) for i in (0, 1))
    flow = estimator(name, **options)(at, to)
    assert flow.uv.abs().max() < 1e-3
    assert flow.confidence.isfinite().all()


def test_noise_is_not_believed():
    generator = torch.Generator().manual_seed(3)
    at, to = (Frame(torch.randint(0, 256, (3, 90, 130), generator=generator, dtype=torch.uint8), i) for i in (0, 1))
    assert estimator("dis")(at, to).confidence.mean() < 0.1


@pytest.mark.parametrize("name", ["dis", "farneback"])
def test_frames_of_different_size_are_refused(canvas, name):
    made = estimator(name)
    at, to = view(canvas, 0, 0, (100, 150), 3), view(canvas, 0, 0, (100, 151), 4)
    for call in (made, made.both):
        with pytest.raises(UsageError, match=r"frame 3 is 100x150 and frame 4 is 100x151 \(height x width\)"):
            call(at, to)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'farneback'"):
        estimator("farnebeck")
    with pytest.raises(UnknownName, match="Did you mean 'medium'"):
        estimator("dis", preset="med")
    with pytest.raises(UnknownName, match="confidence measure 'chek'"):
        estimator("dis", confidence="chek")
    with pytest.raises(FlowguideError, match="dis"):
        estimator("")


def test_estimators_are_known_by_a_readable_name():
    assert estimator("dis", preset="fast").name == "dis-fast"
    assert repr(estimator("dis")) == "<dis-medium>"
    assert estimator("farneback").name == "farneback"
    assert {"dis", "farneback"} <= set(ESTIMATORS)
    assert isinstance(estimator("dis"), FlowEstimator)
