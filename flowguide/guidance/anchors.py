"""Strategy `anchors`: some frames of a shot are painted, the others are carried from the anchors on both sides.

Anchors agree with each other: what an anchor shows of earlier ones is carried to it, and only the rest is its own. A
pixel is always read from the frame in which it was painted (its origin), once, along the composed flow, so nothing
decays on the way. Between two anchors a frame knows the way to an origin from both sides; the two ways are mixed, not
two pictures, so nothing pops or blurs where one anchor hands over to the next. What came into view in between is read
from the next anchor, backward. What neither side knows becomes a picture once: the frame that sees most of it is made
one more anchor, and the others are carried from that too. Only slivers are painted in each frame itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..flow import FlowEstimator
from ..timing import StageClock, span
from ..types import Frame, Guide
from .detail import restored
from .frame_by_frame import CarriedPixels, Shown
from .frame_state import frame_state, restored_frame
from .holes import MOST_UNCOVERED, Window, uncovered
from .paths import Path, drift, paths_between
from .rules import AnchorRule
from .trust import decided
from .views import Origin, Views, Way, origins_after, own_origin, source_of, views_of, ways_between


@dataclass(frozen=True)
class Known:
    """What other frames say about this one."""

    guide: Guide
    """Carried pixels, with what is not known filled from around it."""
    distance_px: Tensor | None
    """[H, W]: how far each pixel has moved since it was painted; None between anchors, where only slivers are unknown.
    """

    def within(self, window: Window) -> Known:
        """The part of it that lies in the `window`."""
        guide = Guide(window.of(self.guide.prior).contiguous(), window.of(self.guide.confidence).contiguous())
        return Known(guide, None if self.distance_px is None else window.of(self.distance_px).contiguous())


class Painted(NamedTuple):
    """A frame's own picture."""

    picture: Tensor
    """float [3, H, W] in [-1, 1]."""
    own: Tensor | None = None
    """bool [H, W]: where it was painted; elsewhere it is filled from around, for this frame alone. None: everywhere."""


Paint = Callable[[Frame, Known | None], Painted]
"""(frame, what is known of it) -> its own picture; what is known of it is not used."""


@dataclass(frozen=True)
class Finished:
    """A finished frame."""

    frame: Frame
    picture: Tensor
    """float [3, H, W] in [-1, 1]."""
    confident_share: float
    """Mean confidence of what was carried here."""
    is_anchor: bool
    carried: CarriedPixels | None = field(default=None, repr=False)
    """What guided it, for those who want to see it."""
    packed: Tensor | None = field(default=None, repr=False)
    """The picture as uint8 [3, H, W], where that is made already."""


@dataclass(frozen=True)
class _Waiting:
    """A frame after the last anchor, not yet finished."""

    frame: Frame
    to_before: Path
    from_before: Path


class Anchors:
    """State and arithmetic of the strategy; one instance per clip.

    Frames go in one by one; finished ones come out in order, as soon as the anchor after them is there. Memory grows
    with the frames between two anchors, not with the clip.
    """

    def __init__(
        self,
        estimator: FlowEstimator,
        rule: AnchorRule,
        paint: Paint,
        *,
        feather_px: int = 1,
        paste: float = 1.0,
        clock: StageClock | None = None,
        threads: int = 1,
        explain: bool = False,
    ):
        """threads: frames between two anchors that are carried at the same time, and beside the painting of the next
        anchor; `paint` is then called by them for slivers. explain: tell with each frame what guided it,
        `Finished.carried`."""
        self._estimator = estimator
        self._rule = rule
        self._paint = paint
        self._feather_px, self._paste = feather_px, paste
        self._explain = explain
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._due: deque[Future[Finished]] = deque()
        """Frames that are begun and not given out, in order."""
        self._clock = clock or StageClock()
        self._anchor: Frame | None = None
        self._origins: list[Origin] = []
        self._waiting: list[_Waiting] = []
        self._way: Path | None = None
        """From the last frame that waits to the anchor."""

    def add(self, frame: Frame) -> Iterator[Finished]:
        """Take the next frame of the shot and give out what is finished by now."""
        if self._anchor is None:
            yield self._first(frame)
            return
        before = self._waiting[-1].frame if self._waiting else self._anchor
        with self._clock("flow"):
            to_before, from_before = paths_between(self._estimator, frame, before)
            self._way = to_before if self._way is None else to_before.then(self._way)
        self._waiting.append(_Waiting(frame, to_before, from_before))
        covered = float(decided(self._way.confidence).mean())
        if self._rule.is_anchor(frame, len(self._waiting), covered):
            yield from self._next_anchor()
        yield from self._given_out(lambda: self._due[0].done())

    def end_shot(self) -> Iterator[Finished]:
        """Finish what waits, the last frame as an anchor, and begin anew."""
        yield from self.settle()
        self._anchor, self._origins = None, []

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on with the next frame; nothing may wait. Empty where a shot begins anew."""
        if self._anchor is None:
            return {}
        assert not [*self._waiting, *self._due], "frames wait for the next anchor"
        origins = {
            str(place): {
                "index": origin.index,
                "painted": origin.painted,
                "uv": origin.path.uv,
                "owned": origin.path.confidence,
            }
            for place, origin in enumerate(self._origins)
        }
        return {"anchor": frame_state(self._anchor), "origins": origins}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._waiting, self._way, self._anchor, self._origins = [], None, None, []
        self._due.clear()
        if state:
            self._anchor = restored_frame(state["anchor"])
            kept = [state["origins"][str(place)] for place in range(len(state["origins"]))]
            self._origins = [Origin(told["index"], told["painted"], Path(told["uv"], told["owned"])) for told in kept]
            self._rule.begin(self._anchor)

    def settle(self) -> Iterator[Finished]:
        """Finish what waits, the last frame as an anchor; the shot may go on."""
        if self._waiting:
            yield from self._next_anchor()
        yield from self._given_out(lambda: True)

    def _first(self, frame: Frame) -> Finished:
        picture = self._paint(frame, None).picture
        self._anchor = frame
        self._origins = [own_origin(frame, picture)]
        self._rule.begin(frame)
        return Finished(frame, picture, 0.0, is_anchor=True)

    def _next_anchor(self) -> Iterator[Finished]:
        """Make the last frame that waits an anchor, and begin those before it, from both sides."""
        waiting, way = self._waiting, self._way
        self._waiting, self._way = [], None
        assert way is not None
        frame = waiting[-1].frame
        with self._clock("glue"):
            ways = self._drifted_back(frame, way)
        finished, origins = self._made_anchor(frame, ways)
        yield from self._given_out(lambda: True)
        with self._carrying():
            self._begin_between(waiting, self._origins, origins)
            self._begin(lambda: finished)
        self._anchor, self._origins = frame, origins
        self._rule.begin(frame)

    def _begin_between(self, steps: Sequence[_Waiting], before: Sequence[Origin], after: Sequence[Origin]) -> None:
        """Begin the frames between two anchors, whose origins are `before` and `after`; the last step is the later
        anchor."""
        if len(steps) < 2:
            return
        with self._clock("glue"):
            there, back = _ways(steps)
            most = _most_uncovered(there, back)

        def ways_of(place: int) -> list[Way]:
            return ways_between(there[place], back[place], before, after, (place + 1) / len(steps))

        if most is None:
            for place, step in enumerate(steps[:-1]):
                self._begin(partial(self._carried, step.frame, partial(ways_of, place)))
            return
        frame = steps[most].frame
        with self._clock("glue"):
            ways = ways_of(most)
        finished, origins = self._made_anchor(frame, ways)
        self._begin_between(steps[: most + 1], before, origins)
        self._begin(lambda: finished)
        self._begin_between(steps[most + 1 :], origins, after)

    @contextmanager
    def _carrying(self) -> Iterator[None]:
        """Threads for what is begun within the block; they end with it, whether anybody waits for it or not."""
        if self._threads == 1:
            yield
            return
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="carry")
        try:
            yield
        finally:
            self._pool.shutdown(wait=False)
            self._pool = None

    def _begin(self, work: Callable[[], Finished]) -> None:
        """Let `work` be done, by a thread where there are any, and given out in its turn."""
        if self._pool is not None:
            self._due.append(self._pool.submit(copy_context().run, _traced, work))
            return
        done: Future[Finished] = Future()
        with self._clock("glue"):
            done.set_result(work())
        self._due.append(done)

    def _given_out(self, wanted: Callable[[], bool]) -> Iterator[Finished]:
        """Frames in order, while there are any and they are `wanted`."""
        while self._due and wanted():
            with self._clock("glue"):
                finished = self._due.popleft().result()
            yield finished

    def _made_anchor(self, frame: Frame, ways: Sequence[Way]) -> tuple[Finished, list[Origin]]:
        """The finished frame, and the origins of its pixels."""
        with self._clock("glue"):
            source = source_of(frame)
            views = views_of(source, ways)
            guide = _guide(views)
        painted = self._paint(frame, Known(guide, views.distance_px()))
        with self._clock("glue"):
            finished = self._finished(frame, views, guide, painted.picture, is_anchor=True)
            ones = torch.ones_like(source[:1])
            carried = self._pasted(torch.zeros_like(ones), Guide(ones, guide.confidence))[0]
            own = 1.0 - carried if painted.own is None else (1.0 - carried) * painted.own
            return finished, origins_after(frame, source, finished.picture, views, carried, own)

    def _carried(self, frame: Frame, ways: Callable[[], Sequence[Way]]) -> Finished:
        """The frame between anchors, of which only slivers are unknown."""
        views = views_of(source_of(frame), ways())
        guide = _guide(views)
        return self._finished(frame, views, guide, self._paint(frame, Known(guide, None)).picture, is_anchor=False)

    def _drifted_back(self, frame: Frame, way: Path) -> list[Way]:
        """The ways of `frame`, which leads `way` to the last anchor, to all origins, without the drift of that way."""
        paths = [way.then(origin.path) for origin in self._origins]
        seen = [
            ops.warp(origin.painted[None, 3:6], path.uv[None])[0]
            for origin, path in zip(self._origins, paths, strict=True)
        ]
        believed = torch.stack([path.confidence for path in paths])
        # One flow for all of them: each place as it looked in the frame it was painted in.
        looked = ops.composite(torch.stack(seen)[None], believed[None])[0][0]
        looked = torch.where(believed.amax(0) > 0, looked, source_of(frame))
        error = drift(self._estimator, frame, ops.from_model(looked[None])[0])
        return [Way(origin, path.without(error), 1.0) for origin, path in zip(self._origins, paths, strict=True)]

    def _finished(self, frame: Frame, views: Views, guide: Guide, own: Tensor, *, is_anchor: bool) -> Finished:
        share = float(guide.confidence.mean())
        shown = _shown(guide, views) if self._explain else None
        return Finished(frame, self._pasted(own, guide), share, is_anchor, shown)

    def _pasted(self, own: Tensor, guide: Guide) -> Tensor:
        ready = own[None], guide.prior[None], guide.confidence[None]
        return ops.paste(*ready, weight=self._paste, feather_px=self._feather_px)[0]


def _traced(work: Callable[[], Finished]) -> Finished:
    with span("carry"):
        return work()


def _shown(guide: Guide, views: Views) -> Shown:
    most = views.most()
    return Shown(guide, most.origin.painted[:3], guide.prior, most.path.uv, views.painted_in())


def _guide(views: Views) -> Guide:
    """The carried pixels with the detail they were painted with, and what is not known filled from around it."""
    known, confidence = views.mixed()
    filled = ops.fill(known[None, :3], confidence[None])[0]
    return Guide(restored(filled, known[6].clamp_min(0.0)).clamp_(-1.0, 1.0), confidence)


def _ways(steps: Sequence[_Waiting]) -> tuple[list[Path], list[Path]]:
    """From each frame between two anchors to the one before and to the one after; the last step is the latter."""
    there = _chain([step.to_before for step in steps[:-1]])
    return there, _chain([step.from_before for step in steps[:0:-1]])[::-1]


def _chain(steps: Sequence[Path]) -> list[Path]:
    """The steps composed up to each; they lead away from where the chain began."""
    composed: list[Path] = []
    for path in steps:
        composed.append(path.then(composed[-1]) if composed else path)
    return composed


def _most_uncovered(there: Sequence[Path], back: Sequence[Path]) -> int | None:
    """The frame that sees most of what neither anchor shows; None where all see less than MOST_UNCOVERED."""
    shares = [
        float(uncovered(torch.maximum(left.confidence, right.confidence)).float().mean())
        for left, right in zip(there, back, strict=True)
    ]
    largest = max(range(len(shares)), key=shares.__getitem__)
    return largest if shares[largest] > MOST_UNCOVERED else None
