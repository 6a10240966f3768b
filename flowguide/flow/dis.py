"""Dense Inverse Search (Kroeger et al., ECCV 2016), as OpenCV has it: the default on a CPU."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UnknownName
from ..types import Frame
from .confidence import Confidence
from .protocol import PairEstimator, field, grey

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "balanced": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
"""OpenCV's own, and "balanced": medium with fewer patches and iterations, two thirds of its time (docs/flow.md)."""

# One 8 px patch on the quarter-size grid where the fast presets end; on less, OpenCV reads outside its memory.
SMALLEST_SIDE_PX = 32


class DIS(PairEstimator):
    """Dense Inverse Search with a preset: ultrafast, fast, balanced or medium."""

    def __init__(self, preset: str = "medium", *, confidence: str | Confidence | None = "check"):
        super().__init__(confidence=confidence)
        if preset not in PRESETS:
            raise UnknownName("DIS preset", preset, PRESETS)
        self.preset = preset

    @property
    def name(self) -> str:
        return f"dis-{self.preset}"

    def displacement(self, at: Frame, to: Frame) -> Tensor:
        return field(search(grey(at), grey(to), self.preset), at)


def search(at: NDArray[np.uint8], to: NDArray[np.uint8], preset: str) -> NDArray[np.float32]:
    """Displacement float32 [H, W, 2] in pixels between two grey pictures uint8 [H, W] of any size."""
    height, width = at.shape
    # OpenCV's object holds the buffers of its last call: one per call keeps this usable from any thread.
    # mypy reads OpenCV's signature as if an initial flow were required.
    dense = cv2.DISOpticalFlow.create(PRESETS[preset])
    if preset == "balanced":
        dense.setPatchStride(4)
        dense.setGradientDescentIterations(12)
        dense.setVariationalRefinementIterations(3)
    uv = dense.calc(_padded(at), _padded(to), None)  # type: ignore[call-overload]
    return np.asarray(uv[:height, :width], dtype=np.float32)


def _padded(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    below = max(0, SMALLEST_SIDE_PX - picture.shape[0])
    right = max(0, SMALLEST_SIDE_PX - picture.shape[1])
    return np.pad(picture, ((0, below), (0, right)), mode="edge") if below or right else picture
