"""Steadies a clip that is already painted: the guidance room with the pictures given instead of generated.

No model: what cannot be carried from another frame is taken from the frame's own given picture. Every pixel of the
result is a given pixel, moved; none is invented.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from . import ops
from .config import SteadyConfig
from .errors import UsageError
from .flow import FlowEstimator, estimator
from .flow.lookahead import Ahead
from .flow.shots import CutDetector
from .guidance.anchors import Anchors, Finished, Known, Painted
from .guidance.paths import PathFinder
from .guidance.rules import anchor_rule
from .machine import threads_beside
from .seams import joined
from .timing import StageClock
from .types import Frame


class Steadier:
    """Makes a painted clip as steady as its source; one instance per clip.

    for finished in Steadier()(source_frames, painted_frames): ...

    Both give frames of one size, the same number of them, each painted frame beside its source.
    """

    def __init__(
        self,
        config: SteadyConfig | None = None,
        *,
        flow: FlowEstimator | None = None,
        cuts: CutDetector | None = None,
    ):
        self.config = config or SteadyConfig()
        self.clock = StageClock()
        self.shots = 0
        self.anchors: list[int] = []
        """Numbers of the frames that became anchors."""
        self._cuts = cuts or CutDetector()
        # Without a measure of its own: the strategy judges both directions itself.
        found_by = flow or estimator(self.config.flow, confidence=None)
        self._flow = Ahead(PathFinder(found_by), self.config.anchor_frames, prepare=lambda frame: frame)
        self._rule = anchor_rule(self.config.anchors, self.config.anchor_frames)
        self._anchors = Anchors(
            self._flow,
            self._rule,
            self._given_picture,
            feather_px=self.config.feather_px,
            clock=self.clock,
            threads=threads_beside(torch.device("cpu")),
        )
        self._given: dict[int, Frame] = {}

    @property
    def flow_name(self) -> str:
        """Name of the flow estimator in use."""
        return self._flow.name

    def __call__(self, source: Iterable[Frame], painted: Iterable[Frame]) -> Iterator[Finished]:
        """The finished frames in order. Ends with the shorter of the two. Raises UsageError for different sizes."""
        for frame, given in self.ahead(zip(source, painted, strict=False)):
            yield from self.add(frame, given)
        yield from self.end()

    def ahead(self, pairs: Iterable[tuple[Frame, Frame]]) -> Iterator[tuple[Frame, Frame]]:
        """The `pairs` for `add`, read by a thread that finds the flow of the source before it is needed."""
        painted: deque[Frame] = deque()

        def source() -> Iterator[Frame]:
            for frame, given in pairs:
                painted.append(given)
                yield frame

        with self._flow.over(source()) as frames:
            for frame in frames:
                yield frame, painted.popleft()

    def add(self, frame: Frame, given: Frame) -> Iterator[Finished]:
        """Take the next source frame and its painted picture; give out what is finished by it, perhaps nothing."""
        if frame.size != given.size:
            raise UsageError(
                f"Source frame {frame.index} is {_told(frame)} and its painted picture {_told(given)} (height x "
                "width); scale one of them."
            )
        with self.clock("cuts"):
            begins = self._cuts.is_cut(frame) or not self.shots
        if begins:
            yield from self.end()
            self.shots += 1
        self._given[frame.index] = given
        yield from self._noted(self._anchors.add(frame))

    def end(self) -> Iterator[Finished]:
        """Finish what waits; the next frame begins a new shot."""
        yield from self._noted(self._anchors.end_shot())

    def settle(self) -> Iterator[Finished]:
        """Finish what waits, the last frame as an anchor; the shot may go on."""
        yield from self._noted(self._anchors.settle())

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on with the next frame, bit by bit; nothing may wait (see `settle`)."""
        return {"shots": self.shots, "cuts": self._cuts.state(), "guidance": self._anchors.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on after the frame at which `state` was taken, with the same settings and the same clips."""
        self.shots = state["shots"]
        self._given.clear()
        self._cuts.restore(state["cuts"])
        self._anchors.restore(state["guidance"])

    def _noted(self, finished: Iterator[Finished]) -> Iterator[Finished]:
        for done in finished:
            del self._given[done.frame.index]
            if done.is_anchor:
                self.anchors.append(done.frame.index)
            yield done

    def _given_picture(self, frame: Frame, known: Known | None) -> Painted:
        given = ops.to_model(self._given[frame.index].rgb[None].to(frame.rgb.device))[0]
        return Painted(given if known is None else joined(given, known.guide.prior, known.guide.confidence))


def _told(frame: Frame) -> str:
    return f"{frame.size[0]}x{frame.size[1]}"
