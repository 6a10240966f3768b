"""A canvas with transparency, and what the demo film paints on it: land, sky, trees, houses, boats, balloons.

Lengths are in frame heights, x to the right, y down.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

SHIFT = 4
"""Fractional bits of OpenCV's drawing coordinates."""


def noise(rng: np.random.Generator, shape: tuple[int, int], cell: float, octaves: int, stretch: float = 1) -> Field:
    """Fractal noise in about [0, 1]: `octaves` layers of smooth random cells, the coarsest `cell` texels high and
    `stretch` times as wide, each next half as large and about half as strong."""
    height, width = shape
    total = np.zeros(shape, np.float32)
    weight = 1.0
    for octave in range(octaves):
        rows = max(2, int(height / (cell / 2**octave)) + 2)
        columns = max(2, int(width / (cell * stretch / 2**octave)) + 2)
        if rows > height or columns > width:
            break
        grid = rng.random((rows, columns), dtype=np.float32)
        total += weight * (cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) - 0.5)
        weight *= 0.55
    return np.asarray(0.5 + total * 0.8, np.float32)


def blend(stops: Sequence[tuple[float, Colour]], at: Field) -> Field:
    """Colours [..., 3] by linear interpolation between (position, colour) stops."""
    positions = [position for position, _ in stops]
    channels = [np.interp(at, positions, [colour[channel] for _, colour in stops]) for channel in range(3)]
    return np.stack(channels, -1).astype(np.float32)


def smooth_step(low: float, high: float, value: Field) -> Field:
    """0 below `low`, 1 above `high`, a smooth slope between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


class Canvas:
    """A transparent picture that covers x0…x1 by y0…y1 at `density` texels per frame height."""

    def __init__(self, density: float, x0: float, y0: float, x1: float, y1: float) -> None:
        self.density, self.x0, self.y0 = density, x0, y0
        self.shape = max(8, round((y1 - y0) * density)), max(8, round((x1 - x0) * density))
        self.rgba: Pixels = np.zeros((*self.shape, 4), np.uint8)
        self.x = (x0 + (np.arange(self.shape[1], dtype=np.float32) + 0.5) / density)[None, :]
        self.y = (y0 + (np.arange(self.shape[0], dtype=np.float32) + 0.5) / density)[:, None]

    def noise(self, rng: np.random.Generator, cell: float, octaves: int = 7, stretch: float = 1) -> Field:
        """Noise over the canvas, `cell` in frame heights."""
        return noise(rng, self.shape, max(2.0, cell * self.density), octaves, stretch)

    def cover(self, mask: Field, colour: Field | Colour) -> None:
        """Lay `colour` over the canvas where `mask` [h, w] in 0…1 says."""
        over = np.broadcast_to(np.asarray(colour, np.float32), (*self.shape, 3))
        opaque = np.full((*self.shape, 1), 255, np.float32)
        strength = np.broadcast_to(mask, self.shape)[..., None]
        mixed = self.rgba * (1 - strength) + np.concatenate([over, opaque], -1) * strength
        self.rgba = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        corners = np.array([self._texel(x, y) for x, y in points], np.int32)
        cv2.fillPoly(self.rgba, [corners], (*colour, 255), cv2.LINE_AA, SHIFT)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        reach = max(1, round(radius * self.density * 2**SHIFT))
        cv2.circle(self.rgba, self._texel(x, y), reach, (*colour, 255), -1, cv2.LINE_AA, SHIFT)

    def grain(self, rng: np.random.Generator, strength: float, cell: float) -> None:
        """Vary the brightness of what is drawn, at all scales from `cell` down."""
        factor = 1 + strength * 2 * (self.noise(rng, cell) - 0.5)
        shaded = self.rgba[..., :3] * factor[..., None]
        self.rgba[..., :3] = np.minimum(np.clip(shaded, 0, 255), self.rgba[..., 3:]).astype(np.uint8)

    def texture(self) -> Pixels:
        """The finished picture, free of detail that a screen of half the density cannot hold."""
        return np.asarray(cv2.GaussianBlur(self.rgba, (0, 0), 0.9), np.uint8)

    def _texel(self, x: float, y: float) -> tuple[int, int]:
        scale = self.density * 2**SHIFT
        half = 2**SHIFT / 2
        return round((x - self.x0) * scale - half), round((y - self.y0) * scale - half)


def ridge(rng: np.random.Generator, canvas: Canvas, height: float, rise: float, cell: float, octaves: int = 6) -> Field:
    """A skyline: for each column the y at which the ground begins, [w]."""
    line = noise(rng, (4, canvas.shape[1]), max(2.0, cell * canvas.density), octaves)[1]
    return np.asarray(height - rise * (line - 0.5) * 2, np.float32)


def ground(
    rng: np.random.Generator, canvas: Canvas, line: Field, colours: Sequence[tuple[float, Colour]], rough: float = 0.4
) -> None:
    """Land below the skyline `line`, lit from the upper left, coloured by depth below it and by noise."""
    relief = canvas.noise(rng, 0.16, 8)
    depth = canvas.y - line[None, :]
    smooth = cv2.GaussianBlur(relief, (0, 0), 0.004 * canvas.density)
    slope = cv2.Sobel(smooth, cv2.CV_32F, 1, 0) + cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    light = np.clip(1 + rough * (slope * canvas.density * 0.0045 + 0.4 * (relief - 0.5)), 0.7, 1.3)[..., None]
    shade = blend(colours, np.asarray(depth + 0.3 * (relief - 0.5), np.float32))
    canvas.cover(np.clip(depth * canvas.density + 0.5, 0, 1), np.asarray(shade * light, np.float32))


def sky(rng: np.random.Generator, canvas: Canvas, colours: Sequence[tuple[float, Colour]]) -> None:
    streaks = canvas.noise(rng, 0.25, 5, stretch=5)
    canvas.cover(np.ones((1, 1), np.float32), blend(colours, np.asarray(canvas.y + 0.16 * (streaks - 0.5), np.float32)))


def clouds(rng: np.random.Generator, canvas: Canvas, light: Colour, dark: Colour, low: float) -> None:
    """Clouds above `low`, brighter above than below."""
    puffs = canvas.noise(rng, 0.3, 7, stretch=2.2)
    below = np.roll(puffs, -max(1, round(0.03 * canvas.density)), 0)
    body = smooth_step(0.53, 0.72, puffs) * smooth_step(low, low - 0.3, np.broadcast_to(canvas.y, canvas.shape))
    lit = np.clip(0.5 + (below - puffs) * 3, 0, 1)
    canvas.cover(body * 0.92, blend([(0, light), (1, dark)], np.asarray(lit, np.float32)))


def sun(canvas: Canvas, x: float, y: float, radius: float, colour: Colour, glow: Colour) -> None:
    distance = np.sqrt((canvas.x - x) ** 2 + (canvas.y - y) ** 2)
    canvas.cover(np.asarray(0.75 * np.exp(-((distance / (3 * radius)) ** 2)), np.float32), glow)
    canvas.cover(smooth_step(radius * 1.06, radius * 0.94, distance), colour)


def foliage(
    rng: np.random.Generator,
    canvas: Canvas,
    x: float,
    y: float,
    spread: tuple[float, float],
    colour: Colour,
    count: int,
) -> None:
    """A crown of overlapping blobs about (x, y), lighter towards the upper left."""
    for step in range(count):
        along, radius = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1))
        dx, dy = radius * np.cos(along), radius * np.sin(along)
        light = 0.62 + 0.38 * step / count - 0.18 * (dx + dy) + rng.uniform(-0.1, 0.1)
        red, green, blue = (int(np.clip(channel * light, 0, 255)) for channel in colour)
        size = spread[1] * rng.uniform(0.35, 0.9) * 2.4 / np.sqrt(count)
        canvas.disc(x + dx * spread[0], y + dy * spread[1], size, (red, green, blue))


def tree(rng: np.random.Generator, canvas: Canvas, x: float, y: float, height: float, colour: Colour) -> None:
    """A leafy tree that stands at (x, y)."""
    half = height * 0.035
    canvas.polygon([(x - half, y), (x - half * 0.6, y - height * 0.6), (x + half * 0.6, y - height * 0.6),
                    (x + half, y)], (92, 66, 48))  # fmt: skip
    foliage(rng, canvas, x, y - height * 0.66, (height * 0.27, height * 0.33), colour, round(900 * height))


def pine(rng: np.random.Generator, canvas: Canvas, x: float, y: float, height: float, colour: Colour) -> None:
    """A conifer of ragged tiers that stands at (x, y)."""
    canvas.polygon([(x - height * 0.02, y), (x, y - height), (x + height * 0.02, y)], (70, 52, 44))
    for tier in np.linspace(0, 1, 9):
        base, half = y - height * (0.12 + 0.7 * tier), height * 0.23 * (1 - 0.85 * tier)
        red, green, blue = (int(channel * (0.75 + 0.3 * tier) * rng.uniform(0.9, 1.1)) for channel in colour)
        jag = [(x + half * u, base + height * rng.uniform(-0.015, 0.02)) for u in np.linspace(-1, 1, 9)]
        canvas.polygon([*jag, (x, base - height * 0.2)], (min(red, 255), min(green, 255), min(blue, 255)))


def house(canvas: Canvas, x: float, y: float, size: float, wall: Colour, roof: Colour, window: Colour) -> None:
    """A cottage whose lower left corner is (x, y)."""

    def box(left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        canvas.polygon([(x + u * size, y - v * size) for u, v in corners], colour)

    box(0.75, 1.35, 0.88, 0.8, (120, 84, 74))
    box(0, 0.62, 1, -0.1, wall)
    box(0.62, 0.62, 1, -0.1, (wall[0] * 4 // 5, wall[1] * 4 // 5, wall[2] * 4 // 5))
    canvas.polygon([(x + u * size, y - v * size) for u, v in [(-0.1, 0.58), (0.3, 1.18), (0.7, 0.58)]], roof)
    darker = (roof[0] * 4 // 5, roof[1] * 4 // 5, roof[2] * 4 // 5)
    canvas.polygon(
        [(x + u * size, y - v * size) for u, v in [(0.3, 1.18), (0.94, 1.1), (1.1, 0.56), (0.7, 0.58)]], darker
    )
    box(0.08, 0.44, 0.24, 0.2, window)
    box(0.72, 0.44, 0.9, 0.2, window)
    box(0.34, 0.4, 0.5, -0.1, (104, 66, 48))


def boat(canvas: Canvas, x: float, y: float, size: float) -> None:
    """A sailing boat on the water line (x, y)."""
    parts: list[tuple[list[tuple[float, float]], Colour]] = [
        ([(-0.02, 0.1), (-0.02, 1.25), (0.02, 1.25), (0.02, 0.1)], (96, 70, 52)),
        ([(0.05, 0.2), (0.05, 1.2), (0.62, 0.26)], (250, 244, 230)),
        ([(-0.05, 0.24), (-0.05, 1.05), (-0.42, 0.28)], (226, 92, 70)),
        ([(-0.6, 0.18), (0.72, 0.18), (0.5, -0.08), (-0.42, -0.08)], (150, 74, 56)),
        ([(-0.6, 0.18), (0.72, 0.18), (0.69, 0.12), (-0.57, 0.12)], (244, 226, 190)),
    ]
    for corners, colour in parts:
        canvas.polygon([(x + u * size, y - v * size) for u, v in corners], colour)


def ball(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """A beach ball of six stripes."""
    angle = np.arctan2(canvas.y - y, canvas.x - x)
    distance = np.sqrt((canvas.x - x) ** 2 + (canvas.y - y) ** 2)
    stripe = (np.floor((angle / (2 * np.pi) + distance / radius * 0.08) * 6).astype(int)) % 6
    colours = np.array([(230, 66, 60), (250, 246, 238), (44, 118, 196), (250, 246, 238), (246, 196, 60), (60, 160, 96)])
    disc = np.clip((radius - distance) * canvas.density + 0.5, 0, 1).astype(np.float32)
    canvas.cover(disc, colours[stripe].astype(np.float32))
    canvas.disc(x, y, radius * 0.16, (250, 246, 238))


def balloon(canvas: Canvas, x: float, y: float, size: float, first: Colour, second: Colour) -> None:
    """A hot-air balloon whose envelope is centred at (x, y)."""
    for side in (-1, 1):
        canvas.polygon([(x + side * size * 0.5, y + size * 0.8), (x + side * size * 0.16, y + size * 1.5),
                        (x + side * size * 0.13, y + size * 1.5), (x + side * size * 0.46, y + size * 0.8)],
                       (92, 74, 66))  # fmt: skip
    canvas.polygon([(x + u * size, y + v * size) for u, v in
                    [(-0.19, 1.45), (0.19, 1.45), (0.16, 1.75), (-0.16, 1.75)]], (128, 88, 54))  # fmt: skip
    u, v = (canvas.x - x) / size, (canvas.y - y) / size
    narrowing = np.where(v > 0, np.sqrt(np.clip(1 - (v / 1.35) ** 2, 0, 1)), np.sqrt(np.clip(1 - v**2, 0, 1)))
    inside = np.clip((narrowing - np.abs(u)) * size * canvas.density + 0.5, 0, 1) * (v < 1.0)
    across = np.arcsin(np.clip(u / np.maximum(narrowing, 0.05), -1, 1))
    stripes = (np.sin(across * 8) > 0).astype(np.float32)[..., None]
    light = (1.08 - 0.35 * np.clip(u * 0.7 + v * 0.35 + 0.2, -1, 1))[..., None]
    colour = (stripes * np.array(first, np.float32) + (1 - stripes) * np.array(second, np.float32)) * light
    canvas.cover(np.asarray(inside, np.float32), np.asarray(colour, np.float32))
