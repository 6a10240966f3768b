"""How long the flow of a pair of frames takes, both ways, by every estimator that is here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import FlowguideError
from ..flow import estimator
from ..pictures import padded
from ..types import Frame

ESTIMATORS = ("dis", "dis-filled", "farneback", "flowguide-flow", "raft-small", "raft-large")
"""OpenCV's two, our own two, torchvision's two (random weights where none are given: their speed is the same)."""

RAFT_GRID = 8
"""Its pictures' sides are multiples of this."""


def flow_rows(frames: Sequence[Frame], device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """A row per estimator: median and range of the milliseconds for a pair, or why it was not measured."""
    sides: dict[str, Callable[[], object]] = {}
    reasons: dict[str, str] = {}
    for name in ESTIMATORS:
        try:
            sides[name] = _side(name, frames, device)
            sides[name]()
        except (FlowguideError, RuntimeError, ImportError, ValueError) as error:
            sides.pop(name, None)
            reasons[name] = str(error).splitlines()[0]
    took: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            began = time.perf_counter()
            sides[name]()
            took[name].append(1000 * (time.perf_counter() - began))
    rows: list[dict[str, Any]] = [
        {"flow": name, "ms": statistics.median(times), "ms_range": [min(times), max(times)]}
        for name, times in took.items()
    ]
    return rows + [{"flow": name, "reason": reason} for name, reason in reasons.items()]


def _side(name: str, frames: Sequence[Frame], device: torch.device) -> Callable[[], object]:
    if name.startswith("raft"):
        return _raft(name, frames, device)
    found: Any = estimator(name)
    if hasattr(found, "device"):
        found.device = device
    return lambda: found.both(frames[1], frames[0])


def _raft(name: str, frames: Sequence[Frame], device: torch.device) -> Callable[[], object]:
    from torchvision.models.optical_flow import raft_large, raft_small

    network = (raft_small if name == "raft-small" else raft_large)(weights=None).eval().to(device)
    pair = torch.stack([padded(frame, RAFT_GRID).rgb for frame in frames[:2]]).to(device).float() / 127.5 - 1

    @torch.inference_mode()
    def both() -> object:
        found = network(pair, pair.flip(0))[-1]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return found

    return both
