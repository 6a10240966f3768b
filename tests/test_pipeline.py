"""The diffusers-like pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import flowguide
from flowguide.errors import Interrupted, UsageError


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint: Path) -> flowguide.FlowGuidePipeline:
    return flowguide.FlowGuidePipeline.from_pretrained(tiny_checkpoint, torch_dtype=torch.float32)


def pictures(count: int = 3) -> list[np.ndarray]:
    texture = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
    return [np.ascontiguousarray(texture[:, i : i + 64]) for i in range(count)]


def test_pictures_in_pictures_out(pipeline: flowguide.FlowGuidePipeline) -> None:
    frames = pipeline(video=[Image.fromarray(p) for p in pictures()], prompt="ink drawing", strength=0.5).frames
    assert [frame.size for frame in frames] == [(64, 48)] * 3
    as_numpy = pipeline(video=pictures(), prompt="ink drawing", output_type="np").frames
    assert as_numpy.shape == (3, 48, 64, 3)
    assert as_numpy.min() >= 0.0
    assert as_numpy.max() <= 1.0
    assert np.abs(np.asarray(frames[1]) / 255.0 - as_numpy[1]).max() <= 0.5 / 255 + 1e-6


def test_the_generator_keys_the_noise(pipeline: flowguide.FlowGuidePipeline) -> None:
    def once(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return pipeline(video=pictures(1), prompt="", generator=generator, output_type="pt").frames

    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))


def test_step_callback_sees_and_replaces_latents(pipeline: flowguide.FlowGuidePipeline) -> None:
    seen: list[tuple[int, int]] = []

    def watch(pipe, step, timestep, tensors):
        seen.append((step, timestep))
        return tensors

    def erase(pipe, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])}

    plain = pipeline(video=pictures(1), prompt="", output_type="pt").frames
    watched = pipeline(video=pictures(1), prompt="", output_type="pt", callback_on_step_end=watch).frames
    erased = pipeline(video=pictures(1), prompt="", output_type="pt", callback_on_step_end=erase).frames
    assert torch.equal(plain, watched)
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert not torch.equal(plain, erased)


def test_interrupt_stops_between_frames(pipeline: flowguide.FlowGuidePipeline) -> None:
    def stop(pipe, step, timestep, tensors):
        pipe.interrupt()
        return tensors

    with pytest.raises(Interrupted, match="before frame 1"):
        pipeline(video=pictures(), prompt="", callback_on_step_end=stop)


def test_unusable_calls_are_refused(pipeline: flowguide.FlowGuidePipeline) -> None:
    with pytest.raises(UsageError, match="at least one picture"):
        pipeline(video=[], prompt="")
    with pytest.raises(UsageError, match="output_type"):
        pipeline(video=pictures(1), prompt="", output_type="jpeg")
    with pytest.raises(UsageError, match="strength"):
        pipeline(video=pictures(1), prompt="", strength=3.0)
