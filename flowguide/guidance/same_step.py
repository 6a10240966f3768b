"""Each frame is pulled, at every step, toward what the frame before it predicted at the same step.

math.md, section 7: the guided x0 of the frame before is warped in the latent by the flow in cells. A latent does not
follow shifts of less than a cell, so only the low frequencies of the difference count:
k0 = x0 + L(c (warp(x0_before) - x0)) / L(c), with L a Gaussian over latent cells and c the least confidence in a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..config import RenderConfig
from ..diffusion.tables import StepTable
from ..flow import FlowEstimator
from ..types import Frame
from .trust import TRUST, decided, unchanged
from .weights import WeightInputs, weight_schedule

BLUR_CELLS = 1.5
"""Standard deviation of L, in latent cells."""
REACH = 5
"""Cells from which L has no weight any more."""


@dataclass(frozen=True)
class SameStepPull:
    """What pulls one frame: the same for all its steps but for the weight."""

    flow: Tensor
    """To the frame before, [1, 2, h, w] in latent cells."""
    sure: Tensor
    """Least confidence in the cell, [1, 1, h, w] in [0, 1]."""
    weights: Tensor
    """Pull at each step, [steps, h, w] in [0, 1]."""


class SameStep:
    """Finds the pull from the sources alone: nothing of it waits for a finished picture."""

    def __init__(self, estimator: FlowEstimator, config: RenderConfig, cell: int):
        self._estimator, self._cell = estimator, cell
        self.configure(config)

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings."""
        self._config = config
        self._schedule = weight_schedule(config.flow_weight)

    def __call__(
        self, frame: Frame, before: Frame, source: Tensor, source_before: Tensor, table: StepTable
    ) -> SameStepPull | None:
        """frame, before: padded to whole cells, with their sources [3, H, W] in [-1, 1]. None where too little of the
        frame before can be trusted."""
        flow, back = self._estimator.both(frame, before)
        uv = flow.uv.to(source.device)
        prediction = ops.predict(
            source_before[None],
            uv[None],
            back.uv[None].to(source.device),
            given_confidence=None if flow.confidence is None else flow.confidence[None],
            cell=self._cell,
            settings=TRUST,
        )
        confidence = decided(prediction.confidence[0] * unchanged(source, prediction.prior[0]))
        if float(confidence.mean()) < self._config.cut_share:
            return None
        sure = -F.max_pool2d(-confidence[None, None], self._cell)
        distance_px = torch.hypot(uv[0], uv[1])
        inputs = WeightInputs(distance_px, confidence, (sure.shape[2], sure.shape[3]), self._config.strength)
        return SameStepPull(prediction.flow_latent, sure, self._schedule(table, inputs) * sure[0])


def pulled_toward(x0: Tensor, before: Tensor, pull: SameStepPull | Sequence[SameStepPull]) -> Tensor:
    """The guide k0 [N, C, h, w] of unguided predictions x0 [N, C, h, w].

    before: the guided x0 [N, C, h, w] of each row's frame before, at the same step.
    """
    pulls = [pull] if isinstance(pull, SameStepPull) else pull
    flow, sure = (torch.cat([getattr(one, name) for one in pulls]) for name in ("flow", "sure"))
    moved = ops.warp(before, flow, mode="bicubic")
    return x0 + smoothed(sure * (moved - x0)) / smoothed(sure).clamp_min(1e-6)


def smoothed(values: Tensor) -> Tensor:
    """L: a Gaussian over latent cells, [N, C, h, w]; zeros outside."""
    offsets = torch.arange(-REACH, REACH + 1, device=values.device, dtype=values.dtype)
    kernel = (-0.5 * (offsets / BLUR_CELLS) ** 2).exp()
    kernel = kernel / kernel.sum()
    channels = values.shape[1]
    down = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    across = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(values, down, padding=(REACH, 0), groups=channels), across, padding=(0, REACH),
                    groups=channels)  # fmt: skip
