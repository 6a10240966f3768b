"""A frame as plain values that a run keeps, and back."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from ..types import Frame


def frame_state(frame: Frame) -> dict[str, Any]:
    """Tensor and numbers of `frame`."""
    time_base = [frame.time_base.numerator, frame.time_base.denominator]
    return {"rgb": frame.rgb, "index": frame.index, "pts": frame.pts, "time_base": time_base}


def restored_frame(state: Mapping[str, Any]) -> Frame:
    """The frame that `frame_state` told of."""
    return Frame(state["rgb"], state["index"], state["pts"], Fraction(*state["time_base"]))
