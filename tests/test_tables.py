"""The coefficient tables against diffusers' own schedulers, and the guidance share."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from flowguide import ops
from flowguide.diffusion.samplers import executed, step_table
from flowguide.diffusion.tables import StepTable, noise_share
from flowguide.errors import ModelError, UnknownName, UsageError

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def some_model(x: torch.Tensor, timestep: int) -> torch.Tensor:
    return torch.tanh(x * 0.7 + float(timestep) / 1000) * 0.9


def trajectory(table: StepTable, start: torch.Tensor, noises: list[torch.Tensor]) -> list[torch.Tensor]:
    x, x0, steps = start, None, []
    for step in range(len(table)):
        output = some_model(float(table.c_in[step]) * x, float(table.timestep[step]))
        x, x0 = ops.guided_step(x, output, table.row(step, 1.0), x0_prev=x0 if step else None, noise=noises[step])
        steps.append(x)
    return steps


@settings(max_examples=40, deadline=None)
@given(
    steps=st.integers(1, 60),
    strength=st.floats(0.2, 1.0),
    eta=st.sampled_from([0.0, 0.4, 1.0]),
    prediction=st.sampled_from(["epsilon", "v_prediction", "sample"]),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
    to_one=st.booleans(),
    offset=st.integers(0, 1),
    zero_snr=st.booleans(),
)
def test_ddim_equals_diffusers_step_by_step(
    steps: int, strength: float, eta: float, prediction: str, spacing: str, to_one: bool, offset: int, zero_snr: bool
) -> None:
    config = {
        **BETAS, "prediction_type": prediction, "timestep_spacing": spacing, "clip_sample": False,
        "set_alpha_to_one": to_one, "steps_offset": offset,
        "rescale_betas_zero_snr": zero_snr and prediction == "v_prediction",
    }  # fmt: skip
    table = step_table("ddim", config, steps, strength, eta)
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps[steps - executed(steps, strength) :]
    assert timesteps.tolist() == table.timestep.tolist()

    generator = torch.Generator().manual_seed(1)
    x = start = torch.randn(2, 4, 6, 5, generator=generator)
    noises = [torch.randn(x.shape, generator=generator) for _ in timesteps]
    ours = trajectory(table, start, noises)
    for timestep, noise, mine in zip(timesteps, noises, ours, strict=True):
        output = some_model(x, int(timestep))
        x = scheduler.step(output, int(timestep), x, eta=eta, variance_noise=noise if eta else None).prev_sample
        # With fresh noise near zero SNR the scheduler's own float32 √(1 − ᾱ_s − σ_up²) cancels: it is the inexact one.
        tolerance = 1e-3 if eta and zero_snr else 1e-5
        torch.testing.assert_close(mine, x, rtol=tolerance, atol=tolerance * max(1.0, float(x.abs().max())))
        x = mine


PEERS = {
    "euler": (EulerDiscreteScheduler, {}),
    "euler-a": (EulerAncestralDiscreteScheduler, {}),
    "dpm++-2m": (DPMSolverMultistepScheduler, {}),
    "dpm++-2m-karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
}


@settings(max_examples=60, deadline=None)
@given(
    sampler=st.sampled_from(sorted(PEERS)),
    steps=st.integers(1, 40),
    strength=st.floats(0.2, 1.0),
    prediction=st.sampled_from(["epsilon", "v_prediction", "sample"]),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
    final=st.sampled_from(["zero", "sigma_min"]),
    offset=st.integers(0, 1),
    zero_snr=st.booleans(),
)
def test_k_samplers_equal_diffusers_step_by_step(
    sampler: str, steps: int, strength: float, prediction: str, spacing: str, final: str, offset: int, zero_snr: bool
) -> None:
    config = {
        **BETAS, "prediction_type": prediction, "timestep_spacing": spacing, "final_sigmas_type": final,
        "steps_offset": offset, "rescale_betas_zero_snr": zero_snr and prediction == "v_prediction",
    }  # fmt: skip
    count = executed(steps, strength)
    if count == 0 or (sampler, prediction) == ("euler-a", "sample"):  # which diffusers' own does not know
        return
    peer, changes = PEERS[sampler]
    accepted = {k: v for k, v in {**config, **changes}.items() if k in peer().config}
    scheduler = peer(**accepted)
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(steps - count)
    compare(step_table(sampler, config, steps, strength), scheduler, scheduler.timesteps[steps - count :])


@settings(max_examples=25, deadline=None)
@given(
    steps=st.integers(1, 8),
    strength=st.floats(0.3, 1.0),
    prediction=st.sampled_from(["epsilon", "v_prediction", "sample"]),
)
def test_lcm_equals_diffusers_step_by_step(steps: int, strength: float, prediction: str) -> None:
    config = {**BETAS, "prediction_type": prediction, "clip_sample": False}
    scheduler = LCMScheduler(**config)
    scheduler.set_timesteps(steps, strength=strength)
    compare(step_table("lcm", config, steps, strength), scheduler, scheduler.timesteps)


@settings(max_examples=25, deadline=None)
@given(steps=st.integers(1, 40), strength=st.floats(0.1, 1.0), shift=st.floats(0.5, 6.0))
def test_flow_match_equals_diffusers_step_by_step(steps: int, strength: float, shift: float) -> None:
    count = executed(steps, strength)
    if count == 0:
        return
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(steps - count)
    table = step_table("flow-match-euler", {"shift": shift}, steps, strength)
    compare(table, scheduler, scheduler.timesteps[steps - count :])


def compare(table: StepTable, scheduler, timesteps: torch.Tensor) -> None:
    """Same start, same model, same noise: every step of both, to 1e-4 of the largest value."""
    generator = torch.Generator().manual_seed(1)
    z, noise = (torch.randn(1, 4, 6, 5, generator=generator) for _ in range(2))
    first = timesteps[:1]
    scaled = scheduler.scale_noise if hasattr(scheduler, "scale_noise") else None
    start = scaled(z, first, noise) if scaled else scheduler.add_noise(z, noise, first)
    mine = table.s_z * z + table.s_n * noise
    torch.testing.assert_close(mine, start, rtol=1e-4, atol=1e-4 * max(1.0, float(start.abs().max())))
    draw, again = torch.Generator().manual_seed(2), torch.Generator().manual_seed(2)
    noises = [torch.randn(z.shape, generator=again) for _ in timesteps]
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    ours = trajectory(table, start, noises)
    x = start
    for timestep, result in zip(timesteps, ours, strict=True):
        model_input = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
        options = {"generator": draw} if takes_generator else {}
        x = scheduler.step(some_model(model_input, float(timestep)), timestep, x, **options).prev_sample
        torch.testing.assert_close(result, x, rtol=1e-4, atol=1e-4 * max(1.0, float(x.abs().max())))


def test_guided_history_is_what_multistep_extrapolates_from() -> None:
    """DPM++ 2M with full guidance at every step ends at the guide: unguided history would carry it past."""
    table = step_table("dpm++-2m", {**BETAS, "prediction_type": "epsilon"}, 20, 1.0)
    k0 = torch.randn(1, 4, 6, 5)
    x, x0 = torch.randn_like(k0), None
    ones = torch.ones(1, 6, 5)
    for step in range(len(table)):
        output = some_model(x, float(table.timestep[step]))
        x, x0 = ops.guided_step(x, output, table.row(step, 1.0), k0=k0, weight=ones, x0_prev=x0 if step else None)
    torch.testing.assert_close(x, k0, rtol=1e-4, atol=1e-4)


def test_start_is_noised_at_the_first_executed_timestep() -> None:
    config = {**BETAS, "prediction_type": "epsilon", "steps_offset": 1, "clip_sample": False}
    table = step_table("ddim", config, 50, 0.4)
    scheduler = DDIMScheduler(**config)
    z, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    expected = scheduler.add_noise(z, noise, torch.tensor([381]))
    assert table.timestep[0] == 381
    torch.testing.assert_close(table.s_z * z + table.s_n * noise, expected, rtol=1e-6, atol=1e-6)


def test_clip_sample_is_honoured() -> None:
    config = {**BETAS, "prediction_type": "epsilon", "clip_sample": True, "clip_sample_range": 0.5}
    table = step_table("ddim", config, 10, 1.0)
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(10)
    x = torch.randn(1, 4, 8, 8)
    output = some_model(x, int(table.timestep[0]))
    mine, x0 = ops.guided_step(x, output, table.row(0, 1.0))
    theirs = scheduler.step(output, int(table.timestep[0]), x, use_clipped_model_output=True)
    assert float(x0.abs().max()) <= 0.5
    torch.testing.assert_close(mine, theirs.prev_sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [EulerDiscreteScheduler(), DPMSolverMultistepScheduler()])
def test_ddim_does_not_clip_where_the_checkpoint_does_not_speak_of_it(config: object) -> None:
    """Saved with another scheduler its config lacks `clip_sample`; DDIM's default would clamp latents to ±1."""
    assert "clip_sample" not in config.config
    assert step_table("ddim", config.config, 8, 0.5).clip == 0.0


def test_strength_zero_executes_nothing_and_one_executes_all() -> None:
    config = {**BETAS, "prediction_type": "epsilon"}
    assert len(step_table("ddim", config, 8, 0.0)) == 0
    assert len(step_table("ddim", config, 8, 1.0)) == 8


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"sampler": "ddmi"}, UnknownName, "Did you mean 'ddim'"),
        ({"steps": 0}, UsageError, "at least 1"),
        ({"steps": 1001}, UsageError, "at most 1000"),
        ({"strength": 1.5}, UsageError, "between 0 and 1"),
        ({"config": {**BETAS, "prediction_type": "flow"}}, ModelError, "got 'flow'"),
        ({"config": {**BETAS, "thresholding": True}}, ModelError, "thresholding"),
        ({"sampler": "euler", "eta": 0.5}, UsageError, "option of ddim alone"),
        ({"sampler": "lcm", "steps": 40, "strength": 0.3}, UsageError, "room for 15 steps"),
        ({"sampler": "flow-match-euler", "config": {"use_dynamic_shifting": True}}, ModelError, "picture size"),
        ({"config": {**BETAS, "prediction_type": "epsilon", "rescale_betas_zero_snr": True,
                     "timestep_spacing": "trailing"}, "strength": 1.0}, ModelError, "v_prediction"),
    ],
)  # fmt: skip
def test_unusable_settings_are_refused(changes: dict, error: type[Exception], says: str) -> None:
    arguments = {"sampler": "ddim", "config": {**BETAS, "prediction_type": "epsilon"}, "steps": 8, "strength": 0.5}
    with pytest.raises(error, match=says):
        step_table(**{**arguments, **changes})


def test_share_is_full_at_high_noise_and_none_at_the_end() -> None:
    assert noise_share(0.1, 1.9) == pytest.approx(1.0)
    assert noise_share(7.0, 50.0) == 0.0
    assert noise_share(3.0, np.inf) == 0.0
    assert 0.0 < noise_share(2.0, 6.0) < 1.0


def gaussian_result(steps: int, strength: float, guided: bool) -> float:
    """DDIM on data ~ N(0, 0.5²) with the exact denoiser, guided toward 1; from math.md's own check."""
    config = {**BETAS, "prediction_type": "sample", "timestep_spacing": "trailing", "clip_sample": False}
    table = step_table("ddim", config, steps, strength)
    x = 0.3 * table.s_z
    for i in range(len(table)):
        alpha = 1.0 / np.sqrt(1.0 + table.sigma[i] ** 2)
        sigma = table.sigma[i] * alpha
        x0 = alpha * 0.25 * x / (alpha**2 * 0.25 + sigma**2)
        if guided:
            x0 = x0 + table.share[i] * (1.0 - x0)
        x = table.A[i] * x + table.B[i] * x0
    return float(x)


@pytest.mark.parametrize(("strength", "slack"), [(1.0, 1.0), (0.6, 1.05)])
def test_guidance_moves_with_the_step_count_no_more_than_the_sampler_itself(strength: float, slack: float) -> None:
    """At strength 1 as many steps run as are counted; at 0.6 the coarsest runs 6, and 4 % more is measured."""
    counts = (10, 20, 50, 200)
    guided = [gaussian_result(n, strength, True) for n in counts]
    unguided = [gaussian_result(n, strength, False) for n in counts]
    spread_guided = (max(guided) - min(guided)) / guided[-1]
    spread_unguided = (max(unguided) - min(unguided)) / unguided[-1]
    assert guided[-1] > 2 * unguided[-1]
    assert spread_guided <= spread_unguided * slack
