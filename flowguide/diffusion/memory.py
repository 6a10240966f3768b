"""What to do when memory runs out: step down a ladder, say each rung, and only then give up."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

log = logging.getLogger("flowguide.diffusion")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Rung:
    """One way to need less memory."""

    says: str
    """What the log says once it is taken."""
    take: Callable[[], bool]
    """Do it; False where there is nothing left to gain here."""


class MemoryLadder:
    """Runs work; when memory runs out it takes the next rung and tries again.

    The last error is raised unchanged when no rung is left. Results after a rung may differ in the last bits.
    """

    def __init__(self, rungs: Sequence[Rung]):
        self._rungs = list(rungs)
        self._taken: list[str] = []

    @property
    def taken(self) -> list[str]:
        """What the rungs taken so far say, in order."""
        return list(self._taken)

    def take(self, says: Sequence[str]) -> None:
        """Take the rungs that `taken` told of, as a run that goes on after them does."""
        for rung in self._rungs:
            if rung.says in says and rung.says not in self._taken and rung.take():
                self._taken.append(rung.says)

    def __call__(self, work: Callable[[], Result]) -> Result:
        while True:
            try:
                return work()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or not self._step_down():
                    raise

    def _step_down(self) -> bool:
        while self._rungs:
            rung = self._rungs[0]
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if rung.take():
                log.warning("Memory ran out; from now on: %s.", rung.says)
                if rung.says not in self._taken:
                    self._taken.append(rung.says)
                return True
            self._rungs.pop(0)
        return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the device or the host has no memory left."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
