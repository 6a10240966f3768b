"""A sampler is a table of coefficients.

Every one-evaluation step is `x0 = P·x + Q·m`, then guidance, then `x_next = A·x + B·x0 + C·x0_prev + D·noise`,
where `m` is the model's output for the input `c_in·x` at `timestep`. The start is `x = s_z·z + s_n·noise`.

Notation, after the DDIM paper (Song et al. 2021, arXiv 2010.02502): alphas_cumprod[t] -> ᾱ_t, alpha -> α = √ᾱ,
sigma -> σ = √(1 − ᾱ), eta -> η; index t is this step, s the next (less noisy) one. `Denoiser` noise levels are
σ_k = σ/α. All coefficients are float64; the arithmetic of a step is `ops.guided_step`; `samplers` makes the tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..ops import StepRow

Array = NDArray[np.float64]

GUIDE_ABOVE = 0.5
"""σ/α from which guidance has its full share."""
GUIDE_BELOW = 0.15
"""σ/α under which guidance has none: the last detail comes back in pixels."""


@dataclass(frozen=True)
class StepTable:
    """The executed steps of a sampler, one array entry per step, in order of falling noise."""

    timestep: Array
    """What the model is told."""
    sigma: Array
    """Noise level at the step's start: σ_k = σ/α, or the flow's own σ for rectified flow."""
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
        P, Q, A, B, C, D = (float(column[step]) for column in (self.P, self.Q, self.A, self.B, self.C, self.D))
        return StepRow(P, Q, A, B, C, D, share=1.0, guidance_scale=guidance_scale, clip=self.clip)


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


def few_step_pull(count: int) -> Array:
    """Pull per step of a model of few steps, which cannot re-harmonise afterwards: 1, 1/2, 1/4 …, and 0 at the last."""
    pull = 0.5 ** np.arange(count, dtype=np.float64)
    pull[-1:] = 0.0
    return pull


def x0_from_vp(prediction_type: str, alpha: Array, sigma: Array) -> tuple[Array, Array]:
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
    raise _unknown_prediction(prediction_type)


def x0_from_ve(prediction_type: str, sigma: Array) -> tuple[Array, Array]:
    """P and Q for a variance-exploding x = x0 + σ_k·noise whose model sees x/√(σ_k² + 1)."""
    if prediction_type == "epsilon":
        return np.ones_like(sigma), -sigma
    if prediction_type == "v_prediction":
        return 1.0 / (sigma**2 + 1.0), -sigma / np.sqrt(sigma**2 + 1.0)
    if prediction_type == "sample":
        return np.zeros_like(sigma), np.ones_like(sigma)
    raise _unknown_prediction(prediction_type)


def _unknown_prediction(prediction_type: str) -> ModelError:
    return ModelError(
        f"prediction_type in the scheduler's config should be epsilon, v_prediction or sample, got {prediction_type!r}."
    )


def shares(ratio: Array) -> Array:
    """`noise_share` of each step, from α/σ at its start and end: n + 1 values give n shares."""
    return np.array([noise_share(a, b) for a, b in pairwise(ratio)])
