"""Strategy `anchors`: some frames of a shot are painted, the others are carried from the anchors on both sides.

Anchors agree with each other: what an anchor shows of earlier ones is carried to it, and only the rest is its own. A
pixel is always read from the frame in which it was painted (its origin), once, along the composed flow, so nothing
decays on the way. Between two anchors a frame knows the way to an origin from both sides; the two ways are mixed, not
two pictures, so nothing pops or blurs where one anchor hands over to the next. What came into view in between is read
from the next anchor, backward. What neither side knows becomes a picture once: the frame that sees most of it is made
one more anchor, and the others are carried from that too. Only slivers are painted in each frame itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..flow import FlowEstimator
from ..timing import StageClock
from ..types import Frame, Guide
from .detail import detail, restored
from .frame_by_frame import CarriedPixels, Shown
from .frame_state import frame_state, restored_frame
from .paths import Path, paths_between, refined
from .rules import AnchorRule
from .stretch import log_area, soundness, unsqueezed
from .trust import decided, unchanged

MOST_ORIGINS = 4
"""Frames that pixels are read from at a time; those of further ones are painted over into the newest."""
LEAST_OWNED = 0.02
"""Share of the frame below which an origin is given up likewise."""
MOST_UNCOVERED, SLIVER_PX = 0.01, 2
"""Share of a frame that may be unknown from both sides, slivers up to twice as wide not counted."""
SAME_WAY_PX = 1.0
"""Two ways to one origin that end further apart are not mixed."""


@dataclass(frozen=True)
class Known:
    """What other frames say about this one."""

    guide: Guide
    """Carried pixels, with what is not known filled from around it."""
    distance_px: Tensor | None
    """[H, W]: how far each pixel has moved since it was painted; None between anchors, where only slivers are unknown.
    """


Paint = Callable[[Frame, Known | None], Tensor]
"""(frame, what is known of it) -> its own picture, float [3, H, W] in [-1, 1]; what is known of it is not used."""


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
class Origin:
    """A frame in which pixels were painted, as it is seen from an anchor."""

    index: int
    painted: Tensor
    """[7, H, W]: the finished picture, the source's colours when each pixel was painted, and its detail then."""
    path: Path
    """From the anchor to the origin; its confidence is 1 where the anchor's pixels are the origin's."""


@dataclass(frozen=True)
class _View:
    """An origin as it is seen from any frame."""

    origin: Origin
    uv: Tensor
    warped: Tensor
    """[7, H, W]"""
    confidence: Tensor
    share: Tensor
    """[H, W]: how much it counts beside other views."""


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
    ):
        self._estimator = estimator
        self._rule = rule
        self._paint = paint
        self._feather_px, self._paste = feather_px, paste
        self._clock = clock or StageClock()
        self._anchor: Frame | None = None
        self._origins: list[Origin] = []
        self._waiting: list[_Waiting] = []
        self._way: Path | None = None
        """From the last frame that waits to the anchor."""

    def add(self, frame: Frame) -> Iterator[Finished]:
        """Take the next frame of the shot and give out what is finished by it."""
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

    def end_shot(self) -> Iterator[Finished]:
        """Finish what waits, the last frame as an anchor, and begin anew."""
        yield from self.settle()
        self._anchor, self._origins = None, []

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on with the next frame; nothing may wait. Empty where a shot begins anew."""
        if self._anchor is None:
            return {}
        assert not self._waiting, "frames wait for the next anchor"
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
        if state:
            self._anchor = restored_frame(state["anchor"])
            kept = [state["origins"][str(place)] for place in range(len(state["origins"]))]
            self._origins = [Origin(told["index"], told["painted"], Path(told["uv"], told["owned"])) for told in kept]
            self._rule.begin(self._anchor)

    def settle(self) -> Iterator[Finished]:
        """Finish what waits, the last frame as an anchor; the shot may go on."""
        if self._waiting:
            yield from self._next_anchor()

    def _first(self, frame: Frame) -> Finished:
        picture = self._paint(frame, None)
        self._anchor = frame
        self._origins = [_own_origin(frame, picture, torch.ones_like(picture[0]))]
        self._rule.begin(frame)
        return Finished(frame, picture, 0.0, is_anchor=True)

    def _next_anchor(self) -> Iterator[Finished]:
        """Make the last frame that waits an anchor, and finish those before it from both sides."""
        waiting, way = self._waiting, self._way
        self._waiting, self._way = [], None
        assert way is not None
        last = waiting[-1]
        with self._clock("glue"):
            source = _source(last.frame)
            views = [self._drifted_back(last.frame, way, source, origin) for origin in self._origins]
        finished, origins = self._made_anchor(last.frame, source, views)
        yield from self._between(waiting, self._origins, origins)
        self._anchor, self._origins = last.frame, origins
        self._rule.begin(last.frame)
        yield finished

    def _between(
        self, steps: Sequence[_Waiting], before: Sequence[Origin], after: Sequence[Origin]
    ) -> Iterator[Finished]:
        """The frames between two anchors, whose origins are `before` and `after`. The last step is the later anchor."""
        if len(steps) < 2:
            return
        with self._clock("glue"):
            there, back = _ways(steps)
            most = _most_uncovered(there, back)
        if most is None:
            for place, (left, right) in enumerate(zip(there, back, strict=True)):
                frame, progress = steps[place].frame, (place + 1) / len(steps)
                with self._clock("glue"):
                    views = _views_between(_source(frame), left, right, before, after, progress)
                yield self._finish(frame, views, is_anchor=False)[0]
            return
        frame, progress = steps[most].frame, (most + 1) / len(steps)
        with self._clock("glue"):
            source = _source(frame)
            views = _views_between(source, there[most], back[most], before, after, progress)
        finished, origins = self._made_anchor(frame, source, views)
        del there, back, views
        yield from self._between(steps[: most + 1], before, origins)
        yield finished
        yield from self._between(steps[most + 1 :], origins, after)

    def _made_anchor(self, frame: Frame, source: Tensor, views: Sequence[_View]) -> tuple[Finished, list[Origin]]:
        """The finished frame, and the origins of its pixels."""
        finished, carried = self._finish(frame, views, is_anchor=True)
        with self._clock("glue"):
            return finished, _origins_after(frame, source, finished.picture, views, carried)

    def _drifted_back(self, frame: Frame, way: Path, source: Tensor, origin: Origin) -> _View:
        """The view of `origin` from the frame that leads `way` to the last anchor, without the drift of that way."""
        path = way.then(origin.path)
        seen = ops.warp(origin.painted[None, 3:6], path.uv[None])
        path = refined(self._estimator, path, frame, ops.from_model(seen)[0])
        return _view(source, origin, path, torch.ones_like(path.confidence))

    def _finish(self, frame: Frame, views: Sequence[_View], *, is_anchor: bool) -> tuple[Finished, Tensor]:
        """The finished frame, and where its pixels are carried ones, [H, W] in [0, 1]."""
        with self._clock("glue"):
            warped = torch.stack([view.warped for view in views])[None]
            weights = torch.stack([view.confidence * view.share for view in views])[None]
            mixed = ops.composite(warped, weights)[0][0]
            confidence = torch.stack([view.confidence for view in views]).amax(0)
            known = mixed * (confidence > 0)
            filled = ops.fill(known[None, :3], confidence[None])[0]
            prior = restored(filled, known[6].clamp_min(0.0)).clamp(-1.0, 1.0)
        own = self._paint(frame, Known(Guide(prior, confidence), _distance_px(views) if is_anchor else None))
        with self._clock("glue"):
            picture = self._pasted(own, prior, confidence)
            carried = self._pasted(torch.zeros_like(prior[:1]), torch.ones_like(prior[:1]), confidence)[0]
        most = views[int(weights[0].mean((1, 2)).argmax())]
        numbers = torch.tensor([view.origin.index for view in views], device=weights.device)
        painted_in = numbers[weights[0].argmax(0)]
        shown = Shown(Guide(prior, confidence), most.origin.painted[:3], prior, most.uv, painted_in)
        return Finished(frame, picture, float(confidence.mean()), is_anchor, shown), carried

    def _pasted(self, own: Tensor, prior: Tensor, confidence: Tensor) -> Tensor:
        ready = own[None], prior[None], confidence[None]
        return ops.paste(*ready, weight=self._paste, feather_px=self._feather_px)[0]


def _source(frame: Frame) -> Tensor:
    return ops.to_model(frame.rgb[None])[0]


def _own_origin(frame: Frame, picture: Tensor, owned: Tensor) -> Origin:
    return _origin(frame, torch.cat([picture, _source(frame), detail(picture)[None]]), owned)


def _origin(frame: Frame, painted: Tensor, owned: Tensor) -> Origin:
    return Origin(frame.index, painted, Path(painted.new_zeros(2, *painted.shape[1:]), owned))


def _view(source: Tensor, origin: Origin, path: Path, share: Tensor) -> _View:
    warped = ops.warp(origin.painted[None], path.uv[None], mode="bicubic")[0]
    areas = log_area(path.uv)
    confidence = decided(path.confidence * unchanged(source, warped[3:6])) * unsqueezed(areas) * soundness(areas)
    return _View(origin, path.uv, warped, confidence.nan_to_num(), share)


def _distance_px(views: Sequence[_View]) -> Tensor:
    """[H, W]: length of the flow to the origin that counts most."""
    lengths = torch.stack([torch.hypot(view.uv[0], view.uv[1]) for view in views])
    most = torch.stack([view.confidence for view in views]).argmax(0, keepdim=True)
    return lengths.gather(0, most)[0].nan_to_num()


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
    shares = []
    sliver = np.ones((2 * SLIVER_PX + 1,) * 2, np.uint8)
    for left, right in zip(there, back, strict=True):
        hidden = (torch.maximum(left.confidence, right.confidence) < 0.5).cpu().numpy().astype(np.uint8)
        shares.append(float(cv2.morphologyEx(hidden, cv2.MORPH_OPEN, sliver).mean()))
    largest = max(range(len(shares)), key=shares.__getitem__)
    return largest if shares[largest] > MOST_UNCOVERED else None


def _views_between(
    source: Tensor, left: Path, right: Path, before: Sequence[Origin], after: Sequence[Origin], progress: float
) -> list[_View]:
    """Views of all origins of both anchors; those of the later one count as much as there is `progress`."""
    ways_left = {origin.index: (origin, left.then(origin.path)) for origin in before}
    ways_right = {origin.index: (origin, right.then(origin.path)) for origin in after}
    views = []
    for index, (origin, path) in {**ways_left, **ways_right}.items():
        if index in ways_left and index in ways_right:
            path, share = _mixed(ways_left[index][1], ways_right[index][1], progress)
        else:
            share = torch.full_like(path.confidence, progress if index in ways_right else 1.0 - progress)
        views.append(_view(source, origin, path, share))
    return views


def _origins_after(
    frame: Frame, source: Tensor, picture: Tensor, views: Sequence[_View], carried: Tensor
) -> list[Origin]:
    """The origins of the anchor `frame`: the earlier ones that still own enough of it, and itself for the rest."""
    total = torch.stack([view.confidence for view in views]).sum(0).clamp_min(1e-6)
    owned = [(view.confidence / total * carried, view) for view in views]
    owned.sort(key=lambda pair: -float(pair[0].mean()))
    kept: list[Origin] = []
    rest, travels = 1.0 - carried, torch.cat([source, detail(picture)[None]])
    birth = rest * travels
    for share, view in owned:
        birth = birth + share * view.warped[3:]
        if len(kept) < MOST_ORIGINS - 1 and float(share.mean()) > LEAST_OWNED:
            kept.append(replace(view.origin, path=Path(view.uv, share)))
        else:
            rest = rest + share
    return [*kept, _origin(frame, torch.cat([picture, birth]), rest)]


def _mixed(left: Path, right: Path, progress: float) -> tuple[Path, Tensor]:
    """Two ways to one origin as one, and how much it counts; where they end apart, the weightier one."""
    weight_left, weight_right = left.confidence * (1.0 - progress), right.confidence * progress
    total = weight_left + weight_right
    lean = torch.where(total > 0, weight_right / total.clamp_min(1e-6), progress)
    apart = (left.uv - right.uv).square().sum(0) > SAME_WAY_PX**2
    lean = torch.where(apart, (lean > 0.5).to(lean.dtype), lean)
    # Not a lerp: a way that is not known may be NaN, and 0·NaN is NaN.
    uv = torch.where(lean > 0, right.uv * lean, 0.0) + torch.where(lean < 1, left.uv * (1.0 - lean), 0.0)
    confidence = torch.maximum(left.confidence, right.confidence)
    return Path(uv, confidence), torch.where(confidence > 0, total / confidence.clamp_min(1e-6), 0.0)
