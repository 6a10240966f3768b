"""The single measures that `flowguide.metrics` takes of several clips at once, each in constant memory.

Pictures come stacked, float [K, 3, H, W] in 0..255, one per clip; every measure keeps one number per clip.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_SHARE = 0.01
"""A pair of frames whose mask covers less of the picture than this is left out."""
STATIC_PX = 0.25
STATIC_LEVELS = 3.0
"""A pixel is static where the source moves less than STATIC_PX and changes less than STATIC_LEVELS of 255."""
AVERAGED_FRAMES = 16
"""Fidelity compares means over this many frames, so that flicker does not count as infidelity."""

Curve = list[float | None]
"""One number per frame; None where the frame has none."""


class Mean:
    """A running weighted mean of one number per clip."""

    def __init__(self, clips: int):
        self.count = 0
        self._total = torch.zeros(clips, dtype=torch.float64)
        self._weight = torch.zeros(clips, dtype=torch.float64)

    def add(self, values: Tensor, weight: float | Tensor = 1.0) -> None:
        """values: [K]; weight: one for all, or [K]."""
        share = torch.as_tensor(weight, dtype=torch.float64).cpu()
        self._total += torch.where(share > 0, values.double().cpu(), 0) * share
        self._weight += share
        self.count += 1

    @property
    def values(self) -> list[float | None]:
        """The means; None where nothing was added."""
        pairs = zip(self._total.tolist(), self._weight.tolist(), strict=True)
        return [total / weight if weight else None for total, weight in pairs]


class Curves:
    """A curve per clip, as long as the frames seen."""

    def __init__(self, clips: int):
        self.of_clips: list[Curve] = [[] for _ in range(clips)]

    def add(self, values: Tensor, frames: int = 1) -> None:
        """values [K], the same for that many frames."""
        for curve, value in zip(self.of_clips, values.tolist(), strict=True):
            curve += [value] * frames

    def skip(self) -> None:
        """The frame has no value."""
        for curve in self.of_clips:
            curve.append(None)

    def __getitem__(self, clip: int) -> Curve:
        return self.of_clips[clip]


class WarpErrors:
    """E_warp at one lag."""

    def __init__(self, clips: int):
        self.l1, self._l2 = Mean(clips), Mean(clips)
        self.curves = Curves(clips)

    def add(self, pictures: Tensor, warped: Tensor, mask: Tensor) -> None:
        """pictures and the earlier ones warped onto them, [K, 3, H, W]; mask [H, W] in [0, 1]."""
        if float(mask.mean()) < LEAST_SHARE:
            return self.skip()
        difference = pictures - warped
        absolute = masked_mean(difference.abs().mean(1), mask)
        self.l1.add(absolute)
        self._l2.add(masked_mean(difference.square_().mean(1), mask))
        self.curves.add(absolute)

    def skip(self) -> None:
        """The frame has no partner at this lag."""
        self.curves.skip()

    @property
    def rmse(self) -> list[float | None]:
        """Root of the mean over pairs of the masked mean squared difference."""
        return [None if value is None else math.sqrt(value) for value in self._l2.values]


class Flicker:
    """Mean absolute change from frame to frame where the source stands still."""

    def __init__(self, clips: int):
        self.mean, self.curves = Mean(clips), Curves(clips)

    def add(self, pictures: Tensor, before: Tensor, uv: Tensor, mask: Tensor) -> None:
        """The source is the first picture; uv [2, H, W] and mask [H, W] are its flow to the frame before."""
        change = (pictures - before).abs().mean(1)
        still = (uv.square().sum(0) < STATIC_PX**2) & (change[0] < STATIC_LEVELS)
        static = (still & (mask > 0.5)).float()
        share = float(static.mean())
        if share < LEAST_SHARE:
            return self.skip()
        changed = masked_mean(change, static)
        self.mean.add(changed, share)
        self.curves.add(changed)

    def skip(self) -> None:
        """The frame begins a shot, or nothing in it stands still."""
        self.curves.skip()


class Ghost:
    """Share of the warped previous picture in dis-occluded pixels: slope of O - U on warp(O_prev) - U."""

    def __init__(self, clips: int, unguided: int):
        self.mean = Mean(clips)
        self._unguided = unguided

    def add(self, pictures: Tensor, warped: Tensor, hidden: Tensor) -> None:
        """warped: the previous pictures, unmasked; hidden: bool [H, W], dis-occluded pixels."""
        where = hidden.flatten().nonzero()[:, 0]
        shown, ghost = (stack.flatten(2).index_select(2, where).flatten(1) for stack in (pictures, warped))
        plain = shown[self._unguided].clone()
        shown, ghost = shown - plain, ghost - plain
        energy = ghost.square().sum(1)
        self.mean.add((ghost * shown).sum(1) / energy.clamp(min=1e-6), energy)


class Fidelity:
    """PSNR and SSIM against one of the clips, of pictures averaged over up to `AVERAGED_FRAMES` frames of a shot."""

    def __init__(self, clips: int, unguided: int):
        self._squares, self._ssim = Mean(clips), Mean(clips)
        self.psnr_curves, self.ssim_curves = Curves(clips), Curves(clips)
        self._unguided = unguided
        self._sum: Tensor | None = None
        self._summed = 0

    def add(self, pictures: Tensor) -> None:
        self._sum = pictures.clone() if self._sum is None else self._sum.add_(pictures)
        self._summed += 1
        if self._summed == AVERAGED_FRAMES:
            self.end_shot()

    def end_shot(self) -> None:
        """Compare what has been summed so far."""
        if self._sum is None:
            return
        means = self._sum / self._summed
        plain = means[self._unguided]
        squares = (means - plain).square().mean((1, 2, 3))
        similar = torch.tensor([ssim(picture, plain) for picture in means])
        self._squares.add(squares, self._summed)
        self._ssim.add(similar, self._summed)
        self.psnr_curves.add(torch.tensor([_psnr_db(value) for value in squares.tolist()]), self._summed)
        self.ssim_curves.add(similar, self._summed)
        self._sum, self._summed = None, 0

    @property
    def psnr_db(self) -> list[float | None]:
        return [None if value is None else _psnr_db(value) for value in self._squares.values]

    @property
    def ssim(self) -> list[float | None]:
        return self._ssim.values


class ColourDrift:
    """How far a clip's mean colour moves against another's from the first quarter of a shot to the last."""

    def __init__(self, against: list[int]):
        self.mean, self.curves = Mean(len(against)), Curves(len(against))
        self._against = against
        self._colours: list[Tensor] = []

    def add(self, pictures: Tensor) -> None:
        self._colours.append(pictures.mean((2, 3)).cpu())

    def end_shot(self) -> None:
        frames = len(self._colours)
        if not frames:
            return
        colours = torch.stack(self._colours)  # [T, K, 3]
        offset = colours - colours[:, self._against]
        moved = offset - offset[: max(1, frames // 4)].mean(0)
        for distances in torch.linalg.vector_norm(moved, dim=2):
            self.curves.add(distances)
        if frames >= 4:
            self.mean.add(torch.linalg.vector_norm(moved[-(frames // 4) :].mean(0), dim=1), frames)
        self._colours = []


def _psnr_db(squared: float) -> float:
    return 10 * math.log10(255**2 / max(squared, 1e-10))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """[K]: mean of values [K, H, W] with weights mask [H, W]."""
    return values.flatten(1) @ mask.flatten() / mask.sum()


def luma(rgb: Tensor) -> Tensor:
    """Rec. 601 luma [..., H, W] of rgb [..., 3, H, W]."""
    red, green, blue = rgb.unbind(-3)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def laplacian_energy(rgb: Tensor) -> Tensor:
    """Mean squared Laplacian (four neighbours) of the luma, [K] of rgb [K, 3, H, W]; 0 without inner pixels."""
    y = luma(rgb)
    if min(y.shape[-2:]) < 3:
        return y.new_zeros(len(y))
    around = y[:, :-2, 1:-1] + y[:, 2:, 1:-1] + y[:, 1:-1, :-2] + y[:, 1:-1, 2:]
    return (around - 4 * y[:, 1:-1, 1:-1]).square().mean((1, 2))


def ssim(first: Tensor, second: Tensor) -> float:
    """Structural similarity (Wang et al. 2004) of two pictures [3, H, W] in 0..255: of the luma, Gaussian window."""
    offsets = torch.arange(-5, 6, dtype=torch.float32, device=first.device)
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    line = line / line.sum()

    def mean(picture: Tensor) -> Tensor:
        padded = F.pad(picture[None, None], (5, 5, 5, 5), mode="replicate")
        return F.conv2d(F.conv2d(padded, line.view(1, 1, 1, 11)), line.view(1, 1, 11, 1))[0, 0]

    x, y = luma(first), luma(second)
    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((similar / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))).mean())
