"""The sampling loop: the model's output, then one fused step, for as many steps as the table has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .. import ops
from .conditioning import Condition
from .tables import StepTable

Predict = Callable[[Tensor, float, Condition], Tensor]
"""(c_in·x [N, C, h, w], timestep, condition of N rows) -> model output [N, C, h, w]."""

StepCallback = Callable[[int, float, Tensor], Tensor | None]
"""(step, timestep, x after the step) -> None, or the x to go on with."""


@dataclass(frozen=True)
class LatentGuide:
    """What flow guidance hands to the sampler."""

    k0: Tensor
    """The guide in the model's own space, [N, C, h, w]."""
    weights: Tensor
    """Pull toward it at each step, [steps, N, h, w] in [0, 1]; 0 leaves a cell untouched, bit for bit."""
    erode: bool = True
    """Whether the least weight of a cell's neighbours counts for it."""


StepPull = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""(step, unguided x0 [N, C, h, w]) -> (the guide k0 [N, C, h, w], its weight [N, h, w] in [0, 1]), for guides that
depend on what is being predicted; the weight is taken as it is, without erosion."""


def sample(
    predict: Predict,
    table: StepTable,
    start: Tensor,
    noise: Callable[[int], Tensor],
    *,
    cond: Condition,
    uncond: Condition | None = None,
    guidance_scale: float = 1.0,
    guide: LatentGuide | StepPull | None = None,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Denoise `start` and return the clean latent [N, C, h, w], float32.

    predict: the model. table: from `tables.step_table`. start: clean latent z the run begins from.
    noise: number of the noise (0 for the start, i + 1 for step i) -> unit Gaussian like `start`.
    cond, uncond: 1 or N rows; without `uncond`, or at a scale of 1 and below, there is one model row per frame.
    guide: flow guidance, math: x0 ← x0 + w·(k0 − x0) after classifier-free guidance.
    """
    start = start.float()
    if len(table) == 0:
        return start
    rows = start.shape[0]
    condition = cond.expanded(rows)
    guided_by_text = uncond is not None and guidance_scale > 1.0
    if uncond is not None and guided_by_text:
        condition = Condition.stacked([uncond.expanded(rows), condition])
    x = table.s_z * start + table.s_n * noise(0)
    x0_prev: Tensor | None = None
    for step in range(len(table)):
        model_input = (float(table.c_in[step]) * x).to(condition.text.dtype)
        if guided_by_text:
            model_input = torch.cat([model_input, model_input])
        output = predict(model_input, float(table.timestep[step]), condition).float()
        guided_step = partial(
            ops.guided_step,
            x,
            output[-rows:],
            table.row(step, guidance_scale),
            model_output_uncond=output[:rows] if guided_by_text else None,
            x0_prev=x0_prev if table.C[step] else None,
            noise=noise(step + 1) if table.D[step] else None,
        )
        if guide is None:
            x, x0_prev = guided_step()
        elif isinstance(guide, LatentGuide):
            x, x0_prev = guided_step(k0=guide.k0, weight=guide.weights[step], erode=guide.erode)
        else:
            k0, weight = guide(step, guided_step()[1])
            x, x0_prev = guided_step(k0=k0, weight=weight, erode=False)
        if on_step is not None:
            replaced = on_step(step, float(table.timestep[step]), x)
            x = x if replaced is None else replaced
    return x
