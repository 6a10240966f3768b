"""Scenes with known truth: the flow is what the pictures do, and what is said to be seen is seen."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flowguide.errors import UsageError
from flowguide.synthetic import Scene, crossing, demo, long_take, rotation, static, translation, write_demo_clip, zoom
from flowguide.synthetic.film import TAKE_PERIOD
from flowguide.types import Flow
from flowguide.video import ClipReader

SIZE = (96, 160)
PAIRS = [(1, 0), (0, 1), (5, 3), (2, 9)]


def warped(picture: Tensor, flow: Flow) -> Tensor:
    """float [3, H, W]: `picture` sampled bilinearly at p + uv(p), pixel centres at integers."""
    height, width = flow.size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([(x + flow.uv[0] + 0.5) / width * 2 - 1, (y + flow.uv[1] + 0.5) / height * 2 - 1], -1)
    return F.grid_sample(picture[None].float(), grid[None].float(), padding_mode="border", align_corners=False)[0]


def psnr(scene: Scene, at: int, to: int) -> float:
    """Decibels between frame `at` and frame `to` warped onto it, over the pixels that are seen in both."""
    flow, visible = scene.flow(at, to)
    error = (warped(scene.frame(to), flow) - scene.frame(at).float()).square().mean(0)[visible].mean()
    return 10 * math.log10(255**2 / max(float(error), 1e-9))


@pytest.fixture(scope="module")
def film() -> Scene:
    return demo(size=SIZE, frames=48)


@pytest.mark.parametrize(("at", "to"), [*PAIRS, (29, 28), (47, 40)])
def test_the_exact_flow_carries_one_frame_onto_another(film: Scene, at: int, to: int) -> None:
    assert psnr(film, at, to) > 30


@pytest.mark.slow
@pytest.mark.parametrize(("at", "to"), [(1, 0), (27, 20), (47, 40)])
def test_the_demo_at_full_size_is_faithful(at: int, to: int) -> None:
    assert psnr(demo(), at, to) > 33


def test_hidden_pixels_are_hidden(film: Scene) -> None:
    """Where the content is said not to be seen, the warp is far worse than where it is."""
    flow, visible = film.flow(10, 2)
    error = (warped(film.frame(2), flow) - film.frame(10).float()).square().mean(0)
    assert 0.7 < visible.float().mean() < 0.99
    assert error[~visible].mean() > 50 * error[visible].mean()


def test_flow_there_and_back_is_no_flow(film: Scene) -> None:
    there, visible = film.flow(4, 7)
    back, _ = film.flow(7, 4)
    y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    target_x = (x + there.uv[0]).round().long().clamp(0, SIZE[1] - 1)
    target_y = (y + there.uv[1]).round().long().clamp(0, SIZE[0] - 1)
    remaining = (there.uv + back.uv[:, target_y, target_x]).norm(dim=0)[visible]
    assert remaining.median() < 0.05
    assert (remaining < 1).float().mean() > 0.97


def test_a_frame_flows_nowhere_onto_itself(film: Scene) -> None:
    flow, visible = film.flow(6, 6)
    assert flow.uv.abs().max() < 1e-3
    assert visible.all()


def test_cuts_are_where_the_pictures_jump(film: Scene) -> None:
    assert film.cuts == [28]
    steps = [(film.frame(n).float() - film.frame(n - 1).float()).abs().mean() for n in (27, 28, 29)]
    assert steps[1] > 3 * max(steps[0], steps[2])
    with pytest.raises(UsageError, match="different shots"):
        film.flow(27, 28)


def test_long_films_go_on_with_new_shots() -> None:
    film = demo(size=(64, 96), frames=100)
    assert len(film) == 100
    assert film.cuts == [28, 48, 76, 96]
    assert not torch.equal(film.frame(0), film.frame(48))


def test_frames_do_not_depend_on_order_or_history(film: Scene) -> None:
    other = demo(size=SIZE, frames=48)
    expected = [other.frame(n) for n in (30, 3, 31)]
    assert all(torch.equal(film.frame(n), picture) for n, picture in zip((30, 3, 31), expected, strict=True))


def test_seeds_differ() -> None:
    assert not torch.equal(demo(seed=1, size=SIZE).frame(0), demo(seed=2, size=SIZE).frame(0))


@pytest.mark.parametrize("index", [-1, 48])
def test_frames_outside_are_refused(film: Scene, index: int) -> None:
    with pytest.raises(UsageError, match="frames 0 to 47"):
        film.frame(index)


@pytest.mark.parametrize("size", [(63, 97), (64, 64), (120, 50)])
def test_any_size_is_filled(size: tuple[int, int]) -> None:
    """No corner of the screen is left empty at any moment."""
    film = demo(size=size)
    for index in (0, 27, 28, 47):
        picture = film.frame(index)
        assert picture.shape == (3, *size)
        assert picture.dtype == torch.uint8
        assert picture.float().mean(0).min() > 8


def test_a_whole_shift_is_a_shift() -> None:
    scene = translation(SIZE, (3, -2))
    assert torch.equal(scene.frame(1)[:, :-2, 3:], scene.frame(0)[:, 2:, :-3])
    flow, visible = scene.flow(1, 0)
    assert torch.equal(flow.uv[0], torch.full(SIZE, -3.0))
    assert torch.equal(flow.uv[1], torch.full(SIZE, 2.0))
    assert visible[:-2, 3:].all()
    assert not visible[-2:].any()
    assert not visible[:, :3].any()


def test_direction_and_axes_on_a_picture_that_is_not_square() -> None:
    """u is to the right and counts columns; the content of frame 0 lies 5 columns further right in frame 1."""
    scene = translation((40, 100), (5, 0))
    flow, _ = scene.flow(0, 1)
    assert (flow.at, flow.to) == (0, 1)
    assert torch.equal(flow.uv[:, 20, 50], torch.tensor([5.0, 0.0]))
    assert torch.equal(scene.frame(1)[:, 20, 55], scene.frame(0)[:, 20, 50])


@pytest.mark.parametrize("shift", [(0.5, 0.0), (0.25, -0.75), (-1.37, 2.61)])
def test_a_part_of_a_pixel_is_kept(shift: tuple[float, float]) -> None:
    scene = translation(SIZE, shift)
    flow, _ = scene.flow(0, 2)
    expected = torch.tensor(shift).mul(2)[:, None, None].expand(2, *SIZE)
    assert torch.allclose(flow.uv, expected, atol=1e-5)
    assert psnr(scene, 1, 0) > 34


def test_nothing_moves_in_a_still() -> None:
    scene = static(SIZE)
    assert torch.equal(scene.frame(0), scene.frame(3))
    flow, visible = scene.flow(0, 3)
    assert not flow.uv.any()
    assert visible.all()


def test_zoom_grows_from_the_centre() -> None:
    scene = zoom((65, 97), 1.05)
    flow, _ = scene.flow(0, 1)
    assert flow.uv[:, 32, 48].abs().max() < 1e-4
    assert torch.allclose(flow.uv[:, 32, 58], torch.tensor([0.5, 0.0]), atol=1e-4)
    assert torch.allclose(flow.uv[:, 12, 48], torch.tensor([0.0, -1.0]), atol=1e-4)
    assert psnr(scene, 1, 0) > 34


def test_rotation_is_clockwise() -> None:
    scene = rotation((65, 97), 2)
    flow, _ = scene.flow(0, 1)
    angle = math.radians(2)
    expected = torch.tensor([20 * math.cos(angle) - 20, 20 * math.sin(angle)])
    assert torch.allclose(flow.uv[:, 32, 68], expected.float(), atol=1e-4)
    assert psnr(scene, 1, 0) > 34


def test_a_crossing_square_hides_and_uncovers_known_pixels() -> None:
    scene = crossing((64, 96), near=(4, 0), far=(0, 0))
    flow, visible = scene.flow(1, 0)
    top, left, side = 16, 32, 32
    moved = flow.uv[0] != 0
    expected = torch.zeros(64, 96, dtype=torch.bool)
    expected[top : top + side, left + 4 : left + side + 4] = True
    assert torch.equal(moved, expected)
    uncovered = torch.zeros(64, 96, dtype=torch.bool)
    uncovered[top : top + side, left : left + 4] = True
    assert torch.equal(~visible, uncovered)


def test_the_demo_clip_is_the_scene(tmp_path: Path) -> None:
    path = tmp_path / "demo.mp4"
    scene = write_demo_clip(path, frames=30, size=SIZE, fps=Fraction(24000, 1001))
    with ClipReader(path) as reader:
        found = list(reader)
        assert reader.info.frame_rate == Fraction(24000, 1001)
    assert [frame.pts * frame.time_base for frame in found] == [n * Fraction(1001, 24000) for n in range(30)]
    for index in (0, 12, 29):
        error = (found[index].rgb.float() - scene.frame(index).float()).square().mean()
        assert 10 * math.log10(255**2 / error) > 29


def test_a_long_take_is_one_shot_that_comes_back() -> None:
    take = long_take(size=(64, 96), frames=3 * TAKE_PERIOD)
    assert take.cuts == []
    assert torch.equal(take.frame(0), take.frame(TAKE_PERIOD))
    assert not torch.equal(take.frame(0), take.frame(TAKE_PERIOD // 2))
    flow, seen = take.flow(2 * TAKE_PERIOD, 0)
    assert flow.uv.abs().max() < 1e-3
    assert seen.all()
