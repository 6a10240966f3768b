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
GROUT = np.array([84, 78, 72], np.float32)
STROKE_ANGLE = -0.6  # radians from the x axis, clockwise in the picture
STROKE_WIDTH = 11  # pixels from ridge to ridge
HATCH_PERIOD = 10  # pixels from line to line


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
    scaled: np.ndarray = blurred / float((kernel**2).sum())
    return cv2.resize(scaled, shape[::-1], interpolation=cv2.INTER_CUBIC)


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


def wave(real: np.ndarray, imaginary: np.ndarray, angle: float, period: float, spread: float = 1.5) -> np.ndarray:
    """Phase-only Gabor noise (Lagae et al. 2009): a wave in -1..1 with the given period in pixels.

    Cell i adds (real + j imaginary)_i exp(j k.(x - x_i)) in a Gaussian window of `spread` cells.
    """
    height, width = (CELL * n for n in real.shape)
    k = np.float32(2 * np.pi / period) * np.array([np.cos(angle), np.sin(angle)], np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    phase = k[0] * x + k[1] * y
    centre = (CELL - 1) / 2
    at_cells = k[0] * (x[::CELL, ::CELL] + centre) + k[1] * (y[::CELL, ::CELL] + centre)
    cosine, sine = np.cos(at_cells), np.sin(at_cells)
    # the wave's amplitude, a complex number that varies slowly
    a = smooth_field(real * cosine + imaginary * sine, spread, (height, width))
    b = smooth_field(imaginary * cosine - real * sine, spread, (height, width))
    waves: np.ndarray = (a * np.cos(phase) - b * np.sin(phase)) / np.sqrt(a * a + b * b + 1e-6)
    return waves


def luminance(picture: np.ndarray) -> np.ndarray:
    """Luma (BT.601) of an RGB uint8 picture as float32 (H, W) in 0..1."""
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255


def ramp(values: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """Smooth step from 0 at low to 1 at high."""
    t = np.clip((values - low) / (high - low), 0, 1)
    smooth: np.ndarray = t * t * (3 - 2 * t)
    return smooth


def saturate(picture: np.ndarray, gain: float) -> np.ndarray:
    """Colours moved away from grey by a gain; float (H, W, 3) in, the same out."""
    grey: np.ndarray = picture.mean(2, keepdims=True)
    coloured: np.ndarray = grey + gain * (picture - grey)
    return coloured


def stroke_angles(picture: np.ndarray) -> np.ndarray:
    """Angle of the strokes in radians, float32 (H, W): along strong edges, else STROKE_ANGLE."""
    grey = cv2.GaussianBlur(luminance(picture), (0, 0), 1.5)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    # doubled angle of the gradient, so that opposite gradients do not cancel
    cosine = cv2.GaussianBlur(dx * dx - dy * dy, (0, 0), 7)
    sine = cv2.GaussianBlur(2 * dx * dy, (0, 0), 7)
    weight = np.sqrt(cosine**2 + sine**2) + 0.03
    flat = 2 * STROKE_ANGLE + np.pi
    cosine, sine = cosine / weight + 0.4 * np.cos(flat), sine / weight + 0.4 * np.sin(flat)
    angles: np.ndarray = 0.5 * np.arctan2(sine, cosine) + np.pi / 2
    return angles.astype(np.float32)


def along(angles: np.ndarray, noise: np.ndarray, turn: float, period: float) -> np.ndarray:
    """Waves (H, W), about -1..1, whose direction is the given angles plus a turn; mixed from six directions."""
    total, power = np.zeros_like(angles), np.full_like(angles, 1e-6)
    for angle in np.arange(6) * np.pi / 6:
        weight = np.clip(np.cos(2 * (angles - angle)), 0, 1) ** 6
        total += weight * wave(noise[0], noise[1], angle + turn, period, 0.9)
        power += weight**2
    mixed: np.ndarray = total / np.sqrt(power)
    return mixed


def oil_painting(picture: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Short ridges of thick paint along the edges, which drag the smoothed colours; float32 (H, W, 3) in levels."""
    angles = stroke_angles(picture)
    across = along(angles, noise[6:8], np.pi / 2, STROKE_WIDTH)
    dashes = along(angles, noise[4:6], 0, 3 * STROKE_WIDTH)
    strokes = across * (0.6 + 0.4 * dashes)
    y, x = np.mgrid[0 : picture.shape[0], 0 : picture.shape[1]].astype(np.float32)
    shift = 6 * strokes
    x, y = x + shift * np.cos(angles), y + shift * np.sin(angles)
    ground = cv2.edgePreservingFilter(cv2.GaussianBlur(picture, (0, 0), 1.2), flags=1, sigma_s=12, sigma_r=0.4)
    dragged = cv2.remap(ground, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    paint = saturate(dragged.astype(np.float32), 1.35)
    warmth = smooth_field(noise[3], 0.8, angles.shape)[..., None] * np.array([3, 0, -3], np.float32)
    lit: np.ndarray = paint + warmth + strokes[..., None] * (13 + 0.12 * paint)
    return lit


def tint(noise: np.ndarray, cells: np.ndarray, strength: float) -> np.ndarray:
    """A small change of lightness and warmth for each cell, (N, 3) in colour levels."""
    lightness, warmth = noise[3:5, cells[0], cells[1]]
    return strength * np.stack([lightness + 0.5 * warmth, lightness, lightness - 0.5 * warmth], 1)


def ink_drawing(picture: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Contours by an extended difference of Gaussians (Winnemoeller 2011), two layers of hatching; (H, W, 3)."""
    grey = luminance(picture)
    tone = cv2.GaussianBlur(grey, (0, 0), 2.5) ** 0.9
    fine, coarse = cv2.GaussianBlur(grey, (0, 0), 1.5), cv2.GaussianBlur(grey, (0, 0), 3.0)
    contour = ramp(coarse - fine, 0.010, 0.045)
    first = hatching(wave(noise[4], noise[5], np.pi / 4, HATCH_PERIOD), 0.62 * ramp(-tone, -0.72, -0.12))
    second = hatching(wave(noise[6], noise[7], -np.pi / 4, HATCH_PERIOD), 0.6 * ramp(-tone, -0.3, -0.05))
    solid = ramp(-tone, -0.10, -0.03)
    ink = 1 - (1 - contour) * (1 - first) * (1 - second) * (1 - solid)
    drawn: np.ndarray = PAPER + ink[..., None] * (INK - PAPER)
    return drawn


def hatching(lines: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Ink 0..1 where a wave is above the level that covers the asked share of the area."""
    level = np.cos(np.pi * coverage)
    inked: np.ndarray = ramp(lines, level - 0.4, level + 0.4) * ramp(coverage, 0.02, 0.12)
    return inked


def mosaic(picture: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Voronoi tiles of one colour each, bevelled, with dark grout; (H, W, 3) in levels."""
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
    grout = cv2.GaussianBlur(1 - ramp(depth, 0.6, 2.6), (0, 0), 0.9)
    # grout is darker than its tiles everywhere, so that dark tiles show too
    joint = 0.2 * GROUT + 0.4 * cv2.GaussianBlur(source, (0, 0), 8)
    laid: np.ndarray = tiles + grout[..., None] * (joint - tiles)
    return laid


def watercolour(picture: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """A wobbling picture in few washes with dark rims, granulation and blooms on white paper; (H, W, 3) in levels."""
    shape = picture.shape[:2]
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    x = x + 2 * smooth_field(noise[4], 0.8, shape)
    y = y + 2 * smooth_field(noise[5], 0.8, shape)
    wobbled = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    washed = cv2.edgePreservingFilter(cv2.GaussianBlur(wobbled, (0, 0), 1.0), flags=1, sigma_s=20, sigma_r=0.35)
    tone = luminance(washed)
    granulation, bloom = smooth_field(noise[6], 0.8, shape), smooth_field(noise[7], 1.8, shape)
    # the bloom moves the border of a wash, as water would; also flat walls get borders then
    position = 4.5 * (tone + 0.05 * bloom * np.clip(2.5 * (1 - tone), 0.15, 1)) + 0.25
    step = np.floor(position) + ramp(position - np.floor(position), 0.44, 0.56)
    flat = np.clip(cv2.GaussianBlur(step, (0, 0), 0.9) / 4.5, 0, 1)
    narrow, wide = cv2.GaussianBlur(flat, (0, 0), 1.0), cv2.GaussianBlur(flat, (0, 0), 3.5)
    rim, dry = np.clip(wide - narrow, 0, 0.1), np.clip(narrow - wide, 0, 0.1)
    gain = 0.55 + 0.45 * flat / np.maximum(tone, 0.08)
    colour = saturate(washed.astype(np.float32), 1.5) / 255 * gain[..., None]
    colour = 1 - 0.75 * (1 - np.clip(colour, 0, 1))
    pigment = 1 - colour.mean(2)
    change = -3.5 * rim + 1.5 * dry + 0.06 * granulation * np.clip(2 * pigment, 0.08, 0.6)
    washes: np.ndarray = np.clip(colour + change[..., None], 0, 1) * (0.25 * PAPER + 0.75 * 252)
    return washes


STYLES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "oil painting": oil_painting,
    "ink drawing": ink_drawing,
    "mosaic": mosaic,
    "watercolour": watercolour,
}
