"""One- and few-step models are guided through their input: on an exact denoiser, then with the painter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_renderer import pan, unsteadiness

from flowguide.config import render_config
from flowguide.diffusion.conditioning import Condition
from flowguide.diffusion.samplers import step_table
from flowguide.diffusion.sampling import LatentGuide, sample
from flowguide.diffusion.tables import few_step_pull
from flowguide.renderer import Renderer

CONFIG = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "trailing",
    "prediction_type": "sample", "clip_sample": False,
}  # fmt: skip
SHAPE = (1, 1, 8, 8)
CASES = [("euler", 1), ("euler", 2), ("euler", 4), ("lcm", 2), ("lcm", 4), ("ddim", 2)]


class Stripes:
    """Pictures whose columns are constant, each a unit Gaussian: x0 = m(x0), m the mean over rows.

    The exact denoiser for x = α·x0 + σ·n with 8 rows: E[x0|x] = m(x)·α/(α² + σ²/8).
    """

    def __init__(self, sampler: str, steps: int):
        self.table = step_table(sampler, CONFIG, steps, 1.0)

    def __call__(self, x: torch.Tensor, timestep: float, condition: Condition) -> torch.Tensor:
        step = int(np.argmin(np.abs(self.table.timestep - timestep)))
        ratio = float(self.table.sigma[step])  # σ/α; Euler's x/√(σ² + 1) and the others' x are the same thing
        alpha, sigma = 1 / np.sqrt(1 + ratio**2), ratio / np.sqrt(1 + ratio**2)
        return x.mean(2, keepdim=True).expand_as(x) * alpha / (alpha**2 + sigma**2 / x.shape[2])

    def painted(
        self, start: torch.Tensor, noise: dict[int, torch.Tensor], guide: LatentGuide | None = None
    ) -> torch.Tensor:
        return sample(self, self.table, start, noise.__getitem__, cond=Condition(torch.zeros(1, 1, 1)), guide=guide)


def noises(number: int, steps: int) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {step: torch.randn(SHAPE, generator=generator) for step in range(steps + 1)}


def weights(pull: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pull).float()[:, None, None, None].expand(-1, 1, 8, 8).contiguous()


def off(picture: torch.Tensor) -> float:
    """What no picture of this world has: differences within a column."""
    return float((picture - picture.mean(2, keepdim=True)).norm())


@pytest.mark.parametrize(("sampler", "steps"), CASES)
def test_what_is_wrong_with_a_guide_stays_out_of_the_result(sampler: str, steps: int) -> None:
    """The guide is a picture of this world plus damage that none has. Blended into the output the damage passes;
    guided through the input it is gone, and yet the result leans toward the guide."""
    model = Stripes(sampler, steps)
    drawn = torch.Generator().manual_seed(3)
    source, wanted = (torch.randn(1, 1, 1, 8, generator=drawn).expand(SHAPE) for _ in range(2))
    damage = torch.randn(SHAPE, generator=drawn)
    k0 = wanted + damage - damage.mean(2, keepdim=True)
    noise = noises(1, steps)
    unguided = model.painted(source, noise)
    through_input = model.painted(k0, noise, LatentGuide(k0, weights(few_step_pull(len(model.table)))))
    through_output = model.painted(source, noise, LatentGuide(k0, weights(np.full(len(model.table), 0.5))))
    assert off(through_input) < 0.02 * off(k0)
    assert off(through_output) > 0.4 * off(k0)
    toward = wanted - source
    gained = float(((through_input - unguided) * toward).sum() / toward.square().sum())
    assert gained > (0.005 if steps == 1 else 0.3), "at a single step from pure noise little of any input is left"


@pytest.mark.parametrize("sampler", ["euler", "euler-a", "ddim", "dpm++-2m"])
@pytest.mark.parametrize(("steps", "strength"), [(4, 0.25), (2, 0.5)])
def test_one_step_moves_by_what_the_exact_denoiser_lets_through(sampler: str, steps: int, strength: float) -> None:
    """At one executed step the result is c·((1 − m)·source + m·guide) + noise with the denoiser's own c."""
    model = Stripes(sampler, steps)
    model.table = step_table(sampler, CONFIG, steps, strength)
    assert len(model.table) == 1
    source, guide, noise = torch.zeros(SHAPE), torch.ones(SHAPE), noises(2, 1)
    ratio = float(model.table.sigma[0])
    alpha, sigma = 1 / np.sqrt(1 + ratio**2), ratio / np.sqrt(1 + ratio**2)
    passed = alpha**2 / (alpha**2 + sigma**2 / 8)
    for m in (0.0, 0.3, 1.0):
        moved = model.painted(source.lerp(guide, m), noise) - model.painted(source, noise)
        torch.testing.assert_close(moved, torch.full(SHAPE, m * passed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("sampler", "steps", "strength"), [("ddim", 2, 0.5), ("euler-a", 2, 1.0)])
def test_the_painter_at_one_and_two_steps_guided_through_its_input(sampler: str, steps: int, strength: float) -> None:
    frames = pan(4)
    options = {"sampler": sampler, "steps": steps, "strength": strength, "noise": "carried", "dtype": "float32"}
    results = {}
    for name, more in {
        "guided": {"init": "blend", "flow_weight": "few-step"}, "unguided": {"guidance": False},
    }.items():  # fmt: skip
        engine = Renderer(render_config({**options, **more}))
        results[name] = [np.asarray(engine.step(frame)) for frame in frames]
    assert unsteadiness(results["guided"]) < 0.05 * unsteadiness(results["unguided"])
    # against the first frame, which nothing guides: at strength 1 unguided frames differ in contrast by themselves
    assert 0.7 < results["guided"][-1].std() / results["unguided"][0].std() < 1.3, "neither washed out nor burnt"
