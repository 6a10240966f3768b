"""Scenes for training: any mixture of everything, and what happens to real video on its way to a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..types import Frame
from .flow_scenes import Difficulty, Pair, from_pictures, make_pair, procedural


def drawn_pair(
    photos: Sequence[Path], number: int, size: tuple[int, int], seed: int, random: np.random.Generator
) -> Pair:
    """Pair `number` of a drawn difficulty, most of them textured with a few of the photos."""
    # Few photographs per scene: what moves often looks like what it moves over.
    chosen = random.choice(len(photos), int(random.integers(1, 5)))
    photographs = from_pictures([photos[index] for index in chosen])
    texture = procedural if random.random() < 0.15 else photographs
    return make_pair(drawn_difficulty(random), number, size, seed=seed, texture=texture)


def drawn_difficulty(random: np.random.Generator) -> Difficulty:
    """Any mixture of everything, between far too easy and hopeless."""

    def between(low: float, high: float) -> float:
        return float(np.exp(random.uniform(np.log(low), np.log(high))))

    layers = int(random.integers(1, 13))
    smallest = between(0.02, 0.2)
    faintest = between(0.04, 0.9)
    return Difficulty(
        layers=(layers, layers),
        layer_size=(smallest, smallest * random.uniform(1, 3)),
        camera=between(0.001, 0.08),
        shift=between(0.003, 0.12),
        turn=between(0.002, 0.08),
        wave=between(0.003, 0.03) if random.random() < 0.4 else 0.0,
        contrast=(faintest, min(1.0, 2 * faintest)),
    )


def weathered(pair: Pair, random: np.random.Generator) -> tuple[Frame, Frame]:
    """What happens to real video: dim light, a shadow over the second frame, motion blur, compression."""
    dim = random.uniform(0.3, 1) if random.random() < 0.3 else 1.0
    shade = random.uniform(-0.35, 0.35, 2) if random.random() < 0.3 else np.zeros(2)
    quality = int(random.integers(25, 95)) if random.random() < 0.5 else None
    smear = _smear(random) if random.random() < 0.2 else None
    taken = []
    for frame, slope in ((pair.first, np.zeros(2)), (pair.second, shade)):
        picture = np.asarray(frame.rgb.permute(1, 2, 0).numpy() * dim, np.float32)
        if smear is not None:
            picture = np.asarray(cv2.filter2D(picture, -1, smear, borderType=cv2.BORDER_REPLICATE), np.float32)
        y = np.linspace(-0.5, 0.5, picture.shape[0])[:, None, None]
        x = np.linspace(-0.5, 0.5, picture.shape[1])[None, :, None]
        levels = np.clip(np.rint(picture * (1 + slope[0] * x + slope[1] * y)), 0, 255).astype(np.uint8)
        if quality is not None:
            _, coded = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, quality])
            levels = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)
        taken.append(Frame(torch.from_numpy(levels).permute(2, 0, 1).contiguous(), frame.index))
    return taken[0], taken[1]


def _smear(random: np.random.Generator) -> NDArray[np.float32]:
    """The kernel of a camera that moves by up to 12 pixels while the shutter is open."""
    length, angle = random.uniform(2, 6), random.uniform(0, np.pi)
    along = np.linspace(-length, length, 49)
    x, y = 6 + along * np.cos(angle), 6 + along * np.sin(angle)
    kernel = np.zeros((13, 13), np.float32)
    np.add.at(kernel, (np.rint(y).astype(int), np.rint(x).astype(int)), 1 / 49)
    return kernel
