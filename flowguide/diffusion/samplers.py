"""The samplers by name: each makes the table of its coefficients from a checkpoint's own scheduler config.

Timesteps and noise levels come from the scheduler of the same name in diffusers, so every spacing, Karras schedule
and offset that a checkpoint asks for is honoured; its `step` is never called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import ModelError, UnknownName, UsageError
from .tables import Array, StepTable, shares, x0_from_ve, x0_from_vp

Config = Mapping[str, Any]


def executed(steps: int, strength: float) -> int:
    """How many of `steps` run at `strength`, as img2img pipelines count them: ⌊steps·strength⌋."""
    if steps < 1:
        raise UsageError(f"steps should be at least 1, got {steps}.")
    if not 0.0 <= strength <= 1.0:
        raise UsageError(f"strength should be between 0 and 1, got {strength}.")
    return min(int(steps * strength), steps)


def _scheduler(class_name: str, config: Config, steps: int, **changes: Any) -> Any:
    """diffusers' scheduler of that name with its timesteps set."""
    import diffusers

    if config.get("thresholding"):
        raise ModelError("The scheduler's config asks for dynamic thresholding, which is for pixel models; remove it.")
    cls = getattr(diffusers, class_name)
    known = inspect.signature(cls.__init__).parameters
    chosen = {key: value for key, value in {**config, **changes}.items() if key in known}
    try:
        scheduler = cls(**chosen)
        if steps > scheduler.config.num_train_timesteps:
            raise UsageError(f"steps should be at most {scheduler.config.num_train_timesteps}, got {steps}.")
        scheduler.set_timesteps(steps)
    except (ValueError, NotImplementedError, TypeError) as error:
        raise ModelError(f"The scheduler's config does not suit {class_name}: {error}") from error
    return scheduler


def ddim(config: Config, steps: int, strength: float, eta: float = 0.0) -> StepTable:
    """DDIM (η = 0) to DDPM-like (η = 1); A, B, D after equations (12) and (16) of Song et al. 2021."""
    count = executed(steps, strength)
    # A config of another scheduler does not speak of clipping; DDIM's own default would clamp latents to ±1.
    scheduler = _scheduler("DDIMScheduler", {"clip_sample": False, **config}, steps)
    alphas_cumprod = scheduler.alphas_cumprod.double().numpy()
    timestep = scheduler.timesteps.numpy()[steps - count :]
    following = timestep - scheduler.config.num_train_timesteps // steps
    abar_t = alphas_cumprod[timestep]
    abar_s = np.where(following >= 0, alphas_cumprod[np.maximum(following, 0)], float(scheduler.final_alpha_cumprod))
    alpha_t, sigma_t = np.sqrt(abar_t), np.sqrt(1 - abar_t)
    alpha_s, sigma_s = np.sqrt(abar_s), np.sqrt(1 - abar_s)
    sigma_up = eta * np.sqrt(np.maximum((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s), 0.0))
    P, Q = x0_from_vp(scheduler.config.prediction_type, alpha_t, sigma_t)
    A = np.sqrt(np.maximum(sigma_s**2 - sigma_up**2, 0.0)) / sigma_t
    return StepTable(
        timestep=timestep.astype(np.float64),
        sigma=_ratio(sigma_t, alpha_t),
        c_in=np.ones(count),
        P=P, Q=Q, A=A, B=alpha_s - A * alpha_t, C=np.zeros(count), D=sigma_up,
        share=shares(np.append(_ratio(alpha_t, sigma_t), _ratio(alpha_s, sigma_s)[-1:])),
        s_z=_first(alpha_t, 1.0), s_n=_first(sigma_t, 0.0),
        clip=_clip(scheduler),
    )  # fmt: skip


def euler(config: Config, steps: int, strength: float, eta: float = 0.0) -> StepTable:
    """Euler's method on the probability-flow ODE (Karras et al. 2022, algorithm 1 without churn)."""
    return _ve_table(_scheduler("EulerDiscreteScheduler", config, steps), steps, strength, ancestral=False)


def euler_ancestral(config: Config, steps: int, strength: float, eta: float = 0.0) -> StepTable:
    """Euler to σ_down, then fresh noise of σ_up, σ_up² = σ_s²(σ² − σ_s²)/σ² (k-diffusion's Euler a)."""
    return _ve_table(_scheduler("EulerAncestralDiscreteScheduler", config, steps), steps, strength, ancestral=True)


def _ve_table(scheduler: Any, steps: int, strength: float, *, ancestral: bool) -> StepTable:
    count = executed(steps, strength)
    first = steps - count
    sigmas = scheduler.sigmas.double().numpy()[first:]
    sigma, sigma_s = sigmas[:-1], sigmas[1:]
    sigma_up = sigma_s * np.sqrt((sigma**2 - sigma_s**2) / sigma**2) if ancestral else np.zeros(count)
    A = np.sqrt(sigma_s**2 - sigma_up**2) / sigma
    P, Q = x0_from_ve(scheduler.config.prediction_type, sigma)
    return StepTable(
        timestep=scheduler.timesteps.double().numpy()[first:],
        sigma=sigma,
        c_in=1.0 / np.sqrt(sigma**2 + 1.0),
        P=P, Q=Q, A=A, B=1.0 - A, C=np.zeros(count), D=sigma_up,
        share=shares(_ratio(np.ones(count + 1), sigmas)),
        s_z=1.0, s_n=_first(sigma, 0.0),
    )  # fmt: skip


def dpmpp_2m(config: Config, steps: int, strength: float, eta: float = 0.0, *, karras: bool = False) -> StepTable:
    """DPM-Solver++(2M), second order in λ = log(α/σ) from the step before (Lu et al. 2022, arXiv 2211.01095)."""
    count = executed(steps, strength)
    changes: dict[str, Any] = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
    if karras:
        changes["use_karras_sigmas"] = True
    scheduler = _scheduler("DPMSolverMultistepScheduler", config, steps, **changes)
    sigma_k = scheduler.sigmas.double().numpy()[steps - count :]
    alpha = 1.0 / np.sqrt(sigma_k**2 + 1.0)
    sigma = sigma_k * alpha
    with np.errstate(divide="ignore", invalid="ignore"):
        lam = np.log(alpha) - np.log(sigma)
        h = lam[1:] - lam[:-1]
        reach = alpha[1:] * -np.expm1(-h)
        r = np.append(np.inf, h[:-1] / h[1:])[:count]
    last_is_first_order = (
        scheduler.config.euler_at_final
        or (scheduler.config.lower_order_final and steps < 15)
        or scheduler.config.final_sigmas_type == "zero"
    )
    if count and last_is_first_order:
        r[-1] = np.inf
    C = -reach / (2.0 * r)
    P, Q = x0_from_vp(scheduler.config.prediction_type, alpha[:-1], sigma[:-1])
    return StepTable(
        timestep=scheduler.timesteps.double().numpy()[steps - count :],
        sigma=sigma_k[:-1],
        c_in=np.ones(count),
        P=P, Q=Q, A=sigma[1:] / sigma[:-1], B=reach - C, C=C, D=np.zeros(count),
        share=shares(_ratio(alpha, sigma)),
        s_z=_first(alpha[:count], 1.0), s_n=_first(sigma[:count], 0.0),
    )  # fmt: skip


def dpmpp_2m_karras(config: Config, steps: int, strength: float, eta: float = 0.0) -> StepTable:
    """DPM-Solver++(2M) on the noise levels of Karras et al. 2022."""
    return dpmpp_2m(config, steps, strength, eta, karras=True)


def lcm(config: Config, steps: int, strength: float, eta: float = 0.0) -> StepTable:
    """Latent consistency sampling (Luo et al. 2023, arXiv 2310.04378): all `steps` run, from the noise of `strength`.

    The denoised f = c_skip·x + c_out·x0 is noised anew for the next step; the last step's result is f itself.
    """
    if executed(steps, strength) == 0 and strength == 0.0:
        return ddim(config, steps, 0.0)
    scheduler = _scheduler("LCMScheduler", config, 1)
    try:
        scheduler.set_timesteps(steps, strength=strength)
    except ValueError as error:
        most = int(scheduler.config.original_inference_steps * strength)
        raise UsageError(f"LCM at strength {strength} has room for {most} steps, got {steps}.") from error
    timestep = scheduler.timesteps.numpy()
    abar = scheduler.alphas_cumprod.double().numpy()[timestep]
    alpha, sigma = np.sqrt(abar), np.sqrt(1.0 - abar)
    tau, sigma_data = timestep * float(scheduler.config.timestep_scaling), 0.5
    c_skip = sigma_data**2 / (tau**2 + sigma_data**2)
    c_out = tau / np.sqrt(tau**2 + sigma_data**2)
    alpha_s, sigma_s = np.append(alpha[1:], 1.0), np.append(sigma[1:], 0.0)
    P, Q = x0_from_vp(scheduler.config.prediction_type, alpha, sigma)
    return StepTable(
        timestep=timestep.astype(np.float64),
        sigma=_ratio(sigma, alpha),
        c_in=np.ones(steps),
        P=P, Q=Q, A=alpha_s * c_skip, B=alpha_s * c_out, C=np.zeros(steps), D=sigma_s,
        share=shares(_ratio(np.append(alpha, 1.0), np.append(sigma, 0.0))),
        s_z=float(alpha[0]), s_n=float(sigma[0]),
        clip=_clip(scheduler),
    )  # fmt: skip


def flow_match_euler(config: Config, steps: int, strength: float, eta: float = 0.0) -> StepTable:
    """Euler on a rectified flow x = (1 − σ)·x0 + σ·noise whose model gives u = noise − x0."""
    count = executed(steps, strength)
    if config.get("use_dynamic_shifting"):
        raise ModelError("The scheduler's config asks for a shift by picture size, which is not supported; give shift.")
    scheduler = _scheduler("FlowMatchEulerDiscreteScheduler", config, steps)
    sigmas = scheduler.sigmas.double().numpy()[steps - count :]
    sigma, sigma_s = sigmas[:-1], sigmas[1:]
    A = sigma_s / sigma
    return StepTable(
        timestep=scheduler.timesteps.double().numpy()[steps - count :],
        sigma=sigma,
        c_in=np.ones(count),
        P=np.ones(count), Q=-sigma, A=A, B=1.0 - A, C=np.zeros(count), D=np.zeros(count),
        share=shares(_ratio(1.0 - sigmas, sigmas)),
        s_z=1.0 - _first(sigma, 0.0), s_n=_first(sigma, 0.0),
    )  # fmt: skip


SAMPLERS: dict[str, Callable[..., StepTable]] = {
    "ddim": ddim,
    "euler": euler,
    "euler-a": euler_ancestral,
    "dpm++-2m": dpmpp_2m,
    "dpm++-2m-karras": dpmpp_2m_karras,
    "lcm": lcm,
    "flow-match-euler": flow_match_euler,
}


def step_table(sampler: str, config: Config, steps: int, strength: float, eta: float = 0.0) -> StepTable:
    """The table of sampler `sampler` for a checkpoint's scheduler `config`.

    steps: number of steps of the whole schedule; strength in [0, 1]: the share of them that is executed.
    eta: fresh noise per step, DDIM only. Raises UnknownName for a sampler that is not in SAMPLERS, UsageError or
    ModelError for unusable settings.
    """
    if sampler not in SAMPLERS:
        raise UnknownName("sampler", sampler, SAMPLERS)
    if eta and sampler != "ddim":
        raise UsageError(f"eta is an option of ddim alone; {sampler} has its own noise. Leave it at 0.")
    return SAMPLERS[sampler](config, steps, strength, eta)


def _ratio(over: Array, under: Array) -> Array:
    with np.errstate(divide="ignore"):
        return over / under


def _first(values: Array, otherwise: float) -> float:
    """The start's scale, or `otherwise` where no step is executed."""
    return float(values[0]) if len(values) else otherwise


def _clip(scheduler: Any) -> float:
    return float(scheduler.config.clip_sample_range) if scheduler.config.clip_sample else 0.0
