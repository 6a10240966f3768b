"""Optical flow: estimators by name, their confidence, shot cuts."""

from __future__ import annotations

from ..errors import UnknownName
from .dis import DIS
from .farneback import Farneback
from .protocol import FlowEstimator, PairEstimator

ESTIMATORS: dict[str, type[FlowEstimator]] = {"dis": DIS, "farneback": Farneback}


def estimator(name: str, **options: object) -> FlowEstimator:
    """The estimator of that name, made with `options`: `estimator("dis", preset="fast")`.

    Raises `UnknownName` with the nearest known name.
    """
    if name not in ESTIMATORS:
        raise UnknownName("flow estimator", name, ESTIMATORS)
    return ESTIMATORS[name](**options)


__all__ = ["DIS", "ESTIMATORS", "Farneback", "FlowEstimator", "PairEstimator", "estimator"]
