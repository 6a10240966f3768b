"""Where a frame's content lies in another frame, step by step along the clip."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..flow import FlowEstimator
from ..types import Flow, Frame
from .trust import TRUST


class Path(NamedTuple):
    """A flow and how far it is believed."""

    uv: Tensor
    """float [2, H, W] in pixels."""
    confidence: Tensor
    """float [H, W] in [0, 1]."""

    def then(self, following: Path) -> Path:
        """This path, and from where it leads the `following` one; the confidences multiply."""
        uv, confidence = ops.compose(
            self.uv[None], following.uv[None], self.confidence[None], following.confidence[None]
        )
        return Path(uv[0], confidence[0])


def paths_between(estimator: FlowEstimator, at: Frame, to: Frame) -> tuple[Path, Path]:
    """(from `at` to `to`, from `to` to `at`), believed where the two agree."""
    there, back = estimator.both(at, to)
    paths = _believed(there, back), _believed(back, there)
    return _agreed(*paths), _agreed(*paths[::-1])


def refined(estimator: FlowEstimator, path: Path, at: Frame, seen: Tensor) -> Path:
    """`path` with what it has drifted taken off.

    at: the frame on whose grid the path lies. seen: uint8 [3, H, W], the source's colours at the far end of the path,
    warped here by it. Flow between the two is the error of the path. It is believed from `DRIFT_PX` on, since shorter
    errors are the estimator's own noise, and up to `FARTHEST_PX`.
    """
    error, back = estimator.both(at, Frame(seen, at.index + 1))
    believed = _believed(error, back)
    length = torch.hypot(believed.uv[0], believed.uv[1])
    weight = ((length - DRIFT_PX) / DRIFT_PX).clamp(0.0, 1.0)
    weight = weight * (believed.confidence * path.confidence > 0.5) * (length < FARTHEST_PX)
    ones = torch.ones_like(weight)
    weight = torch.nn.functional.avg_pool2d(weight[None, None], 5, stride=1, padding=2)[0, 0]
    uv, _ = ops.compose((believed.uv.nan_to_num() * weight)[None], path.uv[None], ones[None], ones[None])
    return Path(uv[0], path.confidence)


DISAGREED_PX = 0.5
"""Difference of both directions up to which their mean is taken."""
DRIFT_PX, FARTHEST_PX = 0.3, 4.0
"""Errors of a composed flow that are taken off, from and to."""


def _believed(flow: Flow, back: Flow) -> Path:
    uv = flow.uv
    given = None if flow.confidence is None else flow.confidence[None]
    found = ops.predict(uv[None, :1], uv[None], back.uv[None], given_confidence=given, mode="bilinear", settings=TRUST)
    return Path(uv, found.confidence[0])


def _agreed(path: Path, back: Path) -> Path:
    """`path` halfway between what the two directions say: each has noise of its own."""
    difference = path.uv + ops.warp(back.uv[None], path.uv[None])[0]
    near = difference.square().sum(0) < DISAGREED_PX**2
    return Path(torch.where(near, path.uv - 0.5 * difference, path.uv), path.confidence)
