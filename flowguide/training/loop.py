"""One optimisation loop for both networks: learning rate, moving average, checkpoints, log.

All randomness of a step comes from (seed, step), so a run that stops and goes on is bit-equal to one that does not
(on one CPU thread).
"""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Schedule:
    """Learning rate by step: linear warm-up, constant, then half a cosine to zero over the last part."""

    steps: int
    peak: float
    warm_up: int = 100
    decay_share: float = 0.4

    def rate(self, step: int) -> float:
        """Learning rate of a step counted from 0."""
        decay = max(1, int(self.steps * self.decay_share))
        progress = max(0.0, (step + 1 - (self.steps - decay)) / decay)
        return self.peak * min(1.0, (step + 1) / self.warm_up) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class TrainingLoop(Generic[Network]):
    """Trains one module with AdamW.

    loss_at(model, step) returns the losses of a step by name, scalars; their sum under "loss" is minimised. The
    checkpoint file holds weights, optimiser moments, the moving average and the step, and appears only when whole.
    """

    def __init__(
        self,
        model: Network,
        loss_at: Callable[[Network, int], dict[str, Tensor]],
        schedule: Schedule,
        folder: Path,
        *,
        betas: tuple[float, float] = (0.9, 0.98),
        average: float = 0.998,
        log_every: int = 50,
    ):
        self.model, self.loss_at, self.schedule, self.folder = model, loss_at, schedule, folder
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, betas=betas, weight_decay=1e-3, fused=True)
        self.average = average
        self.parameters = dict(model.named_parameters())
        self.averaged = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.log_every = log_every
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self.restore()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def finished(self) -> bool:
        return self.step >= self.schedule.steps

    def restore(self) -> None:
        state = torch.load(self.checkpoint, map_location=next(self.model.parameters()).device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.averaged, self.step = state["averaged"], state["step"]

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "averaged": self.averaged,
            "step": self.step,
        }
        unfinished = self.checkpoint.with_suffix(f".{os.getpid()}.part")
        torch.save(state, unfinished)
        unfinished.replace(self.checkpoint)

    def take_step(self) -> dict[str, float]:
        """One optimisation step; returns the losses of it."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        losses = self.loss_at(self.model, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(losses["loss"])
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        decay = min(self.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.values()), list(self.parameters.values()), 1 - decay)
        return {name: value.item() for name, value in losses.items()}

    def run(self, deadline: float, save_every: float = 120.0) -> bool:
        """Step until done or until time.monotonic() passes the deadline (seconds); True when done."""
        began = saved = time.monotonic()
        window: list[dict[str, float]] = []
        while not self.finished and time.monotonic() < deadline:
            window.append(self.take_step())
            if self.step % self.log_every == 0 or self.finished:
                self.write_log(window, time.monotonic() - began)
                window = []
            if time.monotonic() - saved > save_every:
                self.save()
                saved = time.monotonic()
        self.save()
        return self.finished

    def write_log(self, window: list[dict[str, float]], seconds: float) -> None:
        """Append one JSON line: step, seconds since this slice began, learning rate, mean losses."""
        means = {
            name: round(float(np.nanmean([losses[name] for losses in window])), 5)
            for name in window[0]
            if not np.isnan([losses[name] for losses in window]).all()
        }
        rate = self.schedule.rate(self.step - 1)
        line = {"step": self.step, "seconds": round(seconds, 1), "rate": round(rate, 7), **means}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def averaged_model(self) -> Network:
        """The module with its averaged weights loaded (in place)."""
        with torch.no_grad():
            for name, value in self.averaged.items():
                self.parameters[name].copy_(value)
        return self.model
