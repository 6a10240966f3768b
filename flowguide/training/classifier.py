"""A small network that tells the four styles and photographs apart; it only measures the painter.

Blurred pictures, also blurred paintings, count as "photo", so that blur cannot pass as a style.
Crops are float in -1..1, (N, 3, 128, 128); classes are numbered as in paths.KINDS.
"""

import itertools
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from .autoencoder import to_signal
from .data import SHARD, SIZE, load_shard
from .paths import KINDS

CROP = 128


def build_classifier() -> nn.Sequential:
    """Five strided convolutions and a mean over the picture; 0.12 M parameters."""
    widths = (3, 24, 48, 64, 64, 64)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], len(KINDS)))


def labelled_crops(shards: list[np.ndarray], count: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random crops (count, 3, 128, 128) with their classes; a quarter is blurred and then counts as photo."""
    crops, labels = [], []
    for _ in range(count):
        kind = int(generator.integers(len(KINDS)))
        top, left = generator.integers(SIZE - CROP + 1, size=2)
        shard = shards[generator.integers(len(shards))]
        crop = shard[generator.integers(SHARD), kind, top : top + CROP, left : left + CROP]
        if generator.random() < 0.25:
            crop = cv2.GaussianBlur(crop, (0, 0), generator.uniform(2.0, 4.0))
            kind = 0
        crops.append(crop)
        labels.append(kind)
    return to_signal(np.stack(crops)), torch.tensor(labels)


def train_classifier(
    work: Path, autoencoder: AutoencoderTiny, shards: int = 12, steps: int = 600, seed: int = 5
) -> nn.Sequential:
    """Train on the squares of a work folder; half of the crops pass through the autoencoder first."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    squares = [load_shard(work, number) for number in range(shards)]
    classifier = build_classifier()
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, steps)
    for _ in range(steps):
        crops, labels = labelled_crops(squares, 32, generator)
        with torch.no_grad():
            crops[:16] = autoencoder.decoder(autoencoder.encoder(crops[:16]))
        loss = F.cross_entropy(classifier(crops), labels)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    return classifier.eval()


def kept_classifier(work: Path, autoencoder: AutoencoderTiny) -> nn.Sequential:
    """The classifier of a work folder, trained first where it is missing (work/classifier.pt)."""
    path = work / "classifier.pt"
    if path.exists():
        classifier = build_classifier()
        classifier.load_state_dict(torch.load(path, weights_only=True))
        return classifier.eval()
    classifier = train_classifier(work, autoencoder)
    torch.save(classifier.state_dict(), path)
    return classifier


@torch.no_grad()
def classify(classifier: nn.Module, pictures: np.ndarray) -> np.ndarray:
    """Class numbers (N,) of uint8 pictures (N, H, W, 3): the mean of the four corner crops' probabilities."""
    signal = to_signal(pictures)
    bottom, right = signal.shape[2] - CROP, signal.shape[3] - CROP
    corners = [(top, left) for top in (0, bottom) for left in (0, right)]
    probabilities = [classifier(signal[:, :, top : top + CROP, left : left + CROP]).softmax(1) for top, left in corners]
    return torch.stack(probabilities).mean(0).argmax(1).numpy()
