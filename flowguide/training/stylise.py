"""Four procedural stylisers: oil painting, ink drawing, mosaic, watercolour.

Every layout (where a stroke, a tile, a hatching line or a bloom lies) is a function of a noise array on the latent
grid, one value per channel and 8 x 8 pixel cell. The painter is trained with the same array as its diffusion noise, so
that picture and noise together determine the target: a few sampling steps then suffice (the noise-data coupling of
rectified flow, Liu et al. 2022, arXiv:2209.03003, made by construction). All layouts move with the cells, so a
convolutional network can learn them.

Pictures are RGB uint8 (H, W, 3) with H and W multiples of 8; noise is float32 (8, H / 8, W / 8), standard normal.
"""

from collections.abc import Callable

import cv2
import numpy as np

CELL = 8
CHANNELS = 8

PAPER = np.array([244, 236, 214], np.float32)
INK = np.array([24, 26, 52], np.float32)
GROUT = np.array([44, 40, 38], np.float32)


def layout_noise(seed: tuple[int, ...], height: int, width: int) -> np.ndarray:
    """Standard normal float32 (8, height / 8, width / 8) from integers; the same integers give the same array."""
    return np.random.default_rng(seed).standard_normal((CHANNELS, height // CELL, width // CELL), dtype=np.float32)


def stylise(picture: np.ndarray, style: str, noise: np.ndarray) -> np.ndarray:
    """The picture in one of STYLES, same shape and type.

    Raises ValueError for an unknown style, a picture that is not uint8 (H, W, 3), or noise of another size.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}: should be one of {', '.join(STYLES)}")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"picture should be uint8 (H, W, 3), got {picture.dtype} {picture.shape}")
    height, width = picture.shape[:2]
    if noise.shape != (CHANNELS, height // CELL, width // CELL) or height % CELL or width % CELL:
        raise ValueError(f"noise should be (8, H / 8, W / 8) for a picture of {height} x {width}, got {noise.shape}")
    return np.clip(STYLES[style](picture, noise) + 0.5, 0, 255).astype(np.uint8)


def smooth_field(channel: np.ndarray, sigma: float, shape: tuple[int, int]) -> np.ndarray:
    """One noise channel blurred by sigma cells, rescaled to unit variance and interpolated to (H, W) pixels."""
    size = 2 * int(np.ceil(3 * sigma)) + 1
    kernel = cv2.getGaussianKernel(size, sigma)
    blurred = cv2.sepFilter2D(channel, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)
    blurred /= float((kernel**2).sum())
    return cv2.resize(blurred, shape[::-1], interpolation=cv2.INTER_CUBIC)


def peaks(channel: np.ndarray, jitter: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Cells that exceed their four neighbours, about one cell in five.

    Returns their row and column indices (2, N) and their places in pixels (N, 2) as (x, y), moved from the cell's
    centre by up to 1.5 * reach pixels along the two jitter channels.
    """
    padded = np.pad(channel, 1, constant_values=-np.inf)
    highest = (channel > padded[:-2, 1:-1]) & (channel > padded[2:, 1:-1])
    highest &= (channel > padded[1:-1, :-2]) & (channel > padded[1:-1, 2:])
    rows, columns = np.nonzero(highest)
    shift = reach * np.clip(jitter[:, rows, columns], -1.5, 1.5)
    places = np.stack([columns, rows], 1) * CELL + (CELL - 1) / 2 + shift.T
    limits = np.array([channel.shape[1], channel.shape[0]]) * CELL - 1
    return np.stack([rows, columns]), np.clip(places, 0, limits)


def wave(real: np.ndarray, imaginary: np.ndarray, angle: float, period: float) -> np.ndarray:
    """Phase-only Gabor noise (Lagae et al. 2009): a wave in -1..1 with the given period in pixels.

    Cell i adds (real + j imaginary)_i exp(j k.(x - x_i)) in a Gaussian window of 1.5 cells.
    """
    height, width = (CELL * n for n in real.shape)
    k = 2 * np.pi / period * np.array([np.cos(angle), np.sin(angle)])
    y, x = np.mgrid[0:height, 0:width]
    phase = k[0] * x + k[1] * y
    centre = (CELL - 1) / 2
    at_cells = k[0] * (x[::CELL, ::CELL] + centre) + k[1] * (y[::CELL, ::CELL] + centre)
    demodulated = (real + 1j * imaginary) * np.exp(-1j * at_cells)
    envelope = [
        smooth_field(part.astype(np.float32), 1.5, (height, width)) for part in (demodulated.real, demodulated.imag)
    ]
    return np.cos(np.angle((envelope[0] + 1j * envelope[1]) * np.exp(1j * phase))).astype(np.float32)


def luminance(picture: np.ndarray) -> np.ndarray:
    """Luma (BT.601) of an RGB uint8 picture as float32 (H, W) in 0..1."""
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255


def ramp(values: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """Smooth step from 0 at low to 1 at high."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def saturate(picture: np.ndarray, gain: float) -> np.ndarray:
    """Colours moved away from grey by a gain; float (H, W, 3) in, the same out."""
    grey = picture.mean(2, keepdims=True)
    return grey + gain * (picture - grey)


# Oil painting: layers of strokes from broad to fine over a blurred ground (Hertzmann 1998).


def stroke_directions(picture: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Unit vectors (H, W, 2) along the edges; where nothing has an edge, along a smooth random field."""
    grey = cv2.GaussianBlur(luminance(picture), (0, 0), 1.5)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    # doubled angle of the gradient, so that opposite gradients do not cancel
    cosine = cv2.GaussianBlur(dx * dx - dy * dy, (0, 0), 6)
    sine = cv2.GaussianBlur(2 * dx * dy, (0, 0), 6)
    # in flat parts, below this strength, the noise alone decides
    weight = np.sqrt(cosine**2 + sine**2) + 0.03
    cosine = cosine / weight + 0.5 * smooth_field(noise[4], 2.0, grey.shape)
    sine = sine / weight + 0.5 * smooth_field(noise[5], 2.0, grey.shape)
    angle = 0.5 * np.arctan2(sine, cosine) + np.pi / 2
    return np.stack([np.cos(angle), np.sin(angle)], 2).astype(np.float32)


def draw_strokes(
    canvas: np.ndarray,
    height: np.ndarray,
    places: np.ndarray,
    colours: np.ndarray,
    levels: np.ndarray,
    directions: np.ndarray,
    width: int,
) -> None:
    """Paint curved strokes in place, in the given order; height gets each stroke's ridge above its level (0..1)."""
    length = 1.8 * width
    rise = min(1.0, width / 10)
    limit = np.array([canvas.shape[1] - 1, canvas.shape[0] - 1])
    for place, colour, level in zip(places, colours, levels.tolist(), strict=True):
        x, y = place.astype(int)
        heading = directions[y, x]
        end_x, end_y = np.clip(place + length * heading, 0, limit).astype(int)
        bend = directions[end_y, end_x]
        bend = bend if bend @ heading >= 0 else -bend
        points = np.array([place - length * heading, place, place + 0.5 * length * (heading + bend)])
        curve = [(points * 8).astype(np.int32)]
        cv2.polylines(canvas, curve, False, colour.tolist(), width, cv2.LINE_AA, 3)
        cv2.polylines(height, curve, False, level * rise, width, cv2.LINE_AA, 3)
        cv2.polylines(height, curve, False, (level + 0.3) * rise, max(1, width // 2), cv2.LINE_AA, 3)


def oil_painting(picture: np.ndarray, noise: np.ndarray) -> np.ndarray:
    directions = stroke_directions(picture, noise)
    source = saturate(picture.astype(np.float32), 1.2)
    canvas = cv2.GaussianBlur(source, (0, 0), 8)
    height = np.full(picture.shape[:2], 0.3, np.float32)
    # brush width in pixels, channel of the places, squared colour error that asks for a stroke
    for width, channel, tolerance in ((15, 6, 0), (11, 7, 0), (6, 7, 160), (4, 6, 220), (3, 7, 260)):
        colours = cv2.GaussianBlur(source, (0, 0), width / 4)
        if width > 6:
            cells, places = peaks(noise[channel], noise[4:6], 2.5)
        else:
            cells, places = every_cell(noise[channel], noise[4:6])
        x, y = places.astype(int).T
        error = cv2.GaussianBlur(((source - canvas) ** 2).mean(2), (0, 0), width / 2)[y, x]
        order = np.argsort(noise[channel][cells[0], cells[1]], kind="stable")
        order = order[error[order] >= tolerance]
        chosen = np.clip(colours[y, x] + tint(noise, cells, 14 if width > 6 else 4), 0, 255)
        levels = 0.5 + 0.13 * np.clip(noise[3][cells[0], cells[1]], -1.5, 1.5)
        draw_strokes(canvas, height, places[order], chosen[order], levels[order], directions, width)
    relief = cv2.GaussianBlur(height, (0, 0), 0.8)
    shade = cv2.Sobel(relief, cv2.CV_32F, 1, 0) + cv2.Sobel(relief, cv2.CV_32F, 0, 1)
    return canvas - 26 * np.clip(shade, -1.2, 1.2)[..., None]


def every_cell(channel: np.ndarray, jitter: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All cells and a place within each, as peaks() gives them."""
    rows, columns = (index.ravel() for index in np.indices(channel.shape))
    shift = 2.5 * np.clip(np.sign(channel) * jitter, -1.5, 1.5).reshape(2, -1)
    places = np.stack([columns, rows], 1) * CELL + (CELL - 1) / 2 + shift.T
    limits = np.array([channel.shape[1], channel.shape[0]]) * CELL - 1
    return np.stack([rows, columns]), np.clip(places, 0, limits)


def tint(noise: np.ndarray, cells: np.ndarray, strength: float) -> np.ndarray:
    """A small change of lightness and warmth for each cell, (N, 3) in colour levels."""
    lightness, warmth = noise[3:5, cells[0], cells[1]]
    return strength * np.stack([lightness + 0.5 * warmth, lightness, lightness - 0.5 * warmth], 1)


# Ink drawing: contours by an extended difference of Gaussians (Winnemoeller 2011) and two layers of hatching.


def ink_drawing(picture: np.ndarray, noise: np.ndarray) -> np.ndarray:
    grey = luminance(picture)
    tone = cv2.GaussianBlur(grey, (0, 0), 2.0) ** 0.9
    fine, coarse = cv2.GaussianBlur(grey, (0, 0), 1.1), cv2.GaussianBlur(grey, (0, 0), 2.2)
    contour = ramp(coarse - fine, 0.012, 0.035)
    first = hatching(wave(noise[4], noise[5], np.pi / 4, CELL), 0.62 * ramp(-tone, -0.72, -0.12))
    second = hatching(wave(noise[6], noise[7], -np.pi / 4, CELL), 0.6 * ramp(-tone, -0.3, -0.05))
    solid = ramp(-tone, -0.10, -0.03)
    ink = 1 - (1 - contour) * (1 - first) * (1 - second) * (1 - solid)
    return PAPER + ink[..., None] * (INK - PAPER)


def hatching(lines: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Ink 0..1 where a wave is above the level that covers the asked share of the area."""
    level = np.cos(np.pi * coverage)
    return ramp(lines, level - 0.25, level + 0.25) * ramp(coverage, 0.02, 0.12)


# Mosaic: Voronoi tiles of one colour each, bevelled, with dark grout.


def mosaic(picture: np.ndarray, noise: np.ndarray) -> np.ndarray:
    cells, places = peaks(noise[7], noise[5:7], 2.0)
    free = np.ones(picture.shape[:2], np.uint8)
    x, y = places.round().astype(int).T
    free[y, x] = 0
    _, labels = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    source = saturate(picture.astype(np.float32), 1.25)
    count = np.bincount(labels.ravel(), minlength=labels.max() + 1).clip(1)
    means = np.stack([np.bincount(labels.ravel(), source[..., c].ravel()) / count for c in range(3)], 1)
    jitter = np.zeros((len(count), 3))
    jitter[labels[y, x]] = tint(noise, cells, 7)
    colours = means + jitter
    tiles = 0.8 * colours[labels] + 0.2 * cv2.GaussianBlur(source, (0, 0), 1.5)
    border = np.zeros_like(free)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    depth = cv2.distanceTransform(1 - border, cv2.DIST_L2, 5)
    bevel = cv2.GaussianBlur(np.minimum(depth, 4), (0, 0), 0.8)
    shade = cv2.Sobel(bevel, cv2.CV_32F, 1, 0) + cv2.Sobel(bevel, cv2.CV_32F, 0, 1)
    tiles = tiles + 3.2 * shade[..., None]
    grout = 1 - ramp(depth, 0.6, 2.2)
    return tiles + grout[..., None] * (GROUT - tiles)


# Watercolour: a wobbling picture in few flat washes with dark rims, granulation, blooms and paper showing through.


def watercolour(picture: np.ndarray, noise: np.ndarray) -> np.ndarray:
    shape = picture.shape[:2]
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    x = x + 1.8 * smooth_field(noise[4], 0.8, shape)
    y = y + 1.8 * smooth_field(noise[5], 0.8, shape)
    wobbled = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    washed = cv2.edgePreservingFilter(wobbled, flags=1, sigma_s=18, sigma_r=0.35)
    tone = luminance(washed)
    granulation, bloom = smooth_field(noise[6], 0.7, shape), smooth_field(noise[7], 2.0, shape)
    # the bloom shifts where one wash ends, as water would
    position = 4.5 * (tone + 0.012 * bloom)
    step = np.floor(position) + ramp(position - np.floor(position), 0.35, 0.65)
    flat = np.clip(step / 4.5, 0, 1)
    rim = cv2.GaussianBlur(flat, (0, 0), 2.5) - cv2.GaussianBlur(flat, (0, 0), 0.7)
    colour = saturate(washed.astype(np.float32), 1.35) / 255 * (0.3 + 0.7 * flat / np.maximum(tone, 0.08))[..., None]
    colour = 1 - 0.8 * (1 - np.clip(colour, 0, 1))
    pigment = 1 - colour.mean(2)
    change = -1.7 * np.clip(rim, 0, 1) + (0.035 * granulation + 0.015 * bloom) * (0.15 + pigment)
    return np.clip(colour + change[..., None], 0, 1) * (0.25 * PAPER + 0.75 * 252)


STYLES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "oil painting": oil_painting,
    "ink drawing": ink_drawing,
    "mosaic": mosaic,
    "watercolour": watercolour,
}
