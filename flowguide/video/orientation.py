"""How a camera was held: the display matrix of a stream as one of the eight ways to turn and mirror a picture."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame

Pixels = TypeVar("Pixels", bound=np.ndarray[tuple[int, int, int], np.dtype[np.integer[Any]]])


@dataclass(frozen=True)
class Orientation:
    """Transpose first, then flip: the eight orientations of a rectangle."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def mirrored(self) -> bool:
        return self.transpose ^ self.flip_rows ^ self.flip_columns

    @property
    def rotation_degrees(self) -> int:
        """Clockwise turn, after mirroring left and right where `mirrored`."""
        if self.transpose:
            return 90 if self.flip_columns else 270
        return 180 if self.flip_rows else 0

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) as displayed of a picture stored as `size` = (height, width)."""
        return (size[1], size[0]) if self.transpose else size

    def apply(self, rgb: Pixels) -> Pixels:
        """The stored picture [channels, H, W] as it is to be seen, contiguous."""
        if self.transpose:
            rgb = rgb.transpose(0, 2, 1)
        rows = slice(None, None, -1 if self.flip_rows else 1)
        columns = slice(None, None, -1 if self.flip_columns else 1)
        return np.ascontiguousarray(rgb[:, rows, columns])  # type: ignore[return-value]


UPRIGHT = Orientation()
_TURNED = {
    0: UPRIGHT,
    90: Orientation(transpose=True, flip_rows=True),
    180: Orientation(flip_rows=True, flip_columns=True),
    270: Orientation(transpose=True, flip_columns=True),
}
"""By the counter-clockwise degrees that PyAV gives."""


def orientation_of(picture: VideoFrame) -> Orientation | None:
    """The orientation in the display matrix of `picture`, or None where it is no multiple of a quarter turn.

    The matrix sends the stored pixel (x, y) to (a·x + c·y, b·x + d·y), in fixed point 16.16.
    """
    try:
        matrix = picture.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV refuses all side data of a picture when one kind is new to it; it still tells the turn
        return _TURNED.get(picture.rotation % 360)
    if not isinstance(matrix, SideData):
        return UPRIGHT
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))
    if b == c == 0 and a and d:
        return Orientation(flip_rows=d < 0, flip_columns=a < 0)
    if a == d == 0 and b and c:
        return Orientation(transpose=True, flip_rows=b < 0, flip_columns=c < 0)
    return None
