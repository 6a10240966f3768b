"""Noise by key: every value depends on (seed, frame or shot, step, cell) alone, never on batch, order or resume.

The generator is counter-based (Philox 4×64, Salmon et al. 2011): the key is (seed, purpose), the counter names the
frame or shot and the step, and the position in the stream is the latent cell. Normals by Box–Muller, one per 64 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .. import ops

Noise = Literal["fixed", "per-frame", "carried"]

START = 0
"""Step number of the start noise; the noise of step i has number i + 1."""

_PURPOSE = {"fixed": 1, "per-frame": 2, "carried": 3}


def normal(seed: int, purpose: int, unit: int, step: int, shape: tuple[int, ...]) -> Tensor:
    """Unit Gaussian float32 of `shape`, a pure function of its arguments."""
    bits = np.random.Philox(key=[seed % 2**64, purpose], counter=[0, 0, step, unit])
    raw = bits.random_raw(int(np.prod(shape, dtype=np.int64)))
    radius_part = ((raw >> np.uint64(32)).astype(np.float64) + 0.5) / 2**32
    angle_part = (raw & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2**32
    values = np.sqrt(-2.0 * np.log(radius_part)) * np.cos(2.0 * np.pi * angle_part)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def keyed_noise(kind: Noise, *, seed: int, shot: int, frame: int, step: int, shape: tuple[int, ...]) -> Tensor:
    """Noise of one frame at one step: `fixed` repeats within a shot, any other kind is fresh for every frame.

    Returns float32 [*shape] on the CPU.
    """
    unit = shot if kind == "fixed" else frame
    return normal(seed, _PURPOSE[kind], unit, step, shape)


class CarriedNoise:
    """Noise that follows the flow: one field per stochastic step of a shot, at the pixels of the latent cells.

    The fields are the state; what a frame gets depends on them, on the flow and on the frame's keyed fresh noise.
    """

    def __init__(self, seed: int, cell: int):
        self.seed = seed
        self._cell = cell
        self._shot: int | None = None
        self._frame: int | None = None
        self._flow: Tensor | None = None
        self._fields: dict[int, Tensor] = {}
        self._latents: dict[int, Tensor] = {}

    def begin(self, shot: int, frame: int, flow: Tensor | None) -> None:
        """Move on to `frame`. flow: this frame -> the one before, [1, 2, H, W] in pixels of the padded picture; without
        it, and in another shot, the noise starts anew."""
        if flow is None or shot != self._shot:
            self._fields, flow = {}, None
        self._shot, self._frame, self._flow, self._latents = shot, frame, flow, {}

    def latent(self, step: int, shape: tuple[int, ...]) -> Tensor:
        """Unit Gaussian [1, C, h, w] of step number `step` for the frame that `begin` named; the same on every call."""
        if step not in self._latents:
            self._latents[step] = self._advanced(step, shape)
        return self._latents[step]

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on with the next frame: shot, frame and the fields by step, on the CPU."""
        return {"shot": self._shot, "frame": self._frame, "fields": {str(k): v.cpu() for k, v in self._fields.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._shot, self._frame, self._flow = state["shot"], state["frame"], None
        self._fields = {int(step): field for step, field in state["fields"].items()}
        self._latents = {}

    def _advanced(self, step: int, shape: tuple[int, ...]) -> Tensor:
        assert self._frame is not None, "begin comes first"
        channels, height, width = shape[1], shape[2] * self._cell, shape[3] * self._cell
        drawn = normal(self.seed, _PURPOSE["carried"], self._frame, step, (1, channels, height, width))
        field = self._fields.get(step)
        if field is None or self._flow is None or field.shape != drawn.shape:
            self._fields[step] = drawn
            return summed(drawn, self._cell)
        flow = self._flow
        self._fields[step], latent = ops.carry_noise(
            field.to(flow.device), flow, drawn.to(flow.device), cell=self._cell
        )
        return latent


def summed(field: Tensor, cell: int) -> Tensor:
    """Unit Gaussian [N, C, h, w] of a field [N, C, h·cell, w·cell]: the sum over each cell divided by `cell`."""
    return torch.nn.functional.avg_pool2d(field, cell) * cell
