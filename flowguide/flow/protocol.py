"""What an optical-flow estimator is, and the part that most of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UsageError
from ..types import Flow, Frame
from .confidence import Confidence, confidence_measure
from .learned import judged, weights_digest


@runtime_checkable
class FlowEstimator(Protocol):
    """Finds where the content of one frame lies in another.

    Both calls return `Flow`s on the grid of the frame named first, in pixels, with confidence in [0, 1], on that
    frame's device. Frames of different sizes raise `UsageError`. An estimator holds no state between calls, and its
    result does not depend on the number of threads.
    """

    @property
    def name(self) -> str:
        """What result files call it, such as 'dis-medium'."""
        ...

    def __call__(self, at: Frame, to: Frame) -> Flow:
        """The flow from `at` to `to`."""
        ...

    def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        """(flow from `at` to `to`, flow from `to` to `at`), each estimated, neither negated."""
        ...


class PairEstimator(ABC):
    """An estimator that computes one displacement field per call and derives confidence from both directions.

    `confidence` names the measure (see `flowguide.flow.confidence`); None leaves the flows without one, for callers
    that measure it themselves.
    """

    def __init__(self, *, confidence: str | Confidence | None = "check"):
        self.confidence = None if confidence is None else confidence_measure(confidence)
        self.device: torch.device | None = None
        """Where a network runs; without it, where the frames are."""
        self.runtime = "torch"
        """What runs a network, by name; see `run_by`."""
        self._measure = confidence if isinstance(confidence, str) else None if confidence else "none"

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    def key(self) -> str | None:
        """All that its results depend on beside the frames; None where that cannot be told."""
        if self._measure is None:
            return None
        weights = weights_digest() if self._measure == "learned" else ""
        return f"{self.name} {self._measure} {weights} opencv-{cv2.__version__}"

    def run_by(self, runtime: str, device: torch.device) -> None:
        """Run the estimator's network by another runtime than plain PyTorch, on `device`.

        Raises UsageError for an estimator that is no network, BackendMissing where the runtime cannot be used here.
        """
        raise UsageError(
            f"The flow runtime {runtime!r} runs networks, flowguide-flow and onnx:FILE; {self.name} is none of them."
        )

    @abstractmethod
    def displacement(self, at: Frame, to: Frame) -> Tensor:
        """float32 [2, H, W]: where the content of `at` lies in `to`, in pixels, relative to each pixel."""

    def displacements(self, at: Frame, to: Frame) -> tuple[Tensor, Tensor]:
        """`displacement` in both directions; for estimators that find them together."""
        return self.displacement(at, to), self.displacement(to, at)

    def __call__(self, at: Frame, to: Frame) -> Flow:
        if self.confidence is not None:
            return self._with_confidence(at, to, *self._two_ways(at, to))
        require_same_size(at, to)
        return Flow(self.displacement(at, to), at.index, to.index)

    def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        uv, back = self._two_ways(at, to)
        return self._with_confidence(at, to, uv, back), self._with_confidence(to, at, back, uv)

    @property
    def at_once(self) -> int:
        """How many pairs `several` finds faster together than one by one."""
        return 1

    def several(self, pairs: Sequence[tuple[Frame, Frame]]) -> list[tuple[Flow, Flow]]:
        """`both` of each pair."""
        return [self.both(at, to) for at, to in pairs]

    def _two_ways(self, at: Frame, to: Frame) -> tuple[Tensor, Tensor]:
        require_same_size(at, to)
        return self.displacements(at, to)

    def _with_confidence(self, at: Frame, to: Frame, uv: Tensor, back: Tensor) -> Flow:
        if self._measure == "learned":
            return Flow(uv, at.index, to.index, *judged(at, to, uv, back))
        measured = None if self.confidence is None else self.confidence(at, to, uv, back)
        return Flow(uv, at.index, to.index, measured)

    def __repr__(self) -> str:
        return f"<{self.name}>"


def require_same_size(at: Frame, to: Frame) -> None:
    """Raises `UsageError` where two frames cannot be compared pixel by pixel."""
    if at.size != to.size:
        raise UsageError(
            f"Optical flow needs two frames of one size; frame {at.index} is {_size(at)} and frame {to.index} is "
            f"{_size(to)} (height x width). Resize one of them."
        )


def _size(frame: Frame) -> str:
    return f"{frame.size[0]}x{frame.size[1]}"


def grey(frame: Frame) -> NDArray[np.uint8]:
    """The frame's luma as uint8 [H, W] in memory: Rec. 601 weights, as OpenCV has them."""
    rgb = frame.rgb.permute(1, 2, 0).contiguous().cpu().numpy()
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def field(displacement: NDArray[np.float32], like: Frame) -> Tensor:
    """OpenCV's [H, W, 2] as our float32 [2, H, W] on the device of `like`."""
    return torch.from_numpy(displacement).permute(2, 0, 1).contiguous().to(like.rgb.device)
