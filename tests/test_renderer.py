"""The renderer on pictures: what guidance does, what it must not do, what comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from flowguide.config import RenderConfig, render_config
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.errors import Interrupted, UnknownName, UsageError
from flowguide.flow import estimator
from flowguide.renderer import Renderer
from flowguide.types import Flow, Frame

HEIGHT, WIDTH, SHIFT = 72, 104, 3


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_checkpoint), torch.float32, torch.device("cpu"))


def panorama(seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).random((24, 60, 3), dtype=np.float32)
    return (cv2.resize(coarse, (480, 192), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255).astype(np.uint8)


def pan(count: int, seed: int = 0) -> list[np.ndarray]:
    """A camera that moves right by SHIFT px a frame: content moves left."""
    whole = panorama(seed)
    return [
        np.ascontiguousarray(whole[40 : 40 + HEIGHT, 30 + SHIFT * i : 30 + SHIFT * i + WIDTH]) for i in range(count)
    ]


def renderer(checkpoint: Checkpoint, **options: Any) -> Renderer:
    return Renderer(render_config({"noise": "per-frame", "seed": 4, **options}), checkpoint=checkpoint)


def run(checkpoint: Checkpoint, frames: list[np.ndarray], **options: Any) -> list[np.ndarray]:
    return [renderer_step(engine, frame) for engine in [renderer(checkpoint, **options)] for frame in frames]


def renderer_step(engine: Renderer, frame: np.ndarray) -> np.ndarray:
    return np.asarray(engine.step(frame))


def unsteadiness(frames: list[np.ndarray]) -> float:
    """Mean change along the true motion, away from the border where content enters."""
    inner = slice(12, -12)
    pairs = zip(frames[1:], frames[:-1], strict=True)
    return float(
        np.mean([np.abs(b[inner, 12:-24].astype(float) - a[inner, 12 + SHIFT : -24 + SHIFT]).mean() for b, a in pairs])
    )


def test_guidance_steadies_and_follows_the_motion(checkpoint: Checkpoint) -> None:
    frames = pan(6)
    guided, unguided = run(checkpoint, frames), run(checkpoint, frames, guidance=False)
    assert unsteadiness(unguided) > 0.5, "there must be something to steady"
    assert unsteadiness(guided) < 0.25 * unsteadiness(unguided)


def test_the_same_settings_give_the_same_bytes(checkpoint: Checkpoint) -> None:
    frames = pan(3)
    for first, second in zip(run(checkpoint, frames), run(checkpoint, frames), strict=True):
        assert np.array_equal(first, second)


class Blind:
    """An estimator that trusts nothing."""

    name = "blind"

    def __call__(self, at: Frame, to: Frame) -> Flow:
        return Flow(torch.zeros(2, *at.size), at.index, to.index, torch.zeros(at.size))

    def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        return self(at, to), self(to, at)


@pytest.mark.parametrize("noise", ["fixed", "per-frame"])
def test_no_confidence_equals_no_guidance_bit_for_bit(checkpoint: Checkpoint, noise: str) -> None:
    frames = pan(3)
    config = render_config(noise=noise, cut_share=0.0)
    blind = Renderer(config, checkpoint=checkpoint, flow=Blind())
    unguided = Renderer(render_config(noise=noise, guidance=False), checkpoint=checkpoint)
    for frame in frames:
        assert np.array_equal(blind.step(frame), unguided.step(frame))


def test_a_cut_begins_anew(checkpoint: Checkpoint) -> None:
    frames = [*pan(2), *pan(2, seed=9)]
    engine = renderer(checkpoint, noise="fixed")
    styled = [engine.render(Frame(torch.from_numpy(f).permute(2, 0, 1), i)) for i, f in enumerate(frames)]
    assert [s.shot for s in styled] == [0, 0, 1, 1]
    assert styled[2].confident_share is None
    assert styled[1].confident_share > 0.8


def test_a_blank_or_static_clip_renders(checkpoint: Checkpoint) -> None:
    for value in (0, 255):
        frames = [np.full((HEIGHT, WIDTH, 3), value, np.uint8)] * 2
        first, second = run(checkpoint, frames)
        assert np.isfinite(first.astype(float)).all()
        assert np.array_equal(first, second), "nothing moved, so nothing may change"


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (33, 65), (161, 121)])
def test_any_size_comes_back_as_it_went_in(checkpoint: Checkpoint, size: tuple[int, int]) -> None:
    whole = panorama()
    engine = renderer(checkpoint)
    for shift in range(2):
        result = engine.step(np.ascontiguousarray(whole[: size[0], shift : shift + size[1]]))
        assert result.shape == (*size, 3)


def test_each_kind_of_picture_comes_back_in_kind(checkpoint: Checkpoint) -> None:
    array = pan(1)[0]
    expected = renderer(checkpoint).step(array)
    planar = torch.from_numpy(array).permute(2, 0, 1)
    result = renderer(checkpoint).step(planar)
    assert isinstance(result, torch.Tensor)
    assert torch.equal(result, torch.from_numpy(expected).permute(2, 0, 1))
    as_float = renderer(checkpoint).step(array.astype(np.float32) / 255.0)
    assert as_float.dtype == np.float32
    assert np.abs(as_float * 255.0 - expected).max() <= 0.5 + 1e-3
    frame = Frame(planar.contiguous(), 0)
    assert torch.equal(renderer(checkpoint).step(frame).rgb, result)

    class Foreign:
        """Something that only speaks DLPack."""

        def __dlpack__(self, **options: Any) -> Any:
            return planar.contiguous().__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return planar.__dlpack_device__()

    assert torch.equal(renderer(checkpoint).step(Foreign()), result)


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (np.zeros((4, 4), np.uint8), r"\[H, W, 3\] or \[3, H, W\]"),
        (np.zeros((4, 4, 4), np.uint8), r"got \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got \(0, 4, 3\)"),
        (np.full((4, 4, 3), np.nan, np.float32), "finite"),
        (np.zeros((4, 4, 3), np.int32), "uint8 or float"),
        ("picture.png", "got str"),
    ],
)
def test_what_is_no_picture_is_refused(checkpoint: Checkpoint, picture: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        renderer(checkpoint).step(picture)


def test_settings_change_between_frames(checkpoint: Checkpoint) -> None:
    frames = pan(3)
    engine = renderer(checkpoint, guidance=False)
    engine.step(frames[0])
    engine.update(prompt="ink drawing", strength=0.8, noise="fixed")
    assert engine.config.strength == 0.8
    changed = engine.step(frames[1])
    fresh = renderer(checkpoint, guidance=False, prompt="ink drawing", strength=0.8, noise="fixed")
    assert np.array_equal(changed, fresh.step(frames[1]))
    with pytest.raises(UsageError, match="model cannot change"):
        engine.update(model="other")
    with pytest.raises(UsageError, match="strength"):
        engine.update(strength=2.0)
    with pytest.raises(UnknownName, match="Did you mean 'strength'"):
        engine.update(strenght=0.2)


def test_cancel_stops_between_two_frames(checkpoint: Checkpoint) -> None:
    frames = [Frame(torch.from_numpy(f).permute(2, 0, 1), i) for i, f in enumerate(pan(5))]
    done: list[int] = []
    engine = Renderer(
        RenderConfig(), checkpoint=checkpoint,
        on_frame=lambda styled: (done.append(styled.source.index), engine.cancel() if len(done) == 2 else None),
    )  # fmt: skip
    with pytest.raises(Interrupted, match="before frame 2"):
        list(engine(frames))
    assert done == [0, 1]


def test_pts_pass_through(checkpoint: Checkpoint) -> None:
    from fractions import Fraction

    rgb = torch.from_numpy(pan(1)[0]).permute(2, 0, 1)
    frame = Frame(rgb, 5, pts=900_900, time_base=Fraction(1, 90_000))
    out = renderer(checkpoint).render(frame).frame()
    assert (out.index, out.pts, out.time_base) == (5, 900_900, Fraction(1, 90_000))


def test_paste_off_leaves_the_generated_picture(checkpoint: Checkpoint) -> None:
    frames = pan(2)
    weak, none = (run(checkpoint, frames, flow_weight="0", paste=p)[1] for p in (1.0, 0.0))
    unguided = run(checkpoint, frames, guidance=False)[1]
    assert np.array_equal(none, unguided)
    assert not np.array_equal(weak, unguided)


def test_the_estimator_may_be_given(checkpoint: Checkpoint) -> None:
    engine = Renderer(RenderConfig(), checkpoint=checkpoint, flow=estimator("farneback"))
    assert engine.flow_name == "farneback"
    assert replace(engine.render(Frame(torch.zeros(3, 16, 16, dtype=torch.uint8), 0)), shot=0).shot == 0
