"""Learned confidence: a small network looks at the traces a wrong flow leaves and gives two probabilities.

It sees both pictures through `evidence`: how far forward and backward flow disagree, how different the pictures are
along the flow, how much texture there is to hold on to, where the flow itself breaks, and where nothing of the other
frame lands. It was trained on scenes with known flow with the real flows of several estimators
(`flowguide.training.confidence`).
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..errors import ModelError
from ..machine import has_fast_bfloat16
from ..types import Frame

WEIGHTS = Path(__file__).parent.parent / "assets" / "confidence" / "confidence.safetensors"
CHANNELS = 14
"""Maps that `evidence` gives."""


def learned(at: Frame, to: Frame, uv: Tensor, back: Tensor) -> Tensor:
    """Probability, float32 [H, W], that the flow is right within one pixel and the pixel is not occluded."""
    return judged(at, to, uv, back)[0]


def judged(at: Frame, to: Frame, uv: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """(probability that the flow is right within one pixel, whether the pixel is visible), each float32 [H, W].

    The second is a score from 0 to 1 whose one half separates visible from occluded pixels best; it is no probability.
    """
    network = _network(uv.device)
    with torch.inference_mode():
        seen = evidence(at, to, uv, back)[None].contiguous(memory_format=torch.channels_last)
        right, visible = network(seen, at.size)[0].sigmoid()
        inside = uv.isfinite().all(0) & (_margin(uv[None].nan_to_num())[0, 0] >= -0.5)
    return (right * inside).clone(), (visible * inside).clone()


class ConfidenceNetwork(nn.Module):
    """Evidence [N, CHANNELS, h, w] at half resolution -> logits [N, 2, H, W]: right within one pixel; visible.

    The convolutions that weigh the surroundings work at a quarter and an eighth of the frame's resolution; at half of
    it two layers of 1x1 weigh each place's own evidence against that.
    """

    def __init__(self, quarter: int = 32, eighth: int = 48, context: int = 12, mixed: int = 16):
        super().__init__()
        self.enter = nn.Sequential(_layer(CHANNELS * 2, quarter), _layer(quarter, quarter))
        self.down = nn.Sequential(_layer(quarter, eighth, stride=2), _layer(eighth, eighth), _layer(eighth, eighth))
        self.join = nn.Sequential(_layer(quarter + eighth, quarter), nn.Conv2d(quarter, context, 1))
        self.mix = nn.Sequential(nn.Conv2d(CHANNELS + context, mixed, 1), nn.ReLU(), nn.Conv2d(mixed, 2, 1))

    def forward(self, seen: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = seen.shape[2:]
        padded = F.pad(seen, (0, -width % 4, 0, -height % 4), mode="replicate")
        dtype = next(self.parameters()).dtype
        near = self.enter(torch.cat([F.avg_pool2d(padded, 2), F.max_pool2d(padded, 2)], 1).to(dtype))
        far = F.interpolate(self.down(near), scale_factor=2.0, mode="nearest")
        context = self.join(torch.cat([near, far], 1))
        context = F.interpolate(context, scale_factor=2.0, mode="bilinear", align_corners=False)
        logits = self.mix(torch.cat([seen.to(dtype), context[:, :, :height, :width]], 1)).float().contiguous()
        doubled = F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
        return doubled[:, :, : size[0], : size[1]]


def _layer(taken: int, given: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(taken, given, 3, stride, 1), nn.ReLU())


def evidence(at: Frame, to: Frame, uv: Tensor, back: Tensor) -> Tensor:
    """float32 [CHANNELS, ceil(H / 2), ceil(W / 2)], each map roughly in [-1, 2], for the flow uv [2, H, W] from `at` to
    `to` and `back` the other way. All lengths in it are pixels of that half resolution."""
    flow, other = (_halved(field.float().nan_to_num()) / 2 for field in (uv, back))
    here, there = (_halved(frame.rgb.float()) / 255 for frame in (at, to))
    structure_at, texture_at = _structure(here)
    warped = ops.warp(torch.cat([there, other, *_structure(there), _landed(flow)], 1), flow)
    colour = (here - warped[:, :3]).abs().mean(1, keepdim=True)
    returned, structure, texture_to = warped[:, 3:5], (structure_at - warped[:, 5:6]).abs(), warped[:, 6:7]
    error, length = _length(flow + returned), _length(flow)
    maps = [
        0.25 * (error + 0.05).log(),
        error / torch.maximum(0.4 + 0.05 * (length + _length(returned)), error / 2),
        0.3 * (length + 0.1).log(),
        (4 * colour).clamp(max=2),
        0.5 * structure,
        (4 * _mean(colour, 5)).clamp(max=2),
        0.5 * _mean(structure, 5),
        texture_at,
        texture_to,
        0.15 * (_gradient(flow) + 1e-3).log(),
        0.5 * _landed(other),
        0.5 * warped[:, 7:8],
        _divergence(flow).clamp(-1, 1),
        0.25 * _margin(flow).clamp(-4, 4),
    ]
    return torch.cat(maps, 1)[0]


def _halved(picture: Tensor) -> Tensor:
    """[1, C, ceil(H / 2), ceil(W / 2)] of [C, H, W]: means over 2x2 pixels."""
    return F.avg_pool2d(picture[None], 2, ceil_mode=True, count_include_pad=False)


def _length(flow: Tensor) -> Tensor:
    return flow.square().sum(1, keepdim=True).sqrt()


def _structure(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """The grey picture without local mean and contrast, which no change of light alters; and the logarithm of that
    contrast, 0 where there is none."""
    grey = 255 * (rgb * rgb.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    mean = _mean(grey, 5)
    deviation = (_mean(grey * grey, 5) - mean * mean).clamp(min=0).sqrt()
    return (grey - mean) / (deviation + 4), 0.25 * (1 + deviation).log()


def _margin(flow: Tensor) -> Tensor:
    """How far inside the frame the flow ends, in pixels; negative outside."""
    height, width = flow.shape[2:]
    x = torch.arange(width, device=flow.device) + flow[:, 0:1]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1:2]
    return torch.minimum(torch.minimum(x, width - 1 - x), torch.minimum(y, height - 1 - y))


def _mean(value: Tensor, side: int) -> Tensor:
    """Mean over side x side pixels, of those that are there."""
    # Sums of shifted pictures: several times quicker than pooling on a CPU.
    return _summed(_summed(value, side, 3), side, 2) / _present(value, side)


def _summed(value: Tensor, side: int, axis: int) -> Tensor:
    """Sum over `side` neighbours along an axis."""
    length, reach = value.shape[axis], side // 2
    total = value.clone()
    for step in range(1, min(reach, length - 1) + 1):
        total.narrow(axis, 0, length - step).add_(value.narrow(axis, step, length - step))
        total.narrow(axis, step, length - step).add_(value.narrow(axis, 0, length - step))
    return total


def _present(value: Tensor, side: int) -> Tensor:
    """[1, 1, H, W]: how many of side x side pixels lie inside the frame."""
    counts = []
    for length in value.shape[2:]:
        place = torch.arange(length, device=value.device)
        counts.append((place + side // 2).clamp(max=length - 1) - (place - side // 2).clamp(min=0) + 1)
    return (counts[0][:, None] * counts[1])[None, None].to(value.dtype)


def _gradient(flow: Tensor) -> Tensor:
    """|grad u|^2 + |grad v|^2, by differences to the right and below."""
    right = F.pad(flow[..., :, 1:] - flow[..., :, :-1], (0, 1))
    below = F.pad(flow[..., 1:, :] - flow[..., :-1, :], (0, 0, 0, 1))
    return (right.square() + below.square()).sum(1, keepdim=True)


def _divergence(flow: Tensor) -> Tensor:
    """Whether the flow of the surroundings, 9 pixels wide, parts (positive) or meets (negative): pixels per pixel."""
    smooth = F.pad(_mean(flow, 9), (4, 4, 4, 4), mode="replicate")
    along_x = smooth[:, 0:1, 4:-4, 8:] - smooth[:, 0:1, 4:-4, :-8]
    along_y = smooth[:, 1:2, 8:, 4:-4] - smooth[:, 1:2, :-8, 4:-4]
    return (along_x + along_y) / 8


def _landed(flow: Tensor) -> Tensor:
    """How many pixels the flow brings to each pixel of the other frame and around it, 1 where they neither part nor
    meet; at most 3."""
    height, width = flow.shape[2:]
    x = (torch.arange(width, device=flow.device) + flow[:, 0]).round()
    y = (torch.arange(height, device=flow.device)[:, None] + flow[:, 1]).round()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    place = torch.where(inside, y * width + x, torch.full_like(x, height * width)).long().flatten()
    count = torch.bincount(place, minlength=height * width + 1)[: height * width]
    return _mean(count.view(1, 1, height, width).float(), 3).clamp(max=3)


@cache
def weights_digest() -> str:
    """Of the shipped weights, so that what was found with others is not taken for theirs."""
    return hashlib.blake2b(WEIGHTS.read_bytes(), digest_size=8).hexdigest() if WEIGHTS.is_file() else "none"


@cache
def _network(device: torch.device) -> ConfidenceNetwork:
    from safetensors.torch import load_file

    if not WEIGHTS.is_file():
        raise ModelError(f"The learned confidence has no weights: {WEIGHTS} is missing from this installation.")
    network = ConfidenceNetwork()
    network.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    network = network.eval().requires_grad_(False).to(device)
    network.to(torch.bfloat16 if device.type == "cpu" and has_fast_bfloat16() else torch.float32)
    for convolution in network.modules():
        if isinstance(convolution, nn.Conv2d):
            convolution.weight.data = convolution.weight.data.contiguous(memory_format=torch.channels_last)
    return network
