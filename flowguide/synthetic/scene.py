"""Scenes whose optical flow and occlusion are known exactly, made of moving layers by our own code.

A scene is a list of shots, a shot a stack of layers from back to front, a layer a texture with transparency and a
matrix for every moment that says where its texels lie on the screen. Pixel (x, y) has its centre at integer (x, y).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flowguide.errors import UsageError
from flowguide.types import Flow, Frame

Array = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

TEXELS_PER_PIXEL = 2
"""Density of textures at zoom 1: bilinear sampling of twice the screen's density neither blurs nor aliases."""
ROUNDING_PX = 1e-6
"""What the matrices' arithmetic may miss a pixel centre by."""


@dataclass(frozen=True)
class Layer:
    """A picture with transparency, and where it is."""

    texture: Pixels
    """[h, w, 4] RGBA, premultiplied, free of detail finer than two texels."""
    place: Callable[[float], Array]
    """Frame number within the shot → 3x3 affine matrix from texel (x, y, 1) to pixel (x, y, 1)."""

    @cached_property
    def levels(self) -> list[Pixels]:
        """The texture at full, half, quarter… density."""
        levels = [self.texture]
        while min(levels[-1].shape[:2]) > 16:
            smaller = cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            levels.append(np.asarray(smaller, np.uint8))
        return levels


@dataclass(frozen=True)
class Shot:
    """Frames without a cut."""

    frames: int
    layers: Callable[[], Sequence[Layer]]
    """Makes the layers, back to front; called when the shot is first looked at."""


class Scene:
    """Shots one after the other, rendered at `size` = (height, width). Frames are counted from 0 over all shots."""

    def __init__(self, size: tuple[int, int], shots: Sequence[Shot]) -> None:
        self.size = size
        self._shots = list(shots)
        self._starts = np.cumsum([0] + [shot.frames for shot in self._shots]).tolist()
        self._built: tuple[int, Sequence[Layer]] | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def cuts(self) -> list[int]:
        """First frame of every shot but the first."""
        return [int(start) for start in self._starts[1:-1]]

    def frame(self, index: int) -> Tensor:
        """Frame `index` as uint8 RGB [3, H, W]. Raises UsageError outside the scene."""
        number, time = self._locate(index)
        height, width = self.size
        screen = np.zeros((height, width, 3), np.float32)
        for layer in self._layers(number):
            rgba = _render(layer, layer.place(time), self.size).astype(np.float32)
            screen *= 1 - rgba[..., 3:] / 255
            screen += rgba[..., :3]
        pixels = np.clip(screen + 0.5, 0, 255).astype(np.uint8)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def flow(self, at: int, to: int) -> tuple[Flow, Tensor]:
        """The exact flow from frame `at` to frame `to` of one shot, and which pixels of `at` are seen in `to`.

        `uv` [2, H, W] is the motion of the topmost layer that covers at least half of a pixel. The second result is
        bool [H, W]: True where that content lies inside frame `to` and no nearer layer covers half of it there.
        Raises UsageError where the two frames are of different shots.
        """
        number, time_at = self._locate(at)
        other, time_to = self._locate(to)
        if number != other:
            raise UsageError(f"Frames {at} and {to} are of different shots; there is no flow between them.")
        layers = self._layers(number)
        height, width = self.size
        y, x = np.asarray(np.indices((height, width)), np.float64)
        top = self._topmost(layers, time_at, x, y)
        moved_x, moved_y = x.copy(), y.copy()
        for depth, layer in enumerate(layers):
            moved = _apply(layer.place(time_to) @ _inverse(layer.place(time_at)), x, y)
            moved_x[top == depth] = moved[0][top == depth]
            moved_y[top == depth] = moved[1][top == depth]
        inside = _within(moved_x, width) & _within(moved_y, height)
        seen = inside & (self._topmost(layers, time_to, moved_x, moved_y) <= top)
        uv = torch.from_numpy(np.stack([moved_x - x, moved_y - y]).astype(np.float32))
        return Flow(uv, at=at, to=to), torch.from_numpy(seen)

    def frames(self, time_base: Fraction = Fraction(1, 24)) -> Iterator[Frame]:
        """All frames in order, pts counting up by one."""
        for index in range(len(self)):
            yield Frame(self.frame(index), index, pts=index, time_base=time_base)

    def _topmost(self, layers: Sequence[Layer], time: float, x: Array, y: Array) -> npt.NDArray[np.int64]:
        """Number of the nearest layer that covers at least half of each point; the farthest where none does."""
        top = np.zeros(x.shape, np.int64)
        for depth, layer in enumerate(layers):
            over = _apply(_inverse(layer.place(time)), x, y)
            alpha = cv2.remap(
                layer.texture[..., 3].astype(np.float32),
                over[0].astype(np.float32),
                over[1].astype(np.float32),
                cv2.INTER_LINEAR,
            )
            top[alpha >= 127.5] = depth
        return top

    def _locate(self, index: int) -> tuple[int, float]:
        if not 0 <= index < len(self):
            raise UsageError(f"The scene has frames 0 to {len(self) - 1}, got {index}.")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, float(index - self._starts[number])

    def _layers(self, number: int) -> Sequence[Layer]:
        if self._built is None or self._built[0] != number:
            self._built = number, self._shots[number].layers()
        return self._built[1]


def _render(layer: Layer, place: Array, size: tuple[int, int]) -> Pixels:
    """The layer alone on the screen, sampled from the level whose density suits the magnification."""
    shrink = 1 / np.sqrt(abs(np.linalg.det(place[:2, :2])))
    level = int(np.clip(np.floor(np.log2(max(shrink, 1e-6) / TEXELS_PER_PIXEL) + 0.5), 0, len(layer.levels) - 1))
    factor = 2.0**level
    texels_of_level = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
    back = _inverse(place @ texels_of_level)[:2]
    height, width = size
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(layer.levels[level], back, (width, height), flags=flags), np.uint8)


def _within(position: Array, length: int) -> npt.NDArray[np.bool_]:
    return (position > -ROUNDING_PX) & (position < length - 1 + ROUNDING_PX)


def _inverse(matrix: Array) -> Array:
    return np.asarray(np.linalg.inv(matrix), np.float64)


def _apply(matrix: Array, x: Array, y: Array) -> tuple[Array, Array]:
    rows = [row[0] * x + row[1] * y + row[2] for row in matrix[:2].tolist()]
    return rows[0], rows[1]
