"""Frames on their way through the sampler, each at a step of its own, advanced by one model call for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from .. import ops
from .conditioning import Condition
from .sampling import StepCallback
from .tables import StepTable

PredictRows = Callable[[Tensor, Tensor, Condition], Tensor]
"""(c_in·x [N, C, h, w], timesteps [N], condition of N rows) -> model output [N, C, h, w]."""

Pull = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Unguided x0 of all rows [N, C, h, w] -> (the guide k0 [N, C, h, w], its weight [N, h, w] in [0, 1])."""


@dataclass
class Row:
    """One frame under way."""

    table: StepTable
    x: Tensor
    """Noisy latent [1, C, h, w] before step `step`, float32."""
    noises: dict[int, Tensor]
    """Number of the noise -> [1, C, h, w]; i + 1 is that of step i."""
    cond: Condition
    uncond: Condition | None
    guidance_scale: float
    step: int = 0
    """Steps that are done."""
    trail: list[Tensor] = field(default_factory=list)
    """The guided x0 [1, C, h, w] of every step that is done."""

    @property
    def is_done(self) -> bool:
        return self.step == len(self.table)


def advance(
    predict: PredictRows,
    rows: Sequence[Row],
    pull: Pull | None,
    on_step: StepCallback | None = None,
    *,
    at_least: int = 1,
) -> None:
    """Take one step with every row. None may be done; all have a condition without the prompt, or none has.

    pull: flow guidance, math: x0 ← x0 + w·(k0 − x0) after classifier-free guidance; None: no row is guided.
    at_least: rows that the model is called with, for networks of a fixed size; the last one is repeated.
    """
    count, most = len(rows), max(len(rows), at_least)
    output = _predicted(predict, [*rows, *[rows[-1]] * (most - count)])
    x = torch.cat([row.x for row in rows])
    guided_step = partial(
        ops.guided_step,
        x,
        output[-most:][:count],
        [row.table.row(row.step, row.guidance_scale) for row in rows],
        model_output_uncond=output[:count] if len(output) > most else None,
        x0_prev=_stacked([row.trail[-1] if row.table.C[row.step] else None for row in rows], x),
        noise=_stacked([row.noises[row.step + 1] if row.table.D[row.step] else None for row in rows], x),
    )
    moved, x0 = guided_step()
    if pull is not None:
        k0, weight = pull(x0)
        moved, x0 = guided_step(k0=k0, weight=weight)
    for place, row in enumerate(rows):
        _step(row, moved[place : place + 1], x0[place : place + 1], on_step)


def _predicted(predict: PredictRows, rows: Sequence[Row]) -> Tensor:
    """The model's output, float32: first of all rows without the prompt, where it is asked, then with it."""
    condition = Condition.stacked([row.cond for row in rows])
    x = torch.cat([row.x for row in rows])
    scale = x.new_tensor([row.table.c_in[row.step] for row in rows]).view(-1, 1, 1, 1)
    timesteps = x.new_tensor([row.table.timestep[row.step] for row in rows])
    model_input = (scale * x).to(condition.text.dtype)
    without = [row.uncond for row in rows if row.uncond is not None]
    if without:
        condition = Condition.stacked([*without, condition])
        model_input, timesteps = torch.cat([model_input] * 2), torch.cat([timesteps] * 2)
    return predict(model_input, timesteps, condition).float()


def _step(row: Row, moved: Tensor, x0: Tensor, on_step: StepCallback | None) -> None:
    replaced = None if on_step is None else on_step(row.step, float(row.table.timestep[row.step]), moved)
    row.x = moved if replaced is None else replaced
    row.trail.append(x0)
    row.step += 1


def _stacked(parts: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
    """All parts in one batch, zeros for those that are absent; None where all are."""
    if all(part is None for part in parts):
        return None
    return torch.cat([torch.zeros_like(like[:1]) if part is None else part for part in parts])
