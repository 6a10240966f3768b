"""Flow that is known, for scenes that were made: an estimator that does not estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ..types import Flow, Frame
from .protocol import require_same_size


class TrueFlow:
    """`flow` gives, for the indices of two frames, the exact flow and which pixels are seen in both: bool [H, W].

    `TrueFlow(scene.flow)` serves for a `flowguide.synthetic.Scene`. Confidence is 1 where a pixel is seen, else 0.
    """

    name = "truth"

    def __init__(self, flow: Callable[[int, int], tuple[Flow, Tensor]]):
        self._flow = flow

    def __call__(self, at: Frame, to: Frame) -> Flow:
        require_same_size(at, to)
        flow, seen = self._flow(at.index, to.index)
        device = at.rgb.device
        return replace(flow, uv=flow.uv.to(device), confidence=seen.float().to(device))

    def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        return self(at, to), self(to, at)

    def __repr__(self) -> str:
        return "<truth>"
