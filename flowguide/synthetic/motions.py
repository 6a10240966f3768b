"""Scenes of one motion each, for tests: what the flow is can be said in a word."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .canvas import noise
from .landscape import moving
from .scene import Array, Layer, Pixels, Scene, Shot

MARGIN_PX = 64
"""Texture beyond the frame on every side."""


def static(size: tuple[int, int], frames: int = 4, seed: int = 0) -> Scene:
    """A textured still picture."""
    return translation(size, (0, 0), frames, seed)


def translation(size: tuple[int, int], shift: tuple[float, float], frames: int = 4, seed: int = 0) -> Scene:
    """A texture that moves by `shift` = (u, v) pixels per frame, bit-exact where the shift is whole."""
    return _single(size, frames, seed, lambda time: moving(shift[0] * time, shift[1] * time))


def zoom(size: tuple[int, int], factor: float, frames: int = 4, seed: int = 0) -> Scene:
    """A texture that grows about the centre by `factor` per frame."""
    return _single(size, frames, seed, lambda time: _about_centre(size, np.diag([factor**time, factor**time, 1.0])))


def rotation(size: tuple[int, int], degrees: float, frames: int = 4, seed: int = 0) -> Scene:
    """A texture that turns clockwise about the centre by `degrees` per frame."""
    return _single(size, frames, seed, lambda time: _about_centre(size, moving(0, 0, degrees * time)))


def crossing(
    size: tuple[int, int], near: tuple[float, float], far: tuple[float, float], frames: int = 4, seed: int = 0
) -> Scene:
    """A textured square in the middle that moves by `near` = (u, v) pixels per frame before a ground that moves by
    `far`: what it hides and uncovers is known."""

    def layers() -> list[Layer]:
        height, width = size
        side = min(size) // 2
        square = _plain_texture(seed + 1, (side, side))
        corner = (width - side) // 2, (height - side) // 2
        ground = _plain_texture(seed, (height + 2 * MARGIN_PX, width + 2 * MARGIN_PX))
        return [
            Layer(ground, lambda time: moving(far[0] * time - MARGIN_PX, far[1] * time - MARGIN_PX)),
            Layer(square, lambda time: moving(near[0] * time + corner[0], near[1] * time + corner[1])),
        ]

    return Scene(size, [Shot(frames, layers)])


def _single(size: tuple[int, int], frames: int, seed: int, motion: Callable[[float], Array]) -> Scene:
    def layers() -> list[Layer]:
        texture = _plain_texture(seed, (size[0] + 2 * MARGIN_PX, size[1] + 2 * MARGIN_PX))
        return [Layer(texture, lambda time: motion(time) @ moving(-MARGIN_PX, -MARGIN_PX))]

    return Scene(size, [Shot(frames, layers)])


def _about_centre(size: tuple[int, int], change: Array) -> Array:
    x, y = (size[1] - 1) / 2, (size[0] - 1) / 2
    return np.asarray(moving(x, y) @ change @ moving(-x, -y))


def _plain_texture(seed: int, shape: tuple[int, int]) -> Pixels:
    """Opaque coloured noise at one texel per pixel, band-limited so that shifts by part of a pixel are faithful."""
    rng = np.random.default_rng(seed)
    channels = [noise(rng, shape, 48, 5) for _ in range(3)]
    rgb = np.clip(np.stack(channels, -1) * 360 - 52, 0, 255)
    return np.concatenate([rgb, np.full((*shape, 1), 255)], -1).astype(np.uint8)
