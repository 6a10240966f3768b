"""Options of the diffusion room as the renderer uses them: carried noise, inits, few steps, inpainting, plug-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_renderer import Blind, pan, unsteadiness
from tiny_checkpoint import save_controlnet, save_family

from flowguide.config import render_config
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.renderer import Renderer
from flowguide.types import Frame


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_checkpoint), torch.float32, torch.device("cpu"))


def run(checkpoint: Checkpoint | None, frames: list[np.ndarray], flow: Any = None, **options: Any) -> list[np.ndarray]:
    engine = Renderer(render_config({"seed": 4, "dtype": "float32", **options}), checkpoint=checkpoint, flow=flow)
    return [np.asarray(engine.step(frame)) for frame in frames]


def test_carried_noise_is_steadier_than_fresh_noise(checkpoint: Checkpoint) -> None:
    frames = pan(6)
    options = {"guidance": False, "strength": 0.9}
    carried = run(checkpoint, frames, noise="carried", **options)
    assert unsteadiness(carried) < unsteadiness(run(checkpoint, frames, noise="per-frame", **options))


def test_carried_noise_is_the_same_on_every_run_and_with_no_confidence(checkpoint: Checkpoint) -> None:
    frames = pan(3)
    for sampler in ("ddim", "euler-a"):
        twice = [run(checkpoint, frames, noise="carried", sampler=sampler) for _ in range(2)]
        assert all(np.array_equal(a, b) for a, b in zip(*twice, strict=True))
    blind = run(checkpoint, frames, Blind(), noise="carried", cut_share=0.0)
    unguided = run(checkpoint, frames, Blind(), noise="carried", cut_share=0.0, guidance=False)
    assert all(np.array_equal(a, b) for a, b in zip(blind, unguided, strict=True))


def test_every_init_paints_and_none_changes_the_first_frame_but_random(checkpoint: Checkpoint) -> None:
    frames = [Frame(torch.from_numpy(frame).permute(2, 0, 1), index) for index, frame in enumerate(pan(3))]
    results = {}
    for init in ("source", "warped", "previous", "first", "random", "blend"):
        engine = Renderer(render_config(init=init, paste=0.0, flow_weight="0"), checkpoint=checkpoint)
        results[init] = [engine.render(frame).picture for frame in frames]
    for init, painted in results.items():
        assert torch.equal(painted[0], results["source"][0]) == (init != "random")
    last = [painted[2] for painted in results.values()]
    assert all(not torch.equal(a, b) for i, a in enumerate(last) for b in last[:i])


def test_blend_without_confidence_is_the_source_bit_for_bit(checkpoint: Checkpoint) -> None:
    frames = pan(3)
    blind = run(checkpoint, frames, Blind(), init="blend", flow_weight="few-step", cut_share=0.0)
    unguided = run(checkpoint, frames, guidance=False)
    assert all(np.array_equal(a, b) for a, b in zip(blind, unguided, strict=True))


@pytest.mark.parametrize("family", ["sd1-inpainting", "sdxl", "lcm"])
def test_other_families_render_with_guidance(tmp_path: Path, family: str) -> None:
    folder = save_family(tmp_path / family, family)
    sampler = {"lcm": "lcm", "sdxl": "euler"}.get(family, "ddim")
    painted = run(None, pan(3), model=str(folder), sampler=sampler, steps=4, prompt="0:(ink) 2:(oil)")
    assert all(frame.shape == painted[0].shape and frame.std() > 1 for frame in painted)


def test_a_controlnet_sees_every_frame(tmp_path: Path) -> None:
    folder = save_family(tmp_path / "model", "sd1")
    unet = load_checkpoint(str(folder), torch.float32, torch.device("cpu")).unet
    net = save_controlnet(tmp_path / "net", unet)
    frames = pan(2)
    with_net = run(None, frames, model=str(folder), control=[f"canny:{net}"])
    without = run(None, frames, model=str(folder))
    assert all(not np.array_equal(a, b) for a, b in zip(with_net, without, strict=True))
