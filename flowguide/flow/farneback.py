"""Polynomial expansion (Farneback, SCIA 2003), as OpenCV has it, with the constants of sd_animation_optical_flow."""

from __future__ import annotations

import cv2
import numpy as np
from torch import Tensor

from ..types import Frame
from .protocol import PairEstimator, field, grey

CONSTANTS = {
    "pyr_scale": 0.5,
    "levels": 5,
    "winsize": 15,
    "iterations": 3,
    "poly_n": 5,
    "poly_sigma": 1.2,
    "flags": 0,
}


class Farneback(PairEstimator):
    """Farneback's polynomial expansion with the constants of the first flow-guided diffusion systems."""

    @property
    def name(self) -> str:
        return "farneback"

    def displacement(self, at: Frame, to: Frame) -> Tensor:
        # mypy reads OpenCV's signature as if the initial flow were required.
        uv = cv2.calcOpticalFlowFarneback(grey(at), grey(to), None, **CONSTANTS)  # type: ignore[call-overload]
        return field(np.asarray(uv, dtype=np.float32), at)
