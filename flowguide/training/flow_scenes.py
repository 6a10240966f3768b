"""Pairs of frames with exact flow, in both directions, and exact visibility: truth for benchmarks and for training.

A scene is a background and layers in front of it. Each layer has a texture, an outline and a motion
p -> p + F(p), affine plus sine waves, all of them functions of the position p in the first frame. The second frame is
painted by finding the p that arrives at each of its pixels. So the flow of the topmost layer is exact, and a pixel is
visible in the other frame where no layer in front covers the place it goes to.

Scene number i of a difficulty comes from (seed, difficulty, i) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UnknownName
from ..types import Frame

Field = NDArray[np.float32]
Place = tuple[Field, Field]
"""x and y, each [H, W], in pixels."""
Texture = Callable[[np.random.Generator, int], Field]
"""(random, side) -> float32 [side, side, 3] in 0..255."""


@dataclass(frozen=True)
class Difficulty:
    """Ranges from which a scene is drawn; lengths are shares of the picture's shorter side."""

    layers: tuple[int, int]
    layer_size: tuple[float, float]
    camera: float
    """Largest shift of the background along each axis."""
    shift: float
    """Largest shift of a layer along each axis, added to the background's."""
    turn: float
    """Largest rotation in radians and largest change of scale."""
    wave: float = 0.0
    """Largest amplitude of the non-rigid motion."""
    contrast: tuple[float, float] = (0.6, 1.0)


DIFFICULTIES = {
    "small": Difficulty((2, 4), (0.1, 0.3), camera=0.006, shift=0.008, turn=0.008),
    "large": Difficulty((3, 6), (0.08, 0.25), camera=0.05, shift=0.08, turn=0.06),
    "non-rigid": Difficulty((2, 4), (0.15, 0.35), camera=0.012, shift=0.02, turn=0.02, wave=0.02),
    "textureless": Difficulty((2, 5), (0.1, 0.3), camera=0.015, shift=0.03, turn=0.02, contrast=(0.02, 0.15)),
    "occlusion": Difficulty((8, 14), (0.03, 0.16), camera=0.02, shift=0.06, turn=0.04),
}


@dataclass(frozen=True)
class Pair:
    """Two frames and the truth between them."""

    first: Frame
    second: Frame
    forward: torch.Tensor
    """float32 [2, H, W]: first to second, pixels, on the grid of the first."""
    backward: torch.Tensor
    """float32 [2, H, W]: second to first, on the grid of the second."""
    forward_visible: torch.Tensor
    """bool [H, W]: whether the pixel of the first frame is seen in the second."""
    backward_visible: torch.Tensor
    """bool [H, W]: whether the pixel of the second frame is seen in the first."""


def make_pair(
    difficulty: str | Difficulty,
    number: int,
    size: tuple[int, int],
    *,
    seed: int = 0,
    texture: Texture | None = None,
) -> Pair:
    """Pair `number` of a difficulty, by its name or of one's own, of `size` = (height, width).

    texture: gives the pictures the layers are made of; without it they are procedural.
    """
    key = len(DIFFICULTIES)
    if isinstance(difficulty, str):
        if difficulty not in DIFFICULTIES:
            raise UnknownName("difficulty", difficulty, DIFFICULTIES)
        key, difficulty = list(DIFFICULTIES).index(difficulty), DIFFICULTIES[difficulty]
    random = np.random.default_rng([seed, key, number])
    layers = _layers(difficulty, size, random, texture or procedural)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    origins = [layer.origin((x, y)) for layer in layers]
    first, top_first = _painted(layers, [(x, y)] * len(layers))
    second, top_second = _painted(layers, origins)
    goes = _of_top(top_first, [layer.arrival((x, y)) for layer in layers])
    came = _of_top(top_second, origins)
    covered_there = [layer.opacity(layer.origin(goes)) for layer in layers]
    covered_here = [layer.opacity(came) for layer in layers]
    return Pair(
        *_photographed(first, second, random),
        torch.from_numpy(np.stack([goes[0] - x, goes[1] - y])),
        torch.from_numpy(np.stack([came[0] - x, came[1] - y])),
        torch.from_numpy(_visible(goes, top_first, covered_there)),
        torch.from_numpy(_visible(came, top_second, covered_here)),
    )


@dataclass(frozen=True)
class Outline:
    """A blob: distance from its centre below a radius that varies with the direction."""

    centre: tuple[float, float]
    radius: float
    bumps: NDArray[np.float64]
    """[K, 2]: amplitude and phase of the k-th harmonic of the radius."""
    stretch: float

    def opacity(self, place: Place) -> Field:
        """[H, W] in [0, 1], with an edge one pixel wide."""
        x, y = place[0] - self.centre[0], (place[1] - self.centre[1]) * self.stretch
        distance = np.hypot(x, y)
        near = distance < self.radius * (1 + np.abs(self.bumps[:, 0]).sum()) + 1
        angle = np.arctan2(y[near], x[near])
        radius = np.full_like(angle, self.radius)
        for harmonic, (amplitude, phase) in enumerate(self.bumps, 2):
            radius += self.radius * amplitude * np.cos(harmonic * angle + phase)
        opacity = np.zeros(x.shape, np.float32)
        opacity[near] = np.clip(0.5 + radius - distance[near], 0, 1)
        return opacity


@dataclass(frozen=True)
class Layer:
    """Something that moves on its own."""

    texture: Field
    """[S, S, 3]"""
    laid: NDArray[np.float64]
    """[2, 3]: position in the first frame -> position in the texture."""
    outline: Outline | None
    """None for the background, which is everywhere."""
    affine: NDArray[np.float64]
    """[2, 3]: position in the first frame -> position in the second, before the waves."""
    waves: NDArray[np.float64]
    """[K, 5]: shift along x and y, wave numbers along x and y, phase."""

    def opacity(self, place: Place) -> Field:
        return np.ones_like(place[0]) if self.outline is None else self.outline.opacity(place)

    def colour(self, place: Place) -> Field:
        """[H, W, 3]"""
        x, y = _applied(self.laid, place)
        sampled = cv2.remap(self.texture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        return np.asarray(sampled, dtype=np.float32)

    def arrival(self, place: Place) -> Place:
        """Where in the second frame the point at `place` in the first one is."""
        x, y = _applied(self.affine, place)
        for shift_x, shift_y, along_x, along_y, phase in self.waves.astype(np.float32):
            wave = np.sin(along_x * place[0] + along_y * place[1] + phase)
            x, y = x + shift_x * wave, y + shift_y * wave
        return x, y

    def origin(self, place: Place) -> Place:
        """Where in the first frame the point at `place` in the second one was."""
        back = np.asarray(cv2.invertAffineTransform(self.affine), dtype=np.float64)
        guess = _applied(back, place)
        if not len(self.waves):
            return guess
        turn = np.column_stack([back[:, :2], np.zeros(2)])
        for _ in range(30):  # the waves' gradient is well below one, so the error shrinks every time
            x, y = self.arrival(guess)
            step = _applied(turn, (place[0] - x, place[1] - y))
            guess = guess[0] + step[0], guess[1] + step[1]
            if max(np.abs(step[0]).max(), np.abs(step[1]).max()) < 1e-3:
                break
        return guess


def _applied(matrix: NDArray[np.float64], place: Place) -> Place:
    x, y = place
    (a, b, c), (d, e, f) = matrix.astype(np.float32)
    return a * x + b * y + c, d * x + e * y + f


def _layers(
    difficulty: Difficulty, size: tuple[int, int], random: np.random.Generator, texture: Texture
) -> list[Layer]:
    short = min(size)
    camera = random.uniform(-1, 1, 2) * difficulty.camera * short
    layers = []
    for number in range(1 + int(random.integers(difficulty.layers[0], difficulty.layers[1] + 1))):
        shift, outline = camera, None
        if number:
            shift = camera + random.uniform(-1, 1, 2) * difficulty.shift * short
            outline = Outline(
                centre=(random.uniform(0, size[1]), random.uniform(0, size[0])),
                radius=random.uniform(*difficulty.layer_size) * short,
                bumps=np.stack([random.uniform(0, 0.4, 6) / np.arange(2, 8), random.uniform(0, 7, 6)], 1),
                stretch=float(np.exp(random.uniform(-1.2, 1.2))),
            )
        pivot = np.array(outline.centre) if outline else np.array([size[1] / 2, size[0] / 2])
        contrast = random.uniform(*difficulty.contrast)
        side = round(1.2 * max(size))
        picture = texture(random, side)
        mean = picture.mean((0, 1))
        layers.append(
            Layer(
                texture=mean + np.float32(contrast) * (picture - mean),
                laid=_similarity(random.uniform(0, 7), random.uniform(0.8, 1.2), pivot, random.uniform(0, side, 2)),
                outline=outline,
                affine=_similarity(
                    random.uniform(-1, 1) * difficulty.turn,
                    1 + random.uniform(-1, 1) * difficulty.turn,
                    pivot,
                    pivot + shift,
                ),
                waves=_waves(difficulty.wave * short, short, random),
            )
        )
    return layers


def _similarity(
    angle: float, scale: float, pivot: NDArray[np.float64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[2, 3]: turn and scale about `pivot`, which goes to `target`."""
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([turn, target - turn @ pivot])


def _waves(amplitude: float, short: int, random: np.random.Generator) -> NDArray[np.float64]:
    if not amplitude:
        return np.zeros((0, 5))
    count = 3
    height = random.uniform(0.3, 1, count) * amplitude / count
    length = random.uniform(0.2, 0.6, count) * short
    direction, heading, phase = random.uniform(0, 7, (3, count))
    number = 2 * np.pi / length
    return np.stack(
        [
            height * np.cos(direction),
            height * np.sin(direction),
            number * np.cos(heading),
            number * np.sin(heading),
            phase,
        ],
        1,
    )


def _painted(layers: Sequence[Layer], places: Sequence[Place]) -> tuple[Field, NDArray[np.int64]]:
    """The picture [H, W, 3] and the number of the topmost layer; `places` are positions in the first frame."""
    picture = layers[0].colour(places[0])
    top = np.zeros(picture.shape[:2], np.int64)
    for number, (layer, place) in enumerate(zip(layers[1:], places[1:], strict=True), 1):
        opacity = layer.opacity(place)
        picture = picture + opacity[..., None] * (layer.colour(place) - picture)
        top[opacity >= 0.5] = number
    return picture, top


def _of_top(top: NDArray[np.int64], places: Sequence[Place]) -> Place:
    return np.choose(top, [x for x, _ in places]), np.choose(top, [y for _, y in places])


def _visible(place: Place, top: NDArray[np.int64], opacities: Sequence[Field]) -> NDArray[np.bool_]:
    height, width = top.shape
    x, y = place
    seen: NDArray[np.bool_] = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    for number, opacity in enumerate(opacities[1:], 1):
        seen &= ~((opacity >= 0.5) & (top < number))
    return seen


def _photographed(first: Field, second: Field, random: np.random.Generator) -> tuple[Frame, Frame]:
    """Blur of the lens, noise of the sensor, and in half of the pairs other light on the second frame."""
    blur, noise = random.uniform(0, 1.2), random.uniform(0, 4)
    gain, offset = random.uniform(0.88, 1.12), random.uniform(-10, 10)
    if random.random() < 0.5:
        second = second * np.float32(gain) + np.float32(offset)
    taken = []
    for index, picture in enumerate((first, second)):
        sharp = cv2.GaussianBlur(picture, (0, 0), blur) if blur > 0.4 else picture
        noisy = sharp + noise * random.standard_normal(picture.shape, dtype=np.float32)
        rgb = torch.from_numpy(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
        taken.append(Frame(rgb.permute(2, 0, 1).contiguous(), index))
    return taken[0], taken[1]


def procedural(random: np.random.Generator, side: int) -> Field:
    """Coloured noise with a random fall of its spectrum, in half of the pictures cut into flat patches."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    fall = np.maximum(frequency, 1 / side) ** -random.uniform(1.0, 1.9)
    channels = []
    for _ in range(3):
        spectrum = np.fft.rfft2(random.standard_normal((side, side))) * fall
        noise = np.fft.irfft2(spectrum, (side, side))
        channels.append((noise - noise.mean()) / noise.std())
    mixed = np.einsum("hwc,cd->hwd", np.stack(channels, 2), random.normal(0, 0.6, (3, 3)) + 0.5)
    if random.random() < 0.5:
        patches = random.uniform(0.3, 1.0)
        mixed = 0.7 * patches * np.rint(mixed / patches) + 0.3 * mixed
    levels = random.uniform(60, 195, 3) + random.uniform(25, 50) * mixed
    return np.asarray(np.clip(levels, 0, 255), dtype=np.float32)


def from_pictures(paths: Sequence[Path]) -> Texture:
    """Textures that are squares of these pictures, scaled by up to 1.6 either way."""

    def square(random: np.random.Generator, side: int) -> Field:
        path = paths[int(random.integers(len(paths)))]
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise FileNotFoundError(f"{path} is not a readable picture.")
        part = min(*picture.shape[:2], round(side * random.uniform(0.6, 1.6)))
        top, left = (int(random.integers(0, length - part + 1)) for length in picture.shape[:2])
        chosen = cv2.cvtColor(picture[top : top + part, left : left + part], cv2.COLOR_BGR2RGB)
        method = cv2.INTER_AREA if part > side else cv2.INTER_CUBIC
        return cv2.resize(chosen, (side, side), interpolation=method).astype(np.float32)

    return square
