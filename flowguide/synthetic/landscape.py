"""The two shots of the demo film: what stands where, how it moves, and the camera. Lengths are in frame heights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .canvas import (
    Canvas,
    Pixels,
    ball,
    balloon,
    blend,
    boat,
    clouds,
    foliage,
    ground,
    house,
    pine,
    ridge,
    sky,
    smooth_step,
    sun,
    tree,
)

Array = npt.NDArray[np.float64]
REACH = 0.45
"""How far the camera may pan, in frame heights."""


@dataclass(frozen=True)
class Painted:
    """A finished texture in the world: how near it is and how it moves by itself."""

    texture: Pixels
    texel_to_world: Array
    """3x3 matrix from texel (x, y, 1) to frame heights."""
    nearness: float
    """How much of the camera's movement it shows: 0 for the sky, 1 for the foreground."""
    motion: Callable[[float], Array]
    """Frame number → 3x3 matrix in the world."""


def still(time: float) -> Array:
    """The motion of what stands."""
    return np.eye(3)


def moving(x: float, y: float, degrees: float = 0, about: tuple[float, float] = (0, 0)) -> Array:
    """Turn clockwise about a point, then shift."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    px, py = about
    return np.array([[c, -s, px - c * px + s * py + x], [s, c, py - s * px - c * py + y], [0, 0, 1]])


def painted(canvas: Canvas, nearness: float, motion: Callable[[float], Array] = still) -> Painted:
    step = 1 / canvas.density
    world = np.array([[step, 0, canvas.x0 + step / 2], [0, step, canvas.y0 + step / 2], [0, 0, 1]])
    return Painted(canvas.texture(), world, nearness, motion)


def lake(seed: int, size: tuple[int, int]) -> list[Painted]:
    """A summer day: sun, mountains, a lake with a boat, a cottage on a hill, a ball that bounces, a near tree."""
    rng = np.random.default_rng(seed)
    wide = size[1] / size[0]
    density = 2.0 * size[0]

    def canvas(nearness: float, top: float = -0.15, bottom: float = 1.15) -> Canvas:
        return Canvas(density, -0.15, top, wide + 0.15 + REACH * nearness, bottom)

    layers = []
    heaven = canvas(0.03, bottom=0.8)
    sky(rng, heaven, [(-0.1, (62, 124, 196)), (0.3, (132, 188, 230)), (0.55, (246, 230, 204)), (0.8, (250, 220, 180))])
    sun(heaven, wide * rng.uniform(0.7, 0.82), 0.17, 0.062, (255, 247, 214), (255, 236, 178))
    layers.append(painted(heaven, 0.03))

    above = canvas(0.08, bottom=0.6)
    clouds(rng, above, (255, 252, 246), (196, 206, 222), low=0.5)
    layers.append(painted(above, 0.08, lambda t: moving(0.0012 * t, 0)))

    mountains = canvas(0.16, top=0.1, bottom=0.75)
    line = ridge(rng, mountains, 0.4, 0.2, 0.5, octaves=8)
    ground(rng, mountains, line, [(-0.02, (238, 240, 248)), (0.06, (150, 160, 190)), (0.3, (158, 178, 204))], rough=1)
    layers.append(painted(mountains, 0.16))

    woods = canvas(0.3, top=0.3, bottom=0.85)
    line = ridge(rng, woods, 0.53, 0.07, 0.4)
    ground(rng, woods, line, [(0, (92, 142, 92)), (0.1, (116, 164, 98)), (0.25, (150, 184, 112))])
    for x in rng.uniform(-0.15, wide + 0.3, 170):
        foot = float(np.interp(x, woods.x[0], line)) + rng.uniform(0.0, 0.07)
        foliage(rng, woods, x, foot, (0.022, 0.02), (84, 134, 82), 24)
    layers.append(painted(woods, 0.3))

    water = canvas(0.45, top=0.58)
    ripples = water.noise(rng, 0.03, 4, stretch=9)
    deep = blend([(0.6, (176, 210, 222)), (0.75, (92, 152, 190)), (1.1, (44, 96, 146))],
                 np.asarray(water.y + 0.18 * (ripples - 0.5), np.float32))  # fmt: skip
    water.cover(np.clip((water.y - 0.61) * density, 0, 1), deep)
    glitter = smooth_step(0.66, 0.8, water.noise(rng, 0.014, 2, stretch=7))
    water.cover(glitter * smooth_step(0.61, 0.7, water.y) * 0.6, (248, 246, 226))
    layers.append(painted(water, 0.45))

    layers.append(_boat(rng, density, wide))
    layers.append(_near_hill(rng, canvas(0.75, top=0.4), wide))

    layers.append(_ball(rng, density, wide))
    layers.append(_near_tree(rng, canvas(1.0), wide))
    return layers


def _boat(rng: np.random.Generator, density: float, wide: float) -> Painted:
    """A boat that sails to the right and rocks."""
    sail = Canvas(density, -0.2, -0.35, 0.2, 0.1)
    boat(sail, 0, 0, 0.17)
    sail.grain(rng, 0.18, 0.04)
    berth = wide * rng.uniform(0.26, 0.34)
    return painted(sail, 0.5, lambda t: moving(berth + 0.006 * t, 0.7 + 0.004 * np.sin(0.35 * t),
                                                      2.5 * np.sin(0.28 * t)))  # fmt: skip


def _ball(rng: np.random.Generator, density: float, wide: float) -> Painted:
    """A ball that bounces to the right and turns."""
    toy = Canvas(density, -0.1, -0.1, 0.1, 0.1)
    ball(toy, 0, 0, 0.058)
    toy.grain(rng, 0.12, 0.03)
    toss = wide * 0.3
    return painted(toy, 0.85, lambda t: moving(toss + 0.014 * t, 0.86 - 0.16 * abs(np.sin(0.19 * t + 0.5)),
                                                      8.0 * t))  # fmt: skip


def _near_tree(rng: np.random.Generator, near: Canvas, wide: float) -> Painted:
    """The foreground: a tree that the pan carries out of sight, and grass."""
    trunk = wide * 0.12
    tree(rng, near, trunk, 1.12, 0.98, (92, 142, 64))
    line = ridge(rng, near, 1.0, 0.02, 0.3)
    ground(rng, near, line, [(0, (96, 140, 60)), (0.1, (58, 98, 48))])
    for x in rng.uniform(-0.1, wide + 0.4, 240):
        lean = rng.uniform(-0.015, 0.015)
        near.polygon([(x - 0.004, 1.06), (x + lean, 0.95 - rng.uniform(0, 0.05)), (x + 0.004, 1.06)],
                     (80 + int(rng.integers(50)), 128 + int(rng.integers(50)), 58))  # fmt: skip
    near.grain(rng, 0.12, 0.05)
    return painted(near, 1.0)


def _near_hill(rng: np.random.Generator, hill: Canvas, wide: float) -> Painted:
    """A meadow that rises to the right, with a cottage, trees and flowers."""
    line = np.asarray(0.94 - 0.2 * smooth_step(0.35 * wide, 1.05 * wide, hill.x[0])
                      + (ridge(rng, hill, 0, 0.02, 0.5)), np.float32)  # fmt: skip

    def foot(x: float) -> float:
        return float(np.interp(x, hill.x[0], line))

    for at, height in ((0.7, 0.2), (1.13, 0.26), (1.28, 0.18)):
        tree(rng, hill, wide * at, foot(wide * at) + 0.02, height, (84, 140, 66))
    house(hill, wide * 0.86, foot(wide * 0.86) + 0.025, 0.17, (246, 232, 206), (186, 84, 62), (112, 148, 178))
    ground(rng, hill, line + 0.02, [(0, (168, 194, 92)), (0.12, (122, 168, 76)), (0.35, (88, 136, 62))])
    for x in rng.uniform(-0.1, wide + 0.3, 160):
        y = foot(x) + rng.uniform(0.04, 0.25)
        petal = ((250, 236, 120), (244, 244, 248), (232, 120, 134))[int(rng.integers(3))]
        hill.disc(x, y, rng.uniform(0.003, 0.006), petal)
    hill.grain(rng, 0.14, 0.06)
    return painted(hill, 0.75)


def dusk(seed: int, size: tuple[int, int]) -> list[Painted]:
    """An evening: a low sun, violet hills with lit cottages, hot-air balloons, dark pines in front."""
    rng = np.random.default_rng(seed)
    wide = size[1] / size[0]
    density = 2.0 * size[0]

    def canvas(nearness: float, top: float = -0.15, bottom: float = 1.15) -> Canvas:
        return Canvas(density, -0.15, top, wide + 0.15 + REACH * nearness, bottom)

    layers = []
    heaven = canvas(0.03, bottom=0.9)
    sky(rng, heaven, [(-0.1, (52, 50, 104)), (0.2, (124, 84, 146)), (0.42, (232, 128, 112)), (0.62, (255, 206, 138))])
    sun(heaven, wide * rng.uniform(0.3, 0.42), 0.5, 0.08, (255, 240, 190), (255, 190, 120))
    layers.append(painted(heaven, 0.03))

    above = canvas(0.08, bottom=0.6)
    clouds(rng, above, (255, 204, 176), (134, 92, 144), low=0.46)
    layers.append(painted(above, 0.08, lambda t: moving(-0.001 * t, 0)))

    for nearness, level, colours in (
        (0.16, 0.58, [(0, (150, 104, 150)), (0.2, (202, 140, 150))]),
        (0.3, 0.68, [(0, (104, 84, 136)), (0.2, (152, 110, 140))]),
    ):
        hills = canvas(nearness, top=0.3)
        ground(rng, hills, ridge(rng, hills, level, 0.09, 0.45, octaves=7), colours, rough=0.55)
        layers.append(painted(hills, nearness))

    envelopes = [((222, 74, 66), (250, 226, 170)), ((64, 106, 176), (246, 240, 226)), ((240, 180, 70), (150, 60, 96))]
    for number, (first, second) in enumerate(envelopes):
        radius = 0.075 * 1.55**number
        basket = Canvas(density, -1.2 * radius, -1.2 * radius, 1.2 * radius, 2 * radius)
        balloon(basket, 0, 0, radius, first, second)
        basket.grain(rng, 0.12, 0.05)
        x, y = wide * (0.55, 0.24, 0.8)[number], (0.3, 0.4, 0.42)[number]
        layers.append(painted(basket, 0.3 + 0.16 * number, _drift(x, y, number)))

    village = canvas(0.75, top=0.6)
    line = ridge(rng, village, 0.86, 0.05, 0.6)
    for x in (0.16, 0.3, 0.62, 0.76):
        foot = float(np.interp(wide * x, village.x[0], line)) + 0.02
        house(village, wide * x, foot, 0.08, (126, 92, 112), (92, 58, 84), (255, 214, 120))
    ground(rng, village, line + 0.015, [(0, (92, 72, 104)), (0.2, (58, 50, 84))])
    village.grain(rng, 0.14, 0.06)
    layers.append(painted(village, 0.75))

    near = canvas(1.0, top=0.2)
    for x in (0.02, 0.13, 0.93, 1.06):
        pine(rng, near, wide * x, 1.08, rng.uniform(0.4, 0.6), (52, 58, 84))
    ground(rng, near, ridge(rng, near, 1.0, 0.03, 0.4), [(0, (54, 48, 76)), (0.1, (34, 34, 60))])
    near.grain(rng, 0.16, 0.05)
    layers.append(painted(near, 1.0))
    return layers


def _drift(x: float, y: float, number: int) -> Callable[[float], Array]:
    speed = 0.0025 * (number + 1)
    return lambda t: moving(x + speed * (1, -1, 1)[number] * t, y - 1.2 * speed * t, 3 * np.sin(0.2 * t + number))


def camera_over_lake(time: float) -> tuple[float, float, float, float]:
    """A slow pan to the right: x and y in frame heights, zoom, roll in degrees."""
    return 0.011 * time, 0.006 * np.sin(0.2 * time), 1.02 + 0.0012 * time, 0.25 * np.sin(0.13 * time)


def camera_at_dusk(time: float) -> tuple[float, float, float, float]:
    """A slow zoom out with a little roll."""
    return 0.1 + 0.004 * time, 0.004 * time, 1.22 * np.exp(-0.006 * time), 0.5 * np.sin(0.1 * time)
