"""Where a frame's content lies in another frame, step by step along the clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..flow import FlowEstimator
from ..types import Flow, Frame
from .trust import TRUST


class Path(NamedTuple):
    """A flow and how far it is believed."""

    uv: Tensor
    """float [2, H, W] in pixels, finite; 0 where it is not known."""
    confidence: Tensor
    """float [H, W] in [0, 1]."""

    def then(self, following: Path) -> Path:
        """This path, and from where it leads the `following` one; the confidences multiply."""
        uv, confidence = ops.compose(
            self.uv[None], following.uv[None], self.confidence[None], following.confidence[None]
        )
        return Path(uv[0], confidence[0])

    def without(self, error: Path) -> Path:
        """This path with the `error` taken off that `drift` has found."""
        weight = error.confidence * (self.confidence > 0.5)
        weight = F.avg_pool2d(weight[None, None], 5, stride=1, padding=2)[0, 0]
        uv, _ = ops.compose((error.uv * weight)[None], self.uv[None])
        return Path(uv[0], self.confidence)


def paths_between(estimator: FlowEstimator, at: Frame, to: Frame) -> tuple[Path, Path]:
    """(from `at` to `to`, from `to` to `at`), believed where the two agree."""
    there, back = estimator.both(at, to)
    if isinstance(there, PathFlow) and isinstance(back, PathFlow):
        return there.path, back.path
    return _paths(there, back)


def _paths(there: Flow, back: Flow) -> tuple[Path, Path]:
    return _agreed(*_believed(there, back)), _agreed(*_believed(back, there))


@dataclass(frozen=True, kw_only=True)
class PathFlow(Flow):
    """A flow with the path that it and the one back make."""

    path: Path


class PathFinder:
    """`estimator`, whose pairs of flows bring their paths: whoever finds flow ahead finds these too."""

    def __init__(self, estimator: FlowEstimator):
        self.estimator = estimator

    @property
    def name(self) -> str:
        return self.estimator.name

    def __call__(self, at: Frame, to: Frame) -> Flow:
        return self.estimator(at, to)

    def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        there, back = self.estimator.both(at, to)
        path, path_back = _paths(there, back)
        return PathFlow(**vars(there), path=path), PathFlow(**vars(back), path=path_back)


def drift(estimator: FlowEstimator, at: Frame, looked: Tensor) -> Path:
    """How far paths that lie on the grid of `at` have drifted, to be taken off by `Path.without`.

    looked: uint8 [3, H, W], the source's colours at the far end of the paths, warped here by them. Flow between the two
    is the error. It is believed from `DRIFT_PX` on, since shorter errors are the estimator's own noise, and up to
    `FARTHEST_PX`.
    """
    error, back = estimator.both(at, Frame(looked, at.index + 1))
    believed, _ = _believed(error, back)
    length = torch.hypot(believed.uv[0], believed.uv[1])
    weight = ((length - DRIFT_PX) / DRIFT_PX).clamp_(0.0, 1.0).mul_(length < FARTHEST_PX)
    return Path(believed.uv, weight.mul_(believed.confidence > 0.5))


DISAGREED_PX = 0.5
"""Difference of both directions up to which their mean is taken."""
DRIFT_PX, FARTHEST_PX = 0.3, 4.0
"""Errors of a composed flow that are taken off, from and to."""


def _believed(flow: Flow, back: Flow) -> tuple[Path, Tensor]:
    """`flow` as far as `back` agrees with it; and `back` where it leads, [2, H, W]."""
    uv = flow.uv
    given = None if flow.confidence is None else flow.confidence[None]
    found = ops.predict(back.uv[None], uv[None], back.uv[None], given_confidence=given, mode="bilinear", settings=TRUST)
    return Path(uv.nan_to_num(0.0, 0.0, 0.0), found.confidence[0]), found.prior[0]


def _agreed(path: Path, back: Tensor) -> Path:
    """`path` halfway between what the two directions say: each has noise of its own. back: as of `_believed`."""
    difference = back.add_(path.uv)
    near = difference.square().sum(0) < DISAGREED_PX**2
    halfway = path.uv - difference.mul_(0.5).nan_to_num_(0.0, 0.0, 0.0).mul_(near)
    return Path(halfway, path.confidence)
