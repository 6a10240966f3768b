"""Strategy `anchors` and `steady`: what is carried, from where, and what is left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from flowguide import dispatch, ops
from flowguide.config import SteadyConfig
from flowguide.errors import UnknownName, UsageError
from flowguide.guidance.anchors import Anchors, Finished, Known, Painted
from flowguide.guidance.detail import detail, restored
from flowguide.guidance.rules import Coverage, Edges, Every, Given, anchor_rule, check_given
from flowguide.guidance.stretch import log_area, unsqueezed
from flowguide.seams import TONE_KEPT, joined
from flowguide.steady import Steadier
from flowguide.types import Flow, Frame

HEIGHT, WIDTH = 48, 64


class KnownFlow:
    """An estimator that is told the flow: uv(at, to) -> [2, H, W], and where it holds."""

    name = "known"

    def __init__(self, uv: Callable[[int, int], Tensor], confidence: float | None = None):
        self.uv, self.confidence = uv, confidence

    def __call__(self, at: Frame, to: Frame) -> Flow:
        # Beside a frame of the clip, the strategy shows pictures warped onto it, as its next frame: no motion there.
        warped = to.index == at.index + 1
        uv = torch.zeros(2, *at.size) if warped else self.uv(at.index, to.index)
        given = None if self.confidence is None else torch.full(at.size, self.confidence)
        return Flow(uv, at.index, to.index, given)

    def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        back = self.uv(to.index, at.index) if to.index == at.index - 1 else torch.zeros(2, *at.size)
        given = None if self.confidence is None else torch.full(at.size, self.confidence)
        return self(at, to), Flow(back, to.index, at.index, given)


class NoCuts:
    def is_cut(self, frame: Frame) -> bool:
        return False


def pan(pixels_per_frame: float) -> Callable[[int, int], Tensor]:
    def uv(at: int, to: int) -> Tensor:
        field = torch.zeros(2, HEIGHT, WIDTH)
        field[0] = pixels_per_frame * (to - at)
        return field

    return uv


def noise(index: int, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(index)
    return torch.randint(0, 256, (3, HEIGHT, width), dtype=torch.uint8, generator=generator)


def panned_source(count: int, pixels_per_frame: int) -> list[Frame]:
    """A window that moves over one wide texture: content moves to the right."""
    wide = noise(1000, WIDTH + count * pixels_per_frame)
    starts = [(count - index) * pixels_per_frame for index in range(count)]
    return [Frame(wide[:, :, start : start + WIDTH].contiguous(), index) for index, start in enumerate(starts)]


def steadied(source: Sequence[Frame], painted: Sequence[Frame], flow: KnownFlow, **options: object) -> list[Finished]:
    steadier = Steadier(SteadyConfig(**options), flow=flow, cuts=NoCuts())  # type: ignore[arg-type]
    return list(steadier(source, painted))


def rgb(finished: Finished) -> Tensor:
    picture = ops.from_model(finished.picture[None])[0]
    assert isinstance(picture, Tensor)
    return picture


@pytest.mark.parametrize("anchors", ["coverage", "edges", "4", "frames:0,3,7"])
def test_every_frame_comes_out_once_and_in_order(anchors: str) -> None:
    source = panned_source(11, 1)
    painted = [Frame(noise(index), index) for index in range(11)]
    finished = steadied(source, painted, KnownFlow(pan(1.0)), anchors=anchors, anchor_frames=4)
    assert [done.frame.index for done in finished] == list(range(11))
    assert finished[0].is_anchor
    assert finished[-1].is_anchor


def test_extreme_flicker_becomes_one_picture_that_moves() -> None:
    """Each painted frame is other noise; what comes out is the first one, moved by whole pixels, bit for bit."""
    source = panned_source(9, 2)
    painted = [Frame(noise(index), index) for index in range(9)]
    finished = steadied(source, painted, KnownFlow(pan(2.0)), anchors="4")
    for index, done in enumerate(finished):
        moved = 2 * index
        inner = slice(moved + 3, WIDTH)
        expected = painted[0].rgb[:, :, 3 : WIDTH - moved]
        difference = (rgb(done)[:, :, inner].int() - expected.int()).abs()
        # The source's noise is as fine as pixels can be: a warp by whole pixels loses none of it.
        assert int(difference[:, 3:-3, :-3].max()) <= 1


def test_nothing_is_invented() -> None:
    """Painted frames are one flat colour each. What frame 0 shows is of its colour; what came into view is of the later
    anchor's, brought toward the tone around it; no other frame's colour is seen."""
    source = panned_source(9, 3)
    painted = [Frame(torch.full((3, HEIGHT, WIDTH), 20 * index, dtype=torch.uint8), index) for index in range(9)]
    finished = steadied(source, painted, KnownFlow(pan(3.0)), anchors="8")
    carried = rgb(finished[4])
    assert set(carried[0, 10, 16:].tolist()) == {0}
    came = set(carried[0, 10, 2:10].tolist())
    assert len(came) == 1
    assert came == {round(8 * 20 * (1.0 - TONE_KEPT))}


def occluder(at: int, to: int) -> Tensor:
    """A band 16 px wide moves 2 px a frame to the right over a still ground; who is behind it has no way out."""
    uv = torch.zeros(2, HEIGHT, WIDTH)
    left = 8 + 2 * at
    uv[0, :, left : left + 16] = 2.0 * (to - at)
    return uv


def test_what_comes_into_view_is_read_from_the_next_anchor() -> None:
    texture = noise(7)
    source, painted = [], []
    band = noise(8)[:, :, :16]
    for index in range(9):
        picture = texture.clone()
        picture[:, :, 8 + 2 * index : 24 + 2 * index] = band
        source.append(Frame(picture, index))
        # Paintings that agree but where frame 0 shows the band: there their value tells whose pixel it is.
        painting = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
        painting[:, :, 8:24] = 25 * index
        painting[:, :, 8 + 2 * index : 24 + 2 * index] = 0
        painted.append(Frame(painting, index))
    finished = steadied(source, painted, KnownFlow(occluder), anchors="8")
    middle = rgb(finished[5])[0, 20]
    # At frame 5 the band covers 18..33; the ground at 10..16 was covered in frame 0 and is seen again in frame 8.
    assert min(middle[10:16].tolist()) > 25 * 7, "but for the tone of what is around it"
    assert set(middle[40:60].tolist()) == {0}
    assert set(middle[20:32].tolist()) == {0}, "the band itself was seen in frame 0"


def test_an_anchor_shows_what_earlier_ones_showed() -> None:
    source = panned_source(13, 1)
    painted = [Frame(torch.full((3, HEIGHT, WIDTH), 15 * index, dtype=torch.uint8), index) for index in range(13)]
    finished = steadied(source, painted, KnownFlow(pan(1.0)), anchors="4")
    assert all(set(rgb(done)[0, 20, 20:50].tolist()) == {0} for done in finished)


def test_no_decay_over_two_hundred_frames() -> None:
    """A fine texture that swings by fractions of a pixel stays as fine as it was."""
    wide = torch.nn.functional.avg_pool2d(noise(5, WIDTH + 16).float()[None], 3, 1, 1)[0]
    positions = [6.0 * np.sin(0.11 * index) for index in range(200)]

    def uv(at: int, to: int) -> Tensor:
        field = torch.zeros(2, HEIGHT, WIDTH)
        field[0] = positions[at] - positions[to]
        return field

    frames = []
    for index, position in enumerate(positions):
        field = torch.zeros(1, 2, HEIGHT, WIDTH + 16)
        field[:, 0] = position + 8
        shifted = ops.warp(wide[None], field, mode="bicubic")[0, :, :, :WIDTH]
        frames.append(Frame(shifted.round().clamp(0, 255).to(torch.uint8), index))
    finished = steadied(frames, frames, KnownFlow(uv), anchors="8")
    inner = (slice(None), slice(8, -8), slice(16, -16))
    fine = [float(detail(done.picture[inner]).mean()) for done in finished]
    assert 0.9 < np.mean(fine[-40:]) / fine[0] < 1.05
    error = (rgb(finished[-1])[inner].float() - frames[-1].rgb[inner].float()).abs().mean()
    assert float(error) < 4.0


@pytest.mark.parametrize("confidence", [0.0])
def test_without_any_confidence_the_given_pictures_come_out(confidence: float) -> None:
    source = panned_source(5, 1)
    painted = [Frame(noise(index), index) for index in range(5)]
    finished = steadied(source, painted, KnownFlow(pan(1.0), confidence), anchors="4")
    for done, given in zip(finished, painted, strict=True):
        assert torch.equal(rgb(done), given.rgb)


def test_unknown_flow_is_no_confidence() -> None:
    source = panned_source(5, 1)
    painted = [Frame(noise(index), index) for index in range(5)]
    nan = KnownFlow(lambda at, to: torch.full((2, HEIGHT, WIDTH), torch.nan))
    for done, given in zip(steadied(source, painted, nan, anchors="4"), painted, strict=True):
        assert torch.equal(rgb(done), given.rgb)


def test_shots_of_one_frame_come_out_as_given() -> None:
    class AllCuts:
        def is_cut(self, frame: Frame) -> bool:
            return True

    source = [Frame(noise(100 + index), index) for index in range(4)]
    painted = [Frame(noise(index), index) for index in range(4)]
    steadier = Steadier(flow=KnownFlow(pan(0.0)), cuts=AllCuts())  # type: ignore[arg-type]
    finished = list(steadier(source, painted))
    assert steadier.shots == 4
    assert steadier.anchors == [0, 1, 2, 3]
    assert all(torch.equal(rgb(done), given.rgb) for done, given in zip(finished, painted, strict=True))


def test_frames_of_different_sizes_are_refused() -> None:
    source, painted = Frame(noise(0), 0), Frame(noise(0)[:, :24].contiguous(), 0)
    with pytest.raises(UsageError, match=r"48x64.*24x64"):
        list(Steadier()([source], [painted]))


def test_memory_is_that_of_two_windows() -> None:
    """What waits is begun with each anchor and given out by the next one, and only a few origins are kept."""
    source = panned_source(40, 1)
    painted = [Frame(noise(index), index) for index in range(40)]
    steadier = Steadier(SteadyConfig(anchors="5"), flow=KnownFlow(pan(1.0)), cuts=NoCuts())  # type: ignore[arg-type]
    for frame, given in zip(source, painted, strict=True):
        list(steadier.add(frame, given))
        assert len(steadier._given) < 11
        assert len(steadier._anchors._origins) <= 4


def test_threads_change_nothing() -> None:
    """Neither the pictures nor their order, where frames are carried beside the painting of the next anchor."""
    source = panned_source(23, 1)
    painted = [ops.to_model(noise(index)[None])[0] for index in range(23)]

    def all_of_it(threads: int, explain: bool) -> list[Finished]:
        anchors = Anchors(
            KnownFlow(pan(1.0)),
            Every(5),
            lambda frame, known: Painted(painted[frame.index]),
            threads=threads,
            explain=explain,
        )
        return [*(done for frame in source for done in anchors.add(frame)), *anchors.end_shot()]

    alone, together = all_of_it(1, False), all_of_it(3, True)
    assert [done.frame.index for done in alone] == list(range(23))
    assert [done.frame.index for done in together] == list(range(23))
    assert [done.is_anchor for done in alone] == [done.is_anchor for done in together]
    assert all(torch.equal(one.picture, other.picture) for one, other in zip(alone, together, strict=True))
    assert all(done.carried is None for done in alone)
    assert [done.carried is None for done in together] == [True, *[False] * 22], "the first frame is all its own"


def test_threads_take_the_implementation_that_was_asked_for() -> None:
    source, asked = panned_source(12, 1), set()

    def paint(frame: Frame, known: Known | None) -> Painted:
        asked.add((threading.current_thread() is threading.main_thread(), dispatch._asked.get()))
        return Painted(ops.to_model(frame.rgb[None])[0])

    with ops.use("reference"):
        anchors = Anchors(KnownFlow(pan(1.0)), Every(5), paint, threads=2)
        assert len([*(done for frame in source for done in anchors.add(frame)), *anchors.end_shot()]) == 12
    assert asked == {(True, "reference"), (False, "reference")}


def test_detail_that_a_warp_took_is_given_back() -> None:
    picture = ops.to_model(noise(3)[None])[0]
    half = torch.full((1, 2, HEIGHT, WIDTH), 0.5)
    soft = ops.warp(picture[None], half, mode="bicubic")[0]
    wanted = detail(picture)
    lost = float(detail(soft).mean() / wanted.mean())
    kept = float(detail(restored(soft, wanted)).mean() / wanted.mean())
    assert lost < 0.5
    assert lost + 0.15 < kept < 1.0


def test_detail_is_never_taken_away() -> None:
    picture = ops.to_model(noise(3)[None])[0]
    assert torch.equal(restored(picture, 0.5 * detail(picture)), picture)


def test_rules_by_name_number_and_list() -> None:
    assert isinstance(anchor_rule("coverage", 16), Coverage)
    assert isinstance(anchor_rule("edges", 16), Edges)
    assert isinstance(anchor_rule("8", 16), Every)
    assert anchor_rule("frames:0, 24,57", 16).numbers == {0, 24, 57}  # type: ignore[attr-defined]
    with pytest.raises(UnknownName, match="coverage"):
        anchor_rule("coverige", 16)
    with pytest.raises(UsageError, match="at least 1"):
        anchor_rule("0", 16)
    with pytest.raises(UsageError, match="frame numbers"):
        anchor_rule("frames:a", 16)
    with pytest.raises(UsageError, match=r"frame 99.*0 to 31"):
        check_given(Given(frozenset({3, 99})), 32)


def test_the_edge_rule_waits_longer_for_a_still_picture() -> None:
    """A changed picture is an anchor soon, an unchanged one when the most frames have passed."""
    rule = Edges(most=20)
    still = Frame(noise(1), 0)
    moved = panned_source(2, 20)[1]
    rule.begin(still)
    gaps = [gap for gap in range(1, 30) if rule.is_anchor(still, gap, 1.0)]
    assert gaps[0] == 20
    rule.begin(Frame(torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8), 0))
    assert rule.is_anchor(moved, 1, 1.0)


def test_coverage_asks_for_an_anchor_where_too_little_is_known() -> None:
    rule = Coverage(most=16, least=0.7)
    frame = Frame(noise(0), 0)
    assert not rule.is_anchor(frame, 3, 0.9)
    assert rule.is_anchor(frame, 3, 0.6)
    assert rule.is_anchor(frame, 16, 1.0)


def test_what_neither_anchor_shows_becomes_one_picture() -> None:
    """Something 12 px wide appears in frame 3 and is gone in frame 6: one of these frames is made an anchor."""
    texture, thing = noise(7), noise(9)

    def visits(index: int) -> bool:
        return 3 <= index <= 5

    def uv(at: int, to: int) -> Tensor:
        field = torch.zeros(2, HEIGHT, WIDTH)
        if visits(at) != visits(to):
            field[:, 10:34, 20:44] = torch.nan
        return field

    source, painted = [], []
    for index in range(9):
        picture = texture.clone()
        if visits(index):
            picture[:, 10:34, 20:44] = thing[:, 10:34, 20:44]
        source.append(Frame(picture, index))
        painting = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
        painting[:, 10:34, 20:44] = 25 * index
        painted.append(Frame(painting, index))
    finished = steadied(source, painted, KnownFlow(uv), anchors="8")
    shown = {index: set(rgb(finished[index])[0, 13:31, 23:41].unique().tolist()) for index in (3, 4, 5)}
    assert shown[3] == shown[4] == shown[5]
    assert len(shown[3]) == 1
    assert shown[3] <= {75, 100, 125}
    assert sum(done.is_anchor for done in finished[1:8]) == 1
    assert set(rgb(finished[7])[0, 13:31, 23:41].unique().tolist()) == {200}, "hidden ground is the next anchor's"


def test_own_pixels_take_the_tone_of_what_is_around_them() -> None:
    """Two paintings that differ by a tone nearly become one, and the detail of what fills the hole stays."""
    painting = torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(0)) - 0.5
    known = torch.ones(40, 56)
    known[12:30, 20:41] = 0.0
    prior = torch.where(known > 0, painting, torch.nan)
    tone = torch.tensor([0.2, -0.1, 0.05])[:, None, None]
    expected = painting + (1.0 - TONE_KEPT) * tone
    torch.testing.assert_close(joined(painting + tone, prior, known), expected, atol=2e-6, rtol=0)
    for nothing_to_join in (torch.zeros_like(known), torch.ones_like(known)):
        own = joined(painting, painting if nothing_to_join.any() else prior, nothing_to_join)
        assert torch.equal(own, painting)


def test_what_is_squeezed_is_not_carried_but_a_camera_may_move_away() -> None:
    x = torch.arange(WIDTH, dtype=torch.float32)
    squeezed = torch.where(x < 40, x, 40 + 3 * (x - 40)).clamp_max(52)  # four columns are read from twelve
    flow = torch.zeros(2, HEIGHT, WIDTH)
    flow[0] = torch.where(x > 44, x + 8, squeezed) - x
    trusted = unsqueezed(log_area(flow))
    assert trusted[:, 41:43].max() == 0
    assert trusted[:, :39].min() == 1
    away = torch.stack(torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")).flip(0).float() * 0.7
    assert unsqueezed(log_area(away)).min() == 1
