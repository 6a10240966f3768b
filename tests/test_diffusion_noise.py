"""Noise that follows the flow, what a frame begins from, and few-step models guided through their input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flowguide.config import render_config
from flowguide.diffusion.conditioning import Condition
from flowguide.diffusion.init import InitialLatent
from flowguide.diffusion.noise import CarriedNoise, summed
from flowguide.diffusion.samplers import step_table
from flowguide.diffusion.sampling import LatentGuide, sample
from flowguide.diffusion.tables import few_step_pull

SHAPE = (1, 4, 32, 32)
CELL = 8
SIDE = 32 * CELL


def wave(frame: int) -> torch.Tensor:
    """Rotation, zoom and a wave about the middle, [1, 2, SIDE, SIDE] px."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) - SIDE / 2
    u = 0.01 * x + 0.02 * y + 1.5 * np.sin(y / 20 + frame)
    v = 0.01 * y - 0.02 * x + 1.5 * np.cos(x / 25 + frame)
    return torch.from_numpy(np.stack([u, v]).astype(np.float32))[None]


def shift(pixels: float) -> torch.Tensor:
    flow = torch.zeros(1, 2, SIDE, SIDE)
    flow[:, 0] = -pixels
    return flow


def run(noise: CarriedNoise, frames: range, flow, shot: int = 0) -> list[torch.Tensor]:
    latents = []
    for frame in frames:
        noise.begin(shot, frame, None if frame == 0 else flow(frame))
        latents.append(noise.latent(0, SHAPE))
    return latents


def test_carried_noise_stays_unit_gaussian_and_white() -> None:
    drawn = torch.cat(run(CarriedNoise(seed=4, cell=CELL), range(16), wave)).double()
    assert abs(float(drawn.mean())) < 0.02
    assert abs(float(drawn.var()) - 1.0) < 0.02
    assert abs(float((drawn**4).mean()) - 3.0) < 0.15
    for across in (drawn[..., 1:] * drawn[..., :-1], drawn[..., 1:, :] * drawn[..., :-1, :]):
        assert abs(float(across.mean())) < 0.02


def test_carried_noise_follows_a_translation() -> None:
    latents = run(CarriedNoise(seed=4, cell=CELL), range(9), lambda frame: shift(4.0))
    before, after = latents[0][..., :-4], latents[8][..., 4:]
    assert float((before * after).mean()) > 0.9
    assert abs(float((latents[0] * latents[8]).mean())) < 0.1


def test_noise_without_motion_stays_and_a_new_shot_is_new() -> None:
    noise = CarriedNoise(seed=4, cell=CELL)
    first, second = run(noise, range(2), lambda frame: shift(0.0))
    torch.testing.assert_close(first, second)
    noise.begin(1, 2, shift(0.0))
    assert abs(float((noise.latent(0, SHAPE) * first).mean())) < 0.1


def test_each_stochastic_step_has_a_field_of_its_own() -> None:
    noise = CarriedNoise(seed=4, cell=CELL)
    noise.begin(0, 0, None)
    start, first = noise.latent(0, SHAPE), noise.latent(1, SHAPE)
    assert abs(float((start * first).mean())) < 0.1
    assert noise.latent(0, SHAPE) is start, "asked twice, drawn once"


def test_a_resumed_run_goes_on_with_the_same_noise() -> None:
    whole = run(CarriedNoise(seed=4, cell=CELL), range(5), wave)
    stopped, resumed = CarriedNoise(seed=4, cell=CELL), CarriedNoise(seed=4, cell=CELL)
    run(stopped, range(3), wave)
    resumed.restore(stopped.state())
    for frame, expected in zip(range(3, 5), whole[3:], strict=True):
        resumed.begin(0, frame, wave(frame))
        assert torch.equal(resumed.latent(0, SHAPE), expected)


def test_the_sum_over_a_cell_is_unit_gaussian() -> None:
    assert float(summed(torch.randn(1, 4, SIDE, SIDE), CELL).var()) == pytest.approx(1.0, abs=0.1)


def initial(**options) -> InitialLatent:
    return InitialLatent(lambda picture: torch.nn.functional.avg_pool2d(picture, CELL), render_config(**options))


def test_what_a_frame_begins_from() -> None:
    source, first, before = (torch.full((1, 3, 32, 48), value) for value in (0.1, 0.2, 0.3))
    k0 = torch.full((1, 3, 4, 6), 0.7)
    confidence = torch.zeros(32, 48)
    confidence[:, 24:] = 1.0
    results = {}
    for name in ("source", "warped", "previous", "first", "random", "blend"):
        chosen = initial(init=name, init_weight=0.5)
        assert float(chosen(source, 0).mean()) == pytest.approx(0.0 if name == "random" else 0.1), (
            "a shot's first frame"
        )
        chosen.remember(first[0], 0)
        chosen.remember(before[0], 0)
        resumed = initial(init=name, init_weight=0.5)
        resumed.restore(chosen.state())
        results[name] = chosen(source, 0, k0, confidence)
        assert torch.equal(resumed(source, 0, k0, confidence), results[name])
        if name not in ("warped", "blend"):
            assert float(chosen(source, 1).mean()) == pytest.approx(0.0 if name == "random" else 0.1), "another shot"
    means = {name: float(result.mean()) for name, result in results.items()}
    assert means == pytest.approx(
        {"source": 0.1, "warped": 0.7, "previous": 0.3, "first": 0.2, "random": 0.0, "blend": 0.25}
    )
    assert torch.equal(results["blend"][..., :3], results["source"][..., :3]), "confidence 0 is the source, bit for bit"


def test_few_step_pull_is_full_first_at_most_half_second_and_none_last() -> None:
    assert few_step_pull(1).tolist() == [0.0]
    assert few_step_pull(2).tolist() == [1.0, 0.0]
    assert few_step_pull(4).tolist() == [1.0, 0.5, 0.25, 0.0]


@pytest.mark.parametrize(("sampler", "steps"), [("euler", 1), ("euler-a", 2), ("lcm", 4)])
def test_a_few_step_model_is_guided_through_its_input(sampler: str, steps: int) -> None:
    """A denoiser that keeps most of what it is given: the result leans toward the guide, and never by its last step."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    table = step_table(sampler, {**betas, "timestep_spacing": "trailing", "prediction_type": "sample"}, steps, 1.0)
    source, k0 = torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)

    def result(start: torch.Tensor) -> float:
        weights = torch.from_numpy(few_step_pull(len(table))).float()[:, None, None, None].expand(-1, 1, 8, 8)
        guide = LatentGuide(k0, weights.contiguous())
        seen = sample(
            lambda x, t, c: 0.8 * start + 0.2 * x.tanh(), table, start, lambda step: torch.zeros_like(start),
            cond=Condition(torch.zeros(1, 1, 1)), guide=guide,
        )  # fmt: skip
        return float(seen.mean())

    assert result(torch.lerp(source, k0, 1.0)) > result(source) + 0.5
