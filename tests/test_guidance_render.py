"""Strategy `anchors` in the renderer: what is painted, what is carried, and how a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from going_on import decoded, goes_on_bit_by_bit, resumed_equals_whole, written
from textures import passing

import flowguide
from flowguide.config import render_config
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.diffusion.samplers import step_table
from flowguide.errors import UsageError
from flowguide.guidance.seed_v1 import SeedV1
from flowguide.renderer import Renderer
from flowguide.runs.state_file import load_state, pack, save_state
from flowguide.timing import StageClock
from flowguide.types import Flow, Frame

HEIGHT, WIDTH = 73, 105


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_checkpoint), torch.float32, torch.device("cpu"))


def pan(count: int, cut_at: int | None = None) -> list[Frame]:
    return passing(count, (HEIGHT, WIDTH), () if cut_at is None else (cut_at,))


def renderer(checkpoint: Checkpoint, **options: Any) -> Renderer:
    chosen = {"steps": 4, "strategy": "anchors", "anchors": "4", "noise": "per-frame", **options}
    return Renderer(render_config(chosen), checkpoint=checkpoint)


def test_only_anchors_are_painted_and_frames_come_out_in_order(checkpoint: Checkpoint) -> None:
    made = renderer(checkpoint)
    frames = pan(14, cut_at=9)
    styled = list(made(frames))
    assert [one.source.index for one in styled] == list(range(14))
    assert [one.shot for one in styled] == [0] * 9 + [1] * 5
    assert all(one.picture.shape == (3, HEIGHT, WIDTH) for one in styled)
    assert made._later is not None
    assert made._later.painted == 5  # 0, 4, 8 of the first shot, 9, 13 of the second


def test_carried_frames_show_what_the_anchor_shows(checkpoint: Checkpoint) -> None:
    """The pan is 1 px a frame, so frame 2 is the first one, moved by 2 px."""
    styled = list(renderer(checkpoint)(pan(5)))
    first, third = styled[0].picture, styled[2].picture
    inner = (slice(None), slice(12, -12), slice(12, -24))
    moved = first[:, :, 2:][inner[0], inner[1], 12 : WIDTH - 26]
    there = third[inner[0], inner[1], 12 : WIDTH - 26]
    assert float((there - moved).abs().mean()) < 0.1 * float((styled[0].picture - first.mean()).abs().mean())


@pytest.mark.parametrize("options", [{}, {"init": "first"}, {"anchors": "edges", "anchor_frames": 3}], ids=str)
def test_a_restored_renderer_goes_on_bit_by_bit(
    checkpoint: Checkpoint, tmp_path: Path, options: dict[str, Any]
) -> None:
    frames = pan(12, cut_at=8)
    goes_on_bit_by_bit(lambda: renderer(checkpoint, **options), frames, 6, tmp_path)


def test_an_interrupted_run_is_gone_on_with(tiny_checkpoint: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "model": str(tiny_checkpoint), "steps": 4, "strategy": "anchors", "anchors": "4", "codec": "ffv1",
        "segment_frames": 6,
    }  # fmt: skip
    source = written(tmp_path / "in.mkv", pan(11), codec="ffv1")
    assert len(decoded(resumed_equals_whole(source, tmp_path, "out.mkv", options, stop=8))) == 11


def test_what_needs_the_frame_before_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match=r"noise 'carried'.*'previous'"):
        renderer(checkpoint, noise="carried")
    with pytest.raises(UsageError, match="init 'previous'"):
        renderer(checkpoint, init="previous")
    with pytest.raises(UsageError, match="needs the frames after"):
        renderer(checkpoint).render(pan(1)[0])


def test_without_guidance_every_frame_is_painted(checkpoint: Checkpoint) -> None:
    frames = pan(3)
    plain = [one.picture for one in renderer(checkpoint, guidance=False)(frames)]
    other = [one.picture for one in renderer(checkpoint, guidance=False, strategy="previous")(frames)]
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


def test_absent_anchors_are_refused_before_anything_is_painted(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = written(tmp_path / "in.mkv", pan(4))
    options: dict[str, Any] = {"model": str(tiny_checkpoint), "strategy": "anchors", "anchors": "frames:0,9"}
    with pytest.raises(UsageError, match=r"frame 9, but the clip has frames 0 to 3"):
        flowguide.render(source, tmp_path / "out.mkv", max_frames=4, **options)


class Sideways:
    """Flow of a picture whose content moves right by `pixels` a frame, in both directions."""

    name = "sideways"

    def __init__(self, pixels: float):
        self.pixels = pixels

    def __call__(self, at: Frame, to: Frame) -> Flow:
        uv = torch.zeros(2, *at.size)
        uv[0] = self.pixels * (to.index - at.index)
        return Flow(uv, at.index, to.index)

    def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        return self(at, to), self(to, at)


def test_seed_v1_reads_where_the_negated_forward_flow_points(checkpoint: Checkpoint) -> None:
    """By hand with OpenCV, as the original does it; weights .6, .4 and .1 by step and by length of the motion."""
    config = render_config({"strategy": "seed-v1", "steps": 10, "strength": 1.0})
    clock = StageClock()
    for pixels, weights in ((1.0, {0.6, 0.4}), (2.0, {0.1})):
        seed = SeedV1(Sideways(pixels), config, 8, clock)  # type: ignore[arg-type]
        frames = [Frame(frame.rgb[:, :72, :104].contiguous(), frame.index) for frame in pan(2)]
        finished = torch.rand(3, 72, 104, generator=torch.Generator().manual_seed(1)) * 2 - 1
        assert seed.carry(frames[0], finished) is None
        seed.remember(frames[0], finished, finished, None)
        carried = seed.carry(frames[1], finished)
        assert carried is not None
        kept = (finished * 127.5 + 127.5).numpy().astype(np.uint8)
        moved = np.zeros_like(kept)
        moved[:, :, int(pixels) :] = kept[:, :, : -int(pixels)]
        moved = moved.transpose(1, 2, 0)
        expected = cv2.addWeighted(moved, 1.12, cv2.GaussianBlur(moved, (0, 0), 2.0), -0.12, 0.0)
        shown = ((carried.filled.permute(1, 2, 0) + 1) * 127.5).round().numpy().astype(np.uint8)
        assert np.array_equal(shown[:, int(pixels) :], expected[:, int(pixels) :])
        table = step_table("ddim", checkpoint.scheduler_config, 10, 1.0)
        guide = seed.latent_guide(carried, torch.zeros(1, 4, 9, 13), table)
        assert not guide.erode
        assert {round(float(value), 4) for value in guide.weights.unique()} == weights
        assert seed.finish(finished, carried) is finished


def test_seed_v1_goes_on_from_its_state(checkpoint: Checkpoint, tmp_path: Path) -> None:
    options: dict[str, Any] = {"strategy": "seed-v1", "flow": "farneback"}
    frames = pan(5)
    expected = [one.picture for one in renderer(checkpoint, **options)(frames)]
    before = renderer(checkpoint, **options)
    list(before(frames[:3]))
    save_state(tmp_path / "state", pack(before.state()))
    after = renderer(checkpoint, **options)
    after.restore(load_state(tmp_path / "state"))
    assert torch.equal(list(after(frames[3:]))[-1].picture, expected[-1])
    unguided = [one.picture for one in renderer(checkpoint, guidance=False)(frames)]
    assert not torch.equal(expected[-1], unguided[-1])
