"""Strategy `references` and several passes, against scenes whose flow and occlusion are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flowguide import ops
from flowguide.config import RenderConfig, render_config
from flowguide.diffusion.checkpoint import load_checkpoint
from flowguide.errors import UsageError
from flowguide.flow.kept import KeptFlows
from flowguide.flow.truth import TrueFlow
from flowguide.guidance.previous import PreviousFrame
from flowguide.guidance.references import References, _matched, closest_first, reference_lags
from flowguide.renderer import Renderer
from flowguide.synthetic import crossing, translation
from flowguide.timing import StageClock
from flowguide.types import Flow, Frame, Guide


def test_closest_first_takes_what_closer_references_leave() -> None:
    decided = torch.tensor([[1.0, 0.0, 0.0, 0.5], [1.0, 1.0, 0.0, 0.7], [1.0, 1.0, 1.0, 0.1]])[:, None]
    expected = torch.tensor([[1.0, 0.0, 0.0, 0.5], [0.0, 1.0, 0.0, 0.2], [0.0, 0.0, 1.0, 0.0]])[:, None]
    torch.testing.assert_close(closest_first(decided), expected)
    drawn = torch.rand(5, 16, 16)
    torch.testing.assert_close(closest_first(drawn).sum(0), drawn.amax(0))


@pytest.mark.parametrize("text", ["2,4", "1,1", "1,4,2", "0", "", "1;2", "1,99", "one"])
def test_lags_grow_from_one(text: str) -> None:
    assert reference_lags("1, 2,4,8") == (1, 2, 4, 8)
    with pytest.raises(UsageError, match="from 1 on"):
        reference_lags(text)


def model_picture(frame: Frame) -> Tensor:
    return ops.to_model(frame.rgb[None])[0]


def test_what_was_hidden_for_a_while_comes_back() -> None:
    """A square passes over a still ground: 6 px of it a frame come into view, which 8 frames ago were seen."""
    scene = crossing((64, 96), near=(6, 0), far=(0, 0), frames=9)
    truth, clock = TrueFlow(scene.flow), StageClock()
    several = References(truth, RenderConfig(), 8, clock)
    near = PreviousFrame(truth, RenderConfig(), 8, clock)
    frames = list(scene.frames())
    for frame in frames[:8]:
        source = model_picture(frame)
        for guidance in (several, near):
            carried = guidance.carry(frame, source)
            guidance.remember(frame, source, -source, carried)  # the painting is the negative
    source = model_picture(frames[8])
    found, without = several.carry(frames[8], source), near.carry(frames[8], source)
    assert found is not None
    assert without is not None
    strip = (slice(20, 44), slice(75, 79))
    assert float(without.guide.confidence[strip].mean()) < 0.1
    assert float(found.guide.confidence[strip].mean()) > 0.9
    wrong = (found.guide.prior + source).abs()[:, *strip].mean()
    assert float(wrong) < 0.05
    elsewhere = -F.max_pool2d(-without.guide.confidence[None], 15, 1, 7)[0] == 1.0  # but for the seam
    apart = (found.guide.prior - without.guide.prior)[:, elsewhere].abs()
    assert float(apart.max()) < 0.01, "the closest comes first"
    never_seen = (slice(20, 44), slice(40, 60))
    assert torch.equal(found.guide.confidence[never_seen], without.guide.confidence[never_seen])


def test_a_hole_is_filled_as_bright_as_what_is_around_it() -> None:
    """A reference that was painted brighter, and more so on the right, shows no border."""
    picture = torch.rand(3, 40, 60) * 0.5
    hole = torch.zeros(40, 60, dtype=torch.bool)
    hole[12:28, 20:36] = True
    near = Guide(torch.where(hole, torch.nan, picture), (~hole).float())
    brighter = picture + 0.2 + 0.1 * torch.linspace(0.0, 1.0, 60)
    around = torch.zeros(40, 60)
    around[6:34, 14:42] = 1.0
    found = _matched(brighter, around, near)
    torch.testing.assert_close(found[:, hole], picture[:, hole], atol=0.03, rtol=0)
    assert bool(found.isfinite().all())


class Asked(TrueFlow):
    """Keeps which flows it was asked for."""

    def __init__(self, flow: Callable[[int, int], tuple[Flow, Tensor]]):
        super().__init__(flow)
        self.asked: list[tuple[int, int]] = []

    def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        self.asked.append((at.index, to.index))
        return super().both(at, to)


def test_further_frames_are_not_asked_where_the_closest_knows_enough() -> None:
    scene = translation((64, 96), (0.0, 0.0), frames=4)
    flow = Asked(scene.flow)
    guidance = References(flow, RenderConfig(), 8, StageClock())
    for frame in scene.frames():
        source = model_picture(frame)
        guidance.remember(frame, source, source, guidance.carry(frame, source))
    assert flow.asked == [(1, 0), (2, 1), (3, 2)]


def test_flows_are_estimated_once_and_turned_round() -> None:
    scene = translation((32, 48), (2.0, 1.0), frames=3)
    flow = Asked(scene.flow)
    kept = KeptFlows(flow)
    first, second, _ = scene.frames()
    there, back = kept.both(second, first)
    assert kept.both(second, first) == (there, back)
    assert kept.both(first, second) == (back, there)
    other = Frame(first.rgb.clone(), first.index)
    kept.both(second, other)
    assert flow.asked == [(1, 0), (1, 0)], "another picture under the same number is another pair"
    kept.drop()
    kept(second, first)
    assert len(flow.asked) == 3


@pytest.fixture
def flat(tiny_checkpoint: Path) -> Callable[..., tuple[Renderer, list[Frame]]]:
    """A renderer whose model paints each frame in a colour of its own, over a pan whose flow is known."""
    checkpoint = load_checkpoint(str(tiny_checkpoint), torch.float32, torch.device("cpu"))

    def made(**options: object) -> tuple[Renderer, list[Frame]]:
        scene = translation((64, 96), (-4.0, 0.0), frames=8)
        config = render_config({"steps": 2, "lookahead": 0, **options})
        renderer = Renderer(config, checkpoint=checkpoint, flow=TrueFlow(scene.flow))
        painted = iter(range(100))

        def decode(latents: Tensor) -> Tensor:
            return torch.full((1, 3, 64, 96), next(painted) / 50.0 - 1.0)

        renderer._model.decode = decode  # type: ignore[method-assign]
        return renderer, list(scene.frames())

    return made


def colours(picture: Tensor, least: int = 160) -> set[int]:
    """The numbers of the paintings that a picture shows in at least so many pixels: 2.5 columns, more than a seam."""
    numbers = ((picture[0] + 1.0) * 50.0).round().int()
    found, counts = numbers.unique(return_counts=True)
    return {int(number) for number, count in zip(found, counts, strict=True) if count >= least}


def test_what_comes_into_view_line_by_line_is_painted_as_one_piece(flat: Callable) -> None:
    """A pan: 4 new columns a frame. One pass paints each strip by itself, two passes all of a window at once."""
    renderer, frames = flat(passes=1)
    one_pass = [colours(styled.picture) for styled in renderer(frames)]
    assert len(one_pass[-1]) >= 6, "nearly as many as frames; some strips take on their neighbour's tone"
    renderer, frames = flat(passes=2, window=4)
    two_passes = [colours(styled.picture) for styled in renderer(frames)]
    # Pictures 0 to 3 are of the first pass, 4 is the last frame once more; then the same for the second window.
    assert two_passes[0] == {0}
    assert two_passes[2:4] == [{0, 4}] * 2
    assert two_passes[5:] == [{0, 4, 9}] * 3
    assert renderer._later is not None
    assert renderer._later.painted_again == 2  # type: ignore[attr-defined]


def test_nothing_pops_between_two_windows(flat: Callable) -> None:
    """What was known before a window stays, pixel by pixel, where the camera moves by whole pixels."""
    renderer, frames = flat(passes=2, window=4)
    shown = [styled.picture for styled in renderer(frames)]
    across = (shown[4][:, :, 2:-8] - shown[3][:, :, 6:-4]).abs()
    assert float(across.max()) < 0.04, "less than two colours, in the seams, which are read between pixels"
