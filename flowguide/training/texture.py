"""How much texture lies where: distances that do not mind where exactly a stroke or a tile lies.

Energies of filter responses in windows, as in texture synthesis (Portilla and Simoncelli 2000). Squared error averages
what is uncertain to a blur; energies are certain where layouts are not.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FILTERS = 128
WINDOWS = (3, 6)  # cells
PATCH = 12  # cells that are decoded
SCALES = 3  # octaves
AREA = 48  # pixels, window of the picture's energies
QUIET = 2 * 1.5 / 255  # a change of 1.5 levels of 255: weaker texture is none


class LatentTexture:
    """Distance of local energies and rectified means of 128 random filters of 3 x 3 cells on latents (N, 8, h, w); one
    value per sample. spread: standard deviation of each channel, (8,)."""

    def __init__(self, spread: Tensor, seed: int = 11):
        generator = torch.Generator().manual_seed(seed)
        filters = torch.randn(FILTERS, len(spread), 3, 3, generator=generator)
        # half of them see only changes from cell to cell
        filters[: FILTERS // 2] -= filters[: FILTERS // 2].mean((2, 3), keepdim=True)
        norm = filters.flatten(1).norm(dim=1)[:, None, None, None]
        self.filters = filters / norm / spread[:, None, None]

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        distance = first.new_zeros(len(first))
        a, b = (F.conv2d(latents, self.filters.to(latents.device)) for latents in (first, second))
        for window in WINDOWS:
            for statistic in (_energy, _positive):
                distance = distance + (statistic(a, window) - statistic(b, window)).abs().mean((1, 2, 3))
        return distance


def _energy(responses: Tensor, window: int) -> Tensor:
    return (F.avg_pool2d(responses.pow(2), window, stride=max(1, window // 2)) + 0.01).sqrt()


def _positive(responses: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(responses.relu(), window, stride=max(1, window // 2))


class PictureTexture:
    """Ratio of the gradient energies of two decoded latents, in four directions and three octaves, per 48-pixel window
    and over a patch of 12 x 12 cells, as |log|; one value per sample.

    Latents hold eight numbers per cell, of which sharp edges move but a few: an energy of latents misses them.
    """

    def __init__(self, decoder: nn.Module, scaling_factor: float):
        self.decoder, self.scaling_factor = decoder.requires_grad_(False), scaling_factor

    def __call__(self, first: Tensor, second: Tensor, corner: tuple[int, int]) -> Tensor:
        rows, columns = (slice(at, at + PATCH) for at in corner)
        a = self.decode(first[:, :, rows, columns])
        with torch.no_grad():
            b = self.decode(second[:, :, rows, columns])
        distance = first.new_zeros(len(first))
        for octave in range(SCALES):
            for x, y in zip(_gradients(a), _gradients(b), strict=True):
                for window in (AREA >> octave, x.shape[2]):
                    ratio = (_level(x, window) / _level(y, window)).log().abs()
                    distance = distance + ratio.mean((1, 2, 3)) / (8 * SCALES)
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        return distance

    def decode(self, latents: Tensor) -> Tensor:
        """Luma and two colour differences, (N, 3, 96, 96), about -1..1."""
        with torch.autocast(latents.device.type, torch.bfloat16):
            pictures = self.decoder((latents / self.scaling_factor).contiguous(memory_format=torch.channels_last))
        grey = pictures.float().mean(1, keepdim=True)
        return torch.cat([grey, pictures.float()[:, :2] - grey], 1)


def _gradients(pictures: Tensor) -> tuple[Tensor, ...]:
    """Differences to the right, downward and along both diagonals, all (N, C, h - 1, w - 1)."""
    here, right = pictures[:, :, :-1, :-1], pictures[:, :, :-1, 1:]
    below, across = pictures[:, :, 1:, :-1], pictures[:, :, 1:, 1:]
    return right - here, below - here, across - here, below - right


def _level(gradients: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(gradients.pow(2), window, stride=max(1, window // 2)) + QUIET**2
