"""Every strategy in the renderer: order, cuts, resuming, explaining, and what each refuses."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from going_on import decoded, goes_on_bit_by_bit, resumed_equals_whole, written
from textures import passing
from torch import Tensor

import flowguide
from flowguide.config import render_config
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.errors import UsageError
from flowguide.renderer import Renderer, Styled
from flowguide.types import Flow, Frame

HEIGHT, WIDTH = 57, 73
STRATEGIES: dict[str, dict[str, Any]] = {
    "references": {"strategy": "references", "reference_lags": "1,2,4"},
    "previous, two passes": {"strategy": "previous", "passes": 2, "window": 4},
    "references, three passes": {"strategy": "references", "passes": 3, "window": 3},
    "joint": {"strategy": "joint", "joint_every": 1, "window": 3},
    "joint, every second": {"strategy": "joint", "joint_every": 2, "window": 3},
    "source": {
        "strategy": "source",
        "direct_stabilization_weight": "0.5",
        "edge_stabilization_weight": "1 + t",
        "flow_long_term_samples": 2,
    },
    "source, not from the source": {"strategy": "source", "reencode_each_frame": False},
}
by_strategy = pytest.mark.parametrize("options", STRATEGIES.values(), ids=STRATEGIES.keys())


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_checkpoint), torch.float32, torch.device("cpu"))


def pan(count: int, cuts: tuple[int, ...] = ()) -> list[Frame]:
    return passing(count, (HEIGHT, WIDTH), cuts)


def renderer(checkpoint: Checkpoint, flow: Any = None, **options: Any) -> Renderer:
    settings = {"steps": 4, "noise": "per-frame", "flow": "dis", **options}
    return Renderer(render_config(settings), checkpoint=checkpoint, flow=flow)


def pictures(styled: list[Styled]) -> list[Tensor]:
    return [one.picture.clone() for one in styled]


@by_strategy
def test_every_frame_comes_out_once_in_order_and_in_its_shot(checkpoint: Checkpoint, options: dict[str, Any]) -> None:
    made = renderer(checkpoint, **options)
    made._cuts.is_cut = lambda frame: frame.index == 5  # type: ignore[method-assign, union-attr]
    styled = list(made(pan(9, cuts=(5,))))
    assert [one.source.index for one in styled] == list(range(9))
    assert [one.shot for one in styled] == [0] * 5 + [1] * 4
    assert all(one.picture.shape == (3, HEIGHT, WIDTH) and bool(one.picture.isfinite().all()) for one in styled)


@by_strategy
def test_frames_follow_the_motion(checkpoint: Checkpoint, options: dict[str, Any]) -> None:
    """The pan is 1 px a frame: guided frames are the ones before, moved; unguided ones are not."""

    def apart(chosen: dict[str, Any]) -> float:
        shown = pictures(list(renderer(checkpoint, **chosen)(pan(6))))
        inner = [picture[:, 8:-8, 8:-16] for picture in shown]
        return float(np.mean([(b[:, :, :-1] - a[:, :, 1:]).abs().mean() for a, b in pairwise(inner)]))

    assert apart(options) < 0.25 * apart({"guidance": False})


@by_strategy
def test_a_restored_renderer_goes_on_bit_by_bit(
    checkpoint: Checkpoint, tmp_path: Path, options: dict[str, Any]
) -> None:
    frames = pan(11, cuts=(8,))
    goes_on_bit_by_bit(lambda: renderer(checkpoint, **options), frames, 5, tmp_path)


@by_strategy
def test_a_clip_with_a_cut_at_every_frame_is_painted_frame_by_frame(
    checkpoint: Checkpoint, options: dict[str, Any]
) -> None:
    """Shots of one frame: nothing is carried; frames of two shots have nothing to do with each other."""
    frames = pan(4, cuts=(1, 2, 3))
    made = renderer(checkpoint, **options)
    made._cuts.is_cut = lambda frame: frame.index > 0  # type: ignore[method-assign, union-attr]
    styled = list(made(frames))
    assert [one.shot for one in styled] == [0, 1, 2, 3]
    for one in styled:
        alone = renderer(checkpoint, **options)
        alone._shot = one.shot
        if alone._later is not None:
            alone._later.shot = one.shot
        assert torch.equal(next(iter(alone([one.source]))).picture, one.picture)


class Nothing:
    """An estimator that is never sure, and finds no finite flow."""

    name = "nothing"

    def __call__(self, at: Frame, to: Frame) -> Flow:
        return Flow(torch.full((2, *at.size), torch.nan), at.index, to.index, torch.zeros(at.size))

    def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        return self(at, to), self(to, at)


@by_strategy
def test_without_a_confident_pixel_frames_are_painted_by_themselves(
    checkpoint: Checkpoint, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    if options["strategy"] == "source":
        options = {**options, "direct_stabilization_weight": "0", "edge_stabilization_weight": "0"}
    frames = pan(5)
    made = list(renderer(checkpoint, Nothing(), **options)(frames))
    plain = list(renderer(checkpoint, guidance=False)(frames))
    for one, other in zip(made, plain, strict=True):
        # A batch of several rows is not computed like one row, to the last bit.
        torch.testing.assert_close(one.picture, other.picture, atol=2e-4, rtol=0)
    told = [record.getMessage() for record in caplog.records if "begins anew" in record.getMessage()]
    if options["strategy"] != "joint":  # whose frames are made together and then pasted
        assert told
        assert told[0].startswith("Frame 1 begins anew: 0.0 % of it can be told from finished frames")


@by_strategy
def test_what_guided_each_frame_can_be_seen(checkpoint: Checkpoint, options: dict[str, Any]) -> None:
    settings = render_config({"steps": 2, "flow": "dis", **options})
    styled = list(Renderer(settings, checkpoint=checkpoint, explain=True)(pan(4)))
    last = styled[-1].carried
    assert last is not None
    assert last.guide.prior.shape[1:] == last.guide.confidence.shape
    assert float(last.guide.confidence.mean()) > 0.5
    assert last.reference.shape == last.guide.prior.shape


@pytest.mark.parametrize("option", [{"noise": "carried"}, {"init": "previous"}], ids=str)
@pytest.mark.parametrize("strategy", [{"passes": 2}, {"strategy": "joint"}], ids=str)
def test_what_needs_the_frame_before_is_refused(
    checkpoint: Checkpoint, strategy: dict[str, Any], option: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        renderer(checkpoint, **strategy, **option)


def test_single_frames_are_refused_by_what_needs_several(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="The strategy 'joint' needs the frames after"):
        renderer(checkpoint, strategy="joint").render(pan(1)[0])
    with pytest.raises(UsageError, match="Several passes need the frames after"):
        renderer(checkpoint, passes=2).render(pan(1)[0])


@pytest.mark.parametrize("strategy", ["anchors", "joint", "source", "seed-v1"])
def test_passes_are_made_with_previous_and_references_alone(checkpoint: Checkpoint, strategy: str) -> None:
    with pytest.raises(UsageError, match=f"previous and references; '{strategy}' has one"):
        renderer(checkpoint, strategy=strategy, passes=2)


def test_an_interrupted_run_is_gone_on_with(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """One joint run with windows that do not fit the segments: stopped, resumed, the same file."""
    options: dict[str, Any] = {
        "model": str(tiny_checkpoint), "steps": 2, "codec": "ffv1", "segment_frames": 4, "window": 3,
        "strategy": "joint", "joint_every": 2,
    }  # fmt: skip
    source = written(tmp_path / "in.mkv", pan(11), codec="ffv1")
    assert len(decoded(resumed_equals_whole(source, tmp_path, "out.mkv", options, stop=6))) == 11


def test_anchors_beyond_the_end_are_told_where_the_length_was_not_known(
    tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Matroska does not say how many frames it has."""
    source = written(tmp_path / "in.mkv", pan(4))
    options: dict[str, Any] = {"model": str(tiny_checkpoint), "strategy": "anchors", "steps": 2}
    flowguide.render(source, tmp_path / "out.mkv", anchors="frames:0,2,9", **options)
    told = [record.getMessage() for record in caplog.records]
    assert any("name frame 9, but the clip has frames 0 to 3. Those were left out." in message for message in told)


def test_an_option_of_another_strategy_is_told(checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    renderer(checkpoint, strategy="references", reference_lags="1,2")
    assert not caplog.records
    renderer(checkpoint, strategy="previous", reference_lags="1,2")
    assert "--reference-lags belongs to the strategy references; previous does not read it." in caplog.text
