"""Optical flow: estimators by name, their confidence, shot cuts."""

from __future__ import annotations

from typing import Any

from ..errors import UnknownName, UsageError
from .cache import CachedFlow
from .dis import DIS
from .farneback import Farneback
from .files import FlowFiles
from .filled import FilledDIS
from .flowguide_flow import NetworkFlow
from .onnx import OnnxFlow
from .protocol import FlowEstimator, PairEstimator
from .raft import RaftLarge, RaftSmall
from .truth import TrueFlow
from .user import UserFlow

ESTIMATORS: dict[str, type[PairEstimator]] = {
    "dis": DIS,
    "dis-filled": FilledDIS,
    "farneback": Farneback,
    "files": FlowFiles,
    "onnx": OnnxFlow,
    "flowguide-flow": NetworkFlow,
    "raft-small": RaftSmall,
    "raft-large": RaftLarge,
}
"""Name -> class. What follows a colon in the name is the first argument: "dis:fast", "files:PATTERN", "onnx:PATH"."""
NAMES_A_FILE = {"files": "'files:flow/{at:05d}-{to:05d}.flo'", "onnx": "'onnx:network.onnx'"}
"""Estimators that are nothing without a file, with how they are written."""


def estimator(name: str, **options: Any) -> FlowEstimator:
    """The estimator of that name, made with `options`: `estimator("dis", preset="fast")`, the same as "dis:fast".

    A name "module:function" or "file.py:function" that is not in the table is a user's own (see `UserFlow`).
    Raises UnknownName with the nearest known name, and UsageError for options that the estimator does not take.
    """
    known, _, argument = name.partition(":")
    if known not in ESTIMATORS:
        if argument:
            return UserFlow(name, **options)
        raise UnknownName("flow estimator", name, ESTIMATORS)
    if known in NAMES_A_FILE and not argument and not options.keys() & {"pattern", "path"}:
        raise UsageError(
            f"The flow estimator {known!r} reads from files; name them after a colon, {NAMES_A_FILE[known]}."
        )
    arguments = (argument,) if argument else ()
    try:
        return ESTIMATORS[known](*arguments, **options)
    except TypeError as error:
        raise UsageError(f"The flow estimator {name!r} cannot be made so: {error}.") from error


__all__ = [
    "DIS",
    "ESTIMATORS",
    "CachedFlow",
    "Farneback",
    "FilledDIS",
    "FlowEstimator",
    "FlowFiles",
    "NetworkFlow",
    "OnnxFlow",
    "PairEstimator",
    "RaftLarge",
    "RaftSmall",
    "TrueFlow",
    "UserFlow",
    "estimator",
]
