"""The demo film: the landscape's shots before a camera, and written to a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from flowguide.video import ClipWriter

from . import landscape
from .scene import Array, Layer, Scene, Shot

LAKE_FRAMES, DUSK_FRAMES = 28, 20
"""Lengths of the shots."""
TAKE_PERIOD = 112
"""Frames after which a long take is where it began."""


def demo(seed: int = 0, size: tuple[int, int] = (384, 640), frames: int = 48) -> Scene:
    """A small film to look at: a lake in summer, then balloons at dusk, with a hard cut between; longer films go on
    with other lakes and evenings. Pan, zoom, parallax, turning objects, occlusion and dis-occlusion are all in it."""
    shots = []
    left, number = frames, 0
    while left > 0:
        length = min(left, LAKE_FRAMES if number % 2 == 0 else DUSK_FRAMES)
        shots.append(Shot(length, _filmed(seed + number, size, dusk=bool(number % 2))))
        left, number = left - length, number + 1
    return Scene(size, shots)


def long_take(seed: int = 0, size: tuple[int, int] = (128, 192), frames: int = 4500) -> Scene:
    """The lake of `demo` as one shot of any length: everything in it moves to and fro, with a period of
    `TAKE_PERIOD` frames, so that the first frame is seen again and again."""
    filmed = _filmed(seed, size, dusk=False)

    def there_and_back(time: float) -> float:
        return 0.5 * LAKE_FRAMES * (1.0 - float(np.cos(2.0 * np.pi * time / TAKE_PERIOD)))

    def retimed(place: Callable[[float], Array]) -> Callable[[float], Array]:
        return lambda time: place(there_and_back(time))

    return Scene(size, [Shot(frames, lambda: [Layer(layer.texture, retimed(layer.place)) for layer in filmed()])])


def _filmed(seed: int, size: tuple[int, int], dusk: bool) -> Callable[[], Sequence[Layer]]:
    paint = landscape.dusk if dusk else landscape.lake
    camera = landscape.camera_at_dusk if dusk else landscape.camera_over_lake
    return lambda: [Layer(part.texture, _seen(part, camera, size)) for part in paint(seed, size)]


def _seen(
    part: landscape.Painted, camera: Callable[[float], tuple[float, float, float, float]], size: tuple[int, int]
) -> Callable[[float], Array]:
    """Where a part of the world is on the screen: its own motion, then the camera, nearer parts moving more."""
    height, width = size
    to_pixels = np.array([[height, 0, (width - 1) / 2], [0, height, (height - 1) / 2], [0, 0, 1.0]])

    def place(time: float) -> Array:
        x, y, zoom, roll = camera(time)
        nearness = part.nearness
        to_centre = landscape.moving(-width / height / 2 - nearness * x, -0.5 - nearness * y)
        scale = 1 + (zoom - 1) * (0.3 + 0.7 * nearness)
        lens = np.diag([scale, scale, 1.0]) @ landscape.moving(0, 0, roll)
        return np.asarray(to_pixels @ lens @ to_centre @ part.motion(time) @ part.texel_to_world)

    return place


def write_demo_clip(
    path: str | os.PathLike[str],
    frames: int = 48,
    size: tuple[int, int] = (384, 640),
    fps: Fraction | int = 24,
    seed: int = 0,
) -> Scene:
    """Write `demo` to `path` with exact times, frame n at n / fps seconds; returns the scene for its exact flow."""
    scene = demo(seed, size, frames)
    rate = Fraction(fps)
    with ClipWriter(path, size=size, time_base=1 / rate, frame_rate=rate) as writer:
        for frame in scene.frames(1 / rate):
            writer.write(frame)
    return scene
