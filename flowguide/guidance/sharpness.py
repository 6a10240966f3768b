"""Resampling blur, undone in a closed loop.

Warping a picture n times by fractions of a pixel dims its finest detail n times. An unsharp mask of fixed strength
(the seed's 1.12·k − 0.12·G(k)) over- or under-shoots; here the strength is what the measured loss asks for.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SIGMA_PX = 1.0
"""Width of the blur that the unsharp mask works against: about the finest octave."""


def blurred(picture: Tensor) -> Tensor:
    """`picture` [C, H, W] under the binomial kernel (1, 4, 6, 4, 1)/16, whose σ is SIGMA_PX; edges repeat."""
    kernel = picture.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
    channels = picture.shape[0]
    padded = F.pad(picture[None], (2, 2, 2, 2), mode="replicate")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)[0]


def restored(prior: Tensor, generated: Tensor, confidence: Tensor, most: float) -> Tensor:
    """`prior` [3, H, W] with its finest octave brought back to the energy that it has in `generated`.

    The gain is one number for the frame, measured over confident pixels and at most `most`; 0 returns the prior.
    """
    if most == 0.0:
        return prior
    fine_prior = prior - blurred(prior)
    fine_generated = generated - blurred(generated)
    energy_prior = float((confidence * fine_prior.square().mean(0)).sum())
    energy_generated = float((confidence * fine_generated.square().mean(0)).sum())
    if energy_prior <= 0.0:
        return prior
    gain = min((energy_generated / energy_prior) ** 0.5 - 1.0, most)
    if gain <= 0.0:
        return prior
    return (prior + gain * fine_prior).clamp_(-1.0, 1.0)
