"""A sampler is a table of coefficients.

Every one-evaluation step is `x0 = P·x + Q·m`, then guidance, then `x_next = A·x + B·x0 + C·x0_prev + D·noise`,
where `m` is the model's output for the input `c_in·x` at `timestep`. The start is `x = s_z·z + s_n·noise`.

Notation, after the DDIM paper (Song et al. 2021, arXiv 2010.02502): alphas_cumprod[t] -> ᾱ_t, alpha -> α = √ᾱ,
sigma -> σ = √(1 − ᾱ), eta -> η; index t is this step, s the next (less noisy) one. `Denoiser` noise levels are
σ_k = σ/α. All coefficients are float64; the arithmetic of a step is `ops.guided_step`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, UnknownName, UsageError
from ..ops import StepRow

Array = NDArray[np.float64]

GUIDE_ABOVE = 0.5
"""σ/α from which guidance has its full share."""
GUIDE_BELOW = 0.15
"""σ/α under which guidance has none: the last detail comes back in pixels."""


@dataclass(frozen=True)
class StepTable:
    """The executed steps of a sampler, one array entry per step, in order of falling noise."""

    timestep: NDArray[np.int64]
    """What the model is told."""
    sigma: Array
    """Noise level σ_k = σ/α at the step's start."""
    c_in: Array
    """Scale of the model's input."""
    P: Array
    Q: Array
    A: Array
    B: Array
    C: Array
    D: Array
    share: Array
    """Mean of the guidance curve g over the step, in [0, 1]."""
    s_z: float
    """Scale of the clean latent at the start."""
    s_n: float
    """Scale of the noise at the start."""
    clip: float = 0.0
    """Half width of the clamp on x0 before guidance; 0 means none."""

    def __len__(self) -> int:
        return len(self.timestep)

    def row(self, step: int, guidance_scale: float) -> StepRow:
        """The coefficients of one step for `ops.guided_step`."""
        columns = (self.P, self.Q, self.A, self.B, self.C, self.D)
        scalars = (float(column[step]) for column in columns)
        return StepRow(*scalars, share=1.0, guidance_scale=guidance_scale, clip=self.clip)


def noise_share(ratio_from: float, ratio_to: float) -> float:
    """Mean over one step of the guidance curve g, weighted by e^λ with λ = log(α/σ).

    With r = e^λ = α/σ, `∫ g e^λ dλ / ∫ e^λ dλ` is the plain mean of g over r in [ratio_from, ratio_to].
    g is 1 for σ/α ≥ GUIDE_ABOVE and falls to 0 at GUIDE_BELOW by a smoothstep in σ/α.
    `ratio_to` may be infinite (a last step to no noise), whose share is 0.
    """
    if not np.isfinite(ratio_to):
        return 0.0
    end = 1.0 / GUIDE_BELOW
    if ratio_from >= end:
        return 0.0
    r = np.linspace(ratio_from, min(ratio_to, end), 513)
    q = np.clip((1.0 / np.maximum(r, 1e-12) - GUIDE_BELOW) / (GUIDE_ABOVE - GUIDE_BELOW), 0.0, 1.0)
    g = q * q * (3.0 - 2.0 * q)
    if ratio_to - ratio_from < 1e-12:
        return float(g[0])
    return float(np.trapezoid(g, r) / (ratio_to - ratio_from))


def x0_coefficients(prediction_type: str, alpha: Array, sigma: Array) -> tuple[Array, Array]:
    """P and Q of `x0 = P·x + Q·m` for a variance-preserving x = α·x0 + σ·noise."""
    if prediction_type == "epsilon":
        if (alpha < 1e-6).any():
            raise ModelError(
                "An epsilon-predicting model cannot start at zero signal (ᾱ = 0). "
                "Lower strength, or use a v_prediction checkpoint."
            )
        return 1.0 / alpha, -sigma / alpha
    if prediction_type == "v_prediction":
        return alpha, -sigma
    if prediction_type == "sample":
        return np.zeros_like(alpha), np.ones_like(alpha)
    raise ModelError(
        f"prediction_type in the scheduler's config should be epsilon, v_prediction or sample, got {prediction_type!r}."
    )


def executed(steps: int, strength: float) -> int:
    """How many of `steps` run at `strength`, as img2img pipelines count them: ⌊steps·strength⌋."""
    if steps < 1:
        raise UsageError(f"steps should be at least 1, got {steps}.")
    if not 0.0 <= strength <= 1.0:
        raise UsageError(f"strength should be between 0 and 1, got {strength}.")
    return min(int(steps * strength), steps)


def _scheduler(class_name: str, config: Mapping[str, Any], steps: int) -> Any:
    """diffusers' own scheduler of that name, for its timesteps and ᾱ; its `step` is never called."""
    import diffusers

    cls = getattr(diffusers, class_name)
    known = inspect.signature(cls.__init__).parameters
    scheduler = cls(**{key: value for key, value in config.items() if key in known})
    if steps > scheduler.config.num_train_timesteps:
        raise UsageError(f"steps should be at most {scheduler.config.num_train_timesteps}, got {steps}.")
    scheduler.set_timesteps(steps)
    return scheduler


def ddim(config: Mapping[str, Any], steps: int, strength: float, eta: float = 0.0) -> StepTable:
    """DDIM (η = 0) to DDPM-like (η = 1); A, B, D after equations (12) and (16) of Song et al."""
    if config.get("thresholding"):
        raise ModelError("The scheduler's config asks for dynamic thresholding, which is for pixel models; remove it.")
    count = executed(steps, strength)
    scheduler = _scheduler("DDIMScheduler", config, steps)
    alphas_cumprod = scheduler.alphas_cumprod.double().numpy()
    final = float(scheduler.final_alpha_cumprod)
    timestep = scheduler.timesteps.numpy()[steps - count :]
    following = timestep - scheduler.config.num_train_timesteps // steps

    abar_t = alphas_cumprod[timestep]
    abar_s = np.where(following >= 0, alphas_cumprod[np.maximum(following, 0)], final)
    alpha_t, sigma_t = np.sqrt(abar_t), np.sqrt(1 - abar_t)
    alpha_s, sigma_s = np.sqrt(abar_s), np.sqrt(1 - abar_s)
    sigma_up = eta * np.sqrt(np.maximum((1 - abar_s) / (1 - abar_t) * (1 - abar_t / abar_s), 0.0))

    P, Q = x0_coefficients(scheduler.config.prediction_type, alpha_t, sigma_t)
    A = np.sqrt(np.maximum(sigma_s**2 - sigma_up**2, 0.0)) / sigma_t
    with np.errstate(divide="ignore"):
        ratio_t, ratio_s, sigma_k = alpha_t / sigma_t, alpha_s / sigma_s, sigma_t / alpha_t
    share = np.array([noise_share(a, b) for a, b in zip(ratio_t, ratio_s, strict=True)])
    ones = np.ones_like(alpha_t)
    return StepTable(
        timestep=timestep,
        sigma=sigma_k,
        c_in=ones,
        P=P * ones,
        Q=Q * ones,
        A=A,
        B=alpha_s - A * alpha_t,
        C=np.zeros_like(ones),
        D=sigma_up,
        share=share,
        s_z=float(alpha_t[0]) if len(timestep) else 1.0,
        s_n=float(sigma_t[0]) if len(timestep) else 0.0,
        clip=float(scheduler.config.clip_sample_range) if scheduler.config.clip_sample else 0.0,
    )


SAMPLERS: dict[str, Callable[..., StepTable]] = {"ddim": ddim}


def step_table(sampler: str, config: Mapping[str, Any], steps: int, strength: float, eta: float = 0.0) -> StepTable:
    """The table of sampler `sampler` for a checkpoint's scheduler `config`.

    steps: number of steps of the whole schedule; strength in [0, 1]: the share of them that is executed.
    Raises UnknownName for a sampler that is not in SAMPLERS, UsageError or ModelError for unusable settings.
    """
    if sampler not in SAMPLERS:
        raise UnknownName("sampler", sampler, SAMPLERS)
    return SAMPLERS[sampler](config, steps, strength, eta)
