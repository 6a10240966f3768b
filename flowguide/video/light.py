"""Codes of pictures to light and back, for files that hold light."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt


@cache
def srgb_light() -> npt.NDArray[np.float32]:
    """Light, 0 to 1, for every 16-bit code: the curve of IEC 61966-2-1."""
    code = np.arange(65536) / 65535
    return np.asarray(np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4), np.float32)


def srgb_codes(light: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint16]:
    """The inverse, light outside 0 to 1 clipped."""
    if light.dtype == np.float16:
        return _codes_of_halves()[np.ascontiguousarray(light).view(np.uint16)]
    light = np.clip(np.nan_to_num(light.astype(np.float32)), 0, 1)
    code = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(code * 65535), np.uint16)


@cache
def _codes_of_halves() -> npt.NDArray[np.uint16]:
    """The 16-bit code for each of the half floats, by its bits."""
    return srgb_codes(np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32))
