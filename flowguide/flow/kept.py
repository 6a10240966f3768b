"""Flow that is asked for more than once is estimated once."""

from __future__ import annotations

from ..types import Flow, Frame
from .protocol import FlowEstimator


class KeptFlows:
    """`estimator`, with the flows between frames kept until `drop`, in both directions.

    Frames are told apart by their pictures and not by their numbers alone: guidance also asks for flow to pictures
    that are no frames of the clip.
    """

    def __init__(self, estimator: FlowEstimator):
        self._estimator = estimator
        self._found: dict[tuple[int, int], tuple[Frame, Frame, Flow, Flow]] = {}

    @property
    def name(self) -> str:
        return self._estimator.name

    def __call__(self, at: Frame, to: Frame) -> Flow:
        return self.both(at, to)[0]

    def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        for first, second in ((at, to), (to, at)):
            known = self._found.get((first.index, second.index))
            if known is not None and known[0].rgb is first.rgb and known[1].rgb is second.rgb:
                return (known[2], known[3]) if first is at else (known[3], known[2])
        flow, back = self._estimator.both(at, to)
        self._found[at.index, to.index] = (at, to, flow, back)
        return flow, back

    def drop(self, at: Frame | None = None) -> None:
        """Forget the flows on the grid of `at`; of all frames where it is None."""
        self._found = {} if at is None else {pair: kept for pair, kept in self._found.items() if kept[0] is not at}
