"""Model calls of several lanes made together: one batch where each lane, in a thread of its own, asks for one row.

A lane is a renderer that works on a clip or a shot of its own. Its calls wait until every other lane waits as well;
then those of the earliest stage (encode, denoise, decode) that can share a batch are made in one. So lanes fall into
step by themselves, and one that ends is waited for no longer. Noise is by key, so a batch changes no result but for the
last bits of a convolution.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Condition as Gate
from typing import Any

import torch
from torch import Tensor

from ..timing import StageClock
from .checkpoint import Checkpoint
from .conditioning import Condition
from .denoiser import Denoiser
from .latents import Autoencoder
from .memory import is_out_of_memory

log = logging.getLogger("flowguide.diffusion")

STAGES = ("encode", "unet", "decode")
"""In this order those that wait are served."""


@dataclass
class _Call:
    """What one lane waits for."""

    stage: str
    given: Tensor
    """[n, …]: rows of this lane."""
    timestep: float | Tensor = 0.0
    """Of the UNet, one for all rows or [n]."""
    condition: Condition | None = None
    made: Tensor | None = None
    failed: BaseException | None = None

    @property
    def kind(self) -> tuple[Any, ...]:
        """What calls of one batch have in common."""
        told: list[tuple[str, Any]] = []
        if self.condition is not None:
            told = [(name, _shapes(value)) for name, value in vars(self.condition).items()]
        return self.stage, tuple(self.given.shape[1:]), self.given.dtype, told


def _shapes(value: Tensor | tuple[Tensor, ...] | None) -> Any:
    """Of one row."""
    if isinstance(value, tuple):
        return [_shapes(entry) for entry in value]
    return None if value is None else tuple(value.shape[1:])


class Lanes:
    """One checkpoint for several lanes."""

    def __init__(self, checkpoint: Checkpoint, most: int):
        """most: lanes there will be at once; networks of a fixed size are always called with that many."""
        checkpoint.pack()
        self.clock = StageClock()
        """Seconds that the calls took, by stage."""
        self.batches: Counter[tuple[str, int]] = Counter()
        """(stage, lanes that a call was for) -> how many such calls there were."""
        self._checkpoint, self._most = checkpoint, most
        self._gate = Gate()
        self._alive: set[int] = set()
        self._waiting: dict[int, _Call] = {}
        self._one_by_one = False

    def checkpoint(self, lane: int) -> Checkpoint:
        """The checkpoint as the lane of that number calls it."""
        whole = self._checkpoint
        denoiser = _LaneDenoiser(self, lane, whole.denoiser)
        autoencoder = _LaneAutoencoder(self, lane, whole.autoencoder)
        return replace(whole, denoiser=denoiser, autoencoder=autoencoder, shared=True)

    def begin(self, lane: int) -> None:
        """From now on the others wait for this lane. All lanes of a start begin before any of them works."""
        with self._gate:
            self._alive.add(lane)

    @contextmanager
    def working(self, lane: int) -> Iterator[None]:
        """The lane's work; at its end the others no longer wait for it."""
        try:
            yield
        finally:
            with self._gate:
                self._alive.discard(lane)
                self._serve()

    def ask(self, lane: int, call: _Call) -> Tensor:
        """The result of the lane's call, once it was made."""
        with self._gate:
            self._waiting[lane] = call
            self._serve()
            while call.made is None and call.failed is None:
                self._gate.wait()
        if call.failed is not None:
            raise call.failed
        assert call.made is not None
        return call.made

    def _serve(self) -> None:
        """Make the calls whose turn it is, if all lanes wait. Whoever comes last does it, and holds the gate."""
        if not self._waiting or not self._alive <= self._waiting.keys():
            return
        first = min(self._waiting.items(), key=lambda entry: (STAGES.index(entry[1].stage), entry[0]))[1]
        served = [lane for lane in sorted(self._waiting) if self._waiting[lane].kind == first.kind]
        calls = [self._waiting.pop(lane) for lane in served]
        try:
            with self.clock(first.stage):
                self._make(calls)
        except BaseException as error:
            for call in calls:
                call.failed = error
        self._gate.notify_all()

    def _make(self, calls: Sequence[_Call]) -> None:
        if not self._one_by_one:
            try:
                self._together(calls)
                return
            except (MemoryError, RuntimeError) as error:
                if len(calls) == 1 or not is_out_of_memory(error):
                    raise
            log.warning("Memory ran out; from now on: one lane at a time.")
            self._one_by_one = True
        for call in calls:
            self._together([call])

    def _together(self, calls: Sequence[_Call]) -> None:
        counts = [call.given.shape[0] for call in calls]
        runtimes = self._checkpoint.denoiser.runtimes
        fixed = runtimes is not None and runtimes.fixes_sizes
        missing = (self._most - len(calls)) * counts[-1] if fixed else 0
        made = self._called(calls[0].stage, _Batch.of(calls, missing))
        self.batches[calls[0].stage, len(calls)] += 1
        for call, part in zip(calls, torch.split(made[: sum(counts)], counts), strict=True):
            call.made = part.clone() if fixed else part

    def _called(self, stage: str, batch: _Batch) -> Tensor:
        whole = self._checkpoint
        if stage == "encode":
            return whole.autoencoder.encode(batch.given)
        if stage == "decode":
            return whole.autoencoder.decode(batch.given)
        assert batch.condition is not None
        return whole.denoiser(batch.given, batch.timestep, batch.condition)


@dataclass(frozen=True)
class _Batch:
    """Rows of several lanes."""

    given: Tensor
    timestep: float | Tensor
    condition: Condition | None

    @staticmethod
    def of(calls: Sequence[_Call], missing: int) -> _Batch:
        """All rows, and the last one `missing` times more."""

        def more(rows: Tensor) -> Tensor:
            return torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows

        given = more(torch.cat([call.given for call in calls]))
        told = [call.condition for call in calls if call.condition is not None]
        condition = Condition.stacked(told).each(more) if told else None
        times = {call.timestep for call in calls if isinstance(call.timestep, float)}
        if len(times) == 1 and not any(isinstance(call.timestep, Tensor) for call in calls):
            return _Batch(given, times.pop(), condition)
        return _Batch(given, more(torch.cat([_each_row(call) for call in calls])), condition)


def _each_row(call: _Call) -> Tensor:
    """The timestep of every row, [n]."""
    if isinstance(call.timestep, Tensor):
        return call.timestep
    return torch.full(call.given.shape[:1], call.timestep, device=call.given.device)


class _LaneDenoiser(Denoiser):
    """The denoiser as one lane calls it."""

    def __init__(self, lanes: Lanes, lane: int, whole: Denoiser):
        super().__init__(whole.unet, whole.controls, whole.runtimes)
        self._lanes, self._lane = lanes, lane

    def __call__(self, latents: Tensor, timestep: float | Tensor, condition: Condition) -> Tensor:
        return self._lanes.ask(self._lane, _Call("unet", latents, timestep, condition))


class _LaneAutoencoder(Autoencoder):
    """The autoencoder as one lane calls it."""

    def __init__(self, lanes: Lanes, lane: int, whole: Autoencoder):
        super().__init__(whole.network, whole.cell, whole.runtimes)
        self._lanes, self._lane = lanes, lane
        self.use_tiles: Callable[[], bool] = whole.use_tiles

    def encode(self, pictures: Tensor) -> Tensor:
        return self._lanes.ask(self._lane, _Call("encode", pictures))

    def decode(self, latents: Tensor) -> Tensor:
        return self._lanes.ask(self._lane, _Call("decode", latents))
