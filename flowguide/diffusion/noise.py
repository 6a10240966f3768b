"""Noise by key: every value depends on (seed, frame or shot, step, cell) alone, never on batch, order or resume.

The generator is counter-based (Philox 4×64, Salmon et al. 2011): the key is (seed, purpose), the counter names the
frame or shot and the step, and the position in the stream is the latent cell. Normals by Box–Muller, one per 64 bits.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Noise = Literal["fixed", "per-frame"]

START = 0
"""Step number of the start noise; the noise of step i has number i + 1."""

_PURPOSE = {"fixed": 1, "per-frame": 2}


def normal(seed: int, purpose: int, unit: int, step: int, shape: tuple[int, ...]) -> Tensor:
    """Unit Gaussian float32 of `shape`, a pure function of its arguments."""
    bits = np.random.Philox(key=[seed % 2**64, purpose], counter=[0, 0, step, unit])
    raw = bits.random_raw(int(np.prod(shape, dtype=np.int64)))
    radius_part = ((raw >> np.uint64(32)).astype(np.float64) + 0.5) / 2**32
    angle_part = (raw & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2**32
    values = np.sqrt(-2.0 * np.log(radius_part)) * np.cos(2.0 * np.pi * angle_part)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def keyed_noise(kind: Noise, *, seed: int, shot: int, frame: int, step: int, shape: tuple[int, ...]) -> Tensor:
    """Noise of one frame at one step: `fixed` repeats within a shot, `per-frame` is fresh for every frame.

    Returns float32 [*shape] on the CPU.
    """
    unit = shot if kind == "fixed" else frame
    return normal(seed, _PURPOSE[kind], unit, step, shape)
