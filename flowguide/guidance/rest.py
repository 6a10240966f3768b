"""Where a path along the clip is no motion at all.

The flow of what rests is noise, different between every two frames, and a sharp picture that is moved by noise
trembles. Where the camera rests, a place rests where the source looks as much like the far frame at the same place as
it does along the path. Where the source has no texture to tell, the textured places around it decide (push-pull).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..types import Frame
from .paths import Path

WORSE_LEVELS, OVERFIT = 0.7, 0.1
"""How much worse, in grey levels, resting may look than the path; and the share by which a path follows noise."""
CONTRADICTED_LEVELS = 2.0
"""The same where there is no texture and all around rests."""
TEXTURE_LEVELS = 3.0
"""Gradient, in grey levels a half pixel, from which a place counts a quarter as textured."""
WINDOW_PX, LOCAL_MEAN_PX = 7, 9
"""Sides in half pixels of the windows of differences, and of the mean that is taken off them: light may change."""
NEIGHBOURS_PX = 5
"""Side in half pixels of the surroundings that must rest as well."""
FARTHEST_PX = 2.0
"""Length of a textured place's path that is not taken for rest; from half of it on it is less and less."""
STILL_PX, RESTING_SHARE = 0.3, 0.5
"""The camera rests where so much of the textured picture has a path no longer than this."""
KEPT = 0.5
"""How much of the judgement before counts: one that changes from frame to frame would make the picture tremble."""


def rested(far: Frame, steps: Sequence[tuple[Frame, Path]]) -> list[Path]:
    """Paths from the frames of a chain to the frame `far`, shortened to nothing where their frame rests."""
    if not steps:
        return []
    there = _half_grey(far)
    last_frame, last_path = steps[-1]
    if not _camera_rests(_half_grey(last_frame), last_path.uv):
        return [path for _, path in steps]
    paths: list[Path] = []
    before: Tensor | None = None
    for frame, path in steps:
        share = resting(_half_grey(frame), there, path.uv)
        before = share if before is None else torch.lerp(share, before, KEPT)
        paths.append(Path(path.uv * (1.0 - before), path.confidence))
    return paths


def resting(here: Tensor, there: Tensor, uv: Tensor) -> Tensor:
    """How far each place rests, [H, W] in [0, 1].

    here, there: grey pictures at half size [1, 1, h, w], 0..255. uv: the path between them, [2, H, W] in whole pixels.
    """
    small = _half(uv[None].nan_to_num()) * 0.5
    worse = _difference(here, there) - (1.0 + OVERFIT) * _difference(here, ops.warp(there, small))
    worse = worse.clamp_min(0.0)
    near = (2.0 - 4.0 * torch.hypot(small[:, :1], small[:, 1:]) / FARTHEST_PX).clamp(0.0, 1.0)
    rests = (-(worse / WORSE_LEVELS).square()).exp() * near
    around = ops.fill(rests, _textured(here)[:, 0]) * (-(worse / CONTRADICTED_LEVELS).square()).exp()
    least = -F.max_pool2d(-around, NEIGHBOURS_PX, 1, NEIGHBOURS_PX // 2)
    return F.interpolate(_mean(least, 5), uv.shape[1:], mode="bilinear")[0, 0]


def _camera_rests(here: Tensor, uv: Tensor) -> bool:
    textured = _textured(here)
    still = (_half(uv[None].nan_to_num()).square().sum(1) < STILL_PX**2).float()
    return float((still * textured[:, 0]).sum()) >= RESTING_SHARE * float(textured.sum())


def _difference(first: Tensor, second: Tensor) -> Tensor:
    difference = first - second
    return _mean((difference - _mean(difference, LOCAL_MEAN_PX)).abs(), WINDOW_PX)


def _textured(grey: Tensor) -> Tensor:
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * 0.5
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) * 0.5
    energy = _mean(across.square() + down.square(), 5)
    return (energy / (energy + TEXTURE_LEVELS**2)).square()


def _mean(picture: Tensor, side: int) -> Tensor:
    return F.avg_pool2d(picture, side, 1, side // 2, count_include_pad=False)


def _half_grey(frame: Frame) -> Tensor:
    red, green, blue = frame.rgb.float()
    return _half((0.299 * red + 0.587 * green + 0.114 * blue)[None, None])


def _half(picture: Tensor) -> Tensor:
    return F.avg_pool2d(picture, 2, ceil_mode=True, count_include_pad=False)
