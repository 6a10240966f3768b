"""A user's own estimator: any Python function of two pictures."""

from __future__ import annotations

import importlib
import importlib.util
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..types import Frame
from .confidence import Confidence
from .protocol import PairEstimator


class UserFlow(PairEstimator):
    """`address` is "module:function" or "path/to/file.py:function".

    The function is called with two pictures, uint8 [3, H, W] RGB, and returns where the content of the first lies in
    the second: a tensor or array [2, H, W] in pixels, u right, v down. It may have `both(first, second)` as an
    attribute, which returns both directions. Raises UsageError where it cannot be found, fails or returns otherwise.
    """

    def __init__(self, address: str, *, confidence: str | Confidence | None = "check"):
        super().__init__(confidence=confidence)
        place, _, name = address.rpartition(":")
        module = _module(place, address)
        function = getattr(module, name, None)
        if not callable(function):
            raise UsageError(f"{place} has no function {name!r}, which the flow estimator {address!r} names.")
        self.address = address
        self._function: Callable[[Tensor, Tensor], Any] = function

    @property
    def name(self) -> str:
        return self.address

    @property
    def key(self) -> None:
        return None

    def displacement(self, at: Frame, to: Frame) -> Tensor:
        return self._as_flow(self._called(self._function, at, to), at)

    def displacements(self, at: Frame, to: Frame) -> tuple[Tensor, Tensor]:
        function = getattr(self._function, "both", None)
        if function is None:
            return super().displacements(at, to)
        answer = self._called(function, at, to)
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise UsageError(f"{self.address}.both should return two flows, got {type(answer).__name__}.")
        return self._as_flow(answer[0], at), self._as_flow(answer[1], to)

    def _called(self, function: Callable[[Tensor, Tensor], Any], at: Frame, to: Frame) -> Any:
        try:
            return function(at.rgb, to.rgb)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise UsageError(
                f"The flow estimator {self.address} failed at {place.filename}:{place.lineno}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _as_flow(self, answer: Any, at: Frame) -> Tensor:
        expected = (2, *at.size)
        try:
            uv = torch.as_tensor(answer, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"{self.address} should return a flow {expected}, got {type(answer).__name__}.") from error
        if tuple(uv.shape) != expected:
            raise UsageError(f"{self.address} should return a flow {expected}, got {tuple(uv.shape)}.")
        return uv.to(at.rgb.device)


def _module(place: str, address: str) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        if spec is None or spec.loader is None:
            raise ImportError(f"{place} cannot be loaded")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except Exception as error:
        raise UsageError(f"The flow estimator {address!r} cannot be loaded: {type(error).__name__}: {error}") from error
