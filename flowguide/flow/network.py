"""flowguide-flow: a network that finds both flows of a pair at once, and how far each pixel's can be believed.

Features at an eighth of the frame are compared all with all, once; the softmax over the other frame's places, read
along both axes, gives a first flow either way. Convolutions then weigh it against how surely it was found, and correct
it at an eighth and at a quarter of the frame, each time looking at the other frame's features along the flow. The
error of a pixel's flow is taken for Laplacian, p(e) ~ exp(-|e| / b), and b comes out with the flow, and so does whether
the pixel is visible in the other frame.

Nothing but convolutions, matrix products, softmax and bilinear sampling: any runtime takes it. Trained by
`flowguide.training.flow`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MULTIPLE = 16
"""Both sides of the pictures must be multiples of this."""
CELL = 8
"""Pixels per side of the places that are compared all with all."""
REACH = 2
"""Cells around the end of the flow that the corrections look at, each way."""


@dataclass(frozen=True)
class Judgement:
    """What the network says of 2N ordered pairs: the N given ones, then the same the other way."""

    uv: Tensor
    """float [2N, 2, H, W] in pixels."""
    log_scale: Tensor
    """float [2N, 1, H, W]: log b, in log pixels."""
    visible: Tensor
    """float [2N, 1, H, W]: logit of the pixel being visible in the other frame."""
    coarse: tuple[Tensor, ...]
    """Flows found on the way, each [2N, 2, h, w] in pixels of the frame, on coarser grids; the first is the match."""
    matches: Tensor
    """float [2N, h * w, h * w]: log probability of each place of the other frame."""


class FlowNetwork(nn.Module):
    """first, second: [N, 3, H, W] in 0..255, sides multiples of MULTIPLE -> `Judgement`."""

    def __init__(self, quarter: int = 48, eighth: int = 96, sixteenth: int = 128):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, quarter, 7, 4, 3), nn.ReLU(), Residual(quarter))
        self.deeper = nn.Sequential(_layer(quarter, eighth, 2), Residual(eighth), Residual(eighth))
        self.describe = nn.Conv2d(eighth, eighth, 1)
        self.log_sharpness = nn.Parameter(torch.tensor(3.5))
        looked = (2 * REACH + 1) ** 2
        self.weigh = nn.Sequential(_layer(2 + 3 + looked + eighth, eighth), Residual(eighth))
        self.around = nn.Sequential(_layer(eighth, sixteenth, 2), Residual(sixteenth), Residual(sixteenth, 2))
        self.join = nn.Sequential(_layer(eighth + sixteenth, eighth), Residual(eighth))
        self.correct = nn.Conv2d(eighth, 2, 3, 1, 1)
        self.hand_down = nn.Conv2d(eighth, quarter, 1)
        self.weigh_near = nn.Sequential(_layer(2 + looked + 2 * quarter, quarter), Residual(quarter), Residual(quarter))
        self.answer = nn.Conv2d(quarter, 4, 3, 1, 1)
        self.blend = nn.Sequential(_layer(quarter, 2 * quarter), nn.Conv2d(2 * quarter, 9 * 16, 1))
        for parameter in (*self.correct.parameters(), *self.answer.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, first: Tensor, second: Tensor) -> Judgement:
        pictures = torch.cat([first, second])
        near = self.enter(_levelled(pictures))
        far = self.deeper(near)
        matched, surety, matches = self._matched(self.describe(far))
        coarse = [matched * CELL]
        costs = _along(far, _exchanged(far), matched)
        known = self.weigh(torch.cat([matched / 8, surety, costs, far], 1))
        wide = F.interpolate(self.around(known), scale_factor=2.0, mode="nearest")
        known = self.join(torch.cat([known, wide], 1))
        flow = matched + self.correct(known)
        coarse.append(flow * CELL)
        flow = 2 * F.interpolate(flow, scale_factor=2.0, mode="bilinear", align_corners=False)
        told = F.interpolate(self.hand_down(known), scale_factor=2.0, mode="bilinear", align_corners=False)
        costs = _along(near, _exchanged(near), flow)
        known = self.weigh_near(torch.cat([flow / 16, costs, near, told], 1))
        answer = self.answer(known)
        flow = flow + answer[:, :2]
        coarse.append(flow * 4)
        weights = self.blend(known)
        full = _blended(torch.cat([4 * flow, answer[:, 2:]], 1), 0.25 * weights)
        return Judgement(full[:, :2], full[:, 2:3].clamp(-5, 6), full[:, 3:4], tuple(coarse), matches)

    def _matched(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Expected displacement [2N, 2, h, w] in cells; how surely [2N, 3, h, w]: log probability of the best place,
        whether the place found leads back, and how widely spread the places are; log probabilities [2N, hw, hw]."""
        both, _, height, width = features.shape
        # What all places have in common says nothing about which is which.
        own = features.float() - features.float().mean((2, 3), keepdim=True)
        here, there = F.normalize(own, dim=1).flatten(2).chunk(2)
        places = _grid(height, width, features)
        listed = places.flatten(1).t()
        # Half precision would round positions to half a cell.
        with torch.autocast(features.device.type, enabled=False):
            alike = torch.matmul(here.transpose(1, 2), there) * self.log_sharpness.exp()
            matches = F.log_softmax(torch.cat([alike, alike.transpose(1, 2)]), 2)
            probability = matches.exp()
            expected = torch.matmul(probability, listed[None])
            spread = torch.matmul(probability, listed.square().sum(1)[None, :, None]) - expected.square().sum(2, True)
        mapped = expected.transpose(1, 2).reshape(both, 2, height, width)
        returned = _sampled(_exchanged(mapped), mapped)
        astray = (returned - places[None]).square().sum(1, keepdim=True)
        spread = spread.transpose(1, 2).reshape(both, 1, height, width)
        best = matches.amax(2).reshape(both, 1, height, width)
        surety = torch.cat([0.2 * best, 0.2 * (astray + 0.1).log(), 0.2 * (spread.clamp(min=0) + 0.1).log()], 1)
        return mapped - places[None], surety, matches


class Residual(nn.Module):
    """x + f(x), two 3x3 convolutions."""

    def __init__(self, channels: int, dilation: int = 1):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, 1, dilation, dilation)
        self.second = nn.Conv2d(channels, channels, 3, 1, dilation, dilation)
        nn.init.normal_(self.second.weight, std=0.3 * (channels * 9) ** -0.5)

    def forward(self, value: Tensor) -> Tensor:
        changed: Tensor = self.second(F.relu(self.first(value)))
        return F.relu(value + changed)


def _layer(taken: int, given: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(taken, given, 3, stride, 1), nn.ReLU())


def _levelled(pictures: Tensor) -> Tensor:
    """Without mean and contrast of the whole picture: brightness and exposure tell nothing about motion."""
    centred = pictures - pictures.mean((1, 2, 3), keepdim=True)
    return centred / (centred.square().mean((1, 2, 3), keepdim=True).sqrt() + 2)


def _exchanged(both: Tensor) -> Tensor:
    first, second = both.chunk(2)
    return torch.cat([second, first])


def _grid(height: int, width: int, like: Tensor) -> Tensor:
    """[2, height, width]: x and y of each place."""
    x = torch.arange(width, device=like.device, dtype=torch.float32).expand(height, width)
    y = torch.arange(height, device=like.device, dtype=torch.float32)[:, None].expand(height, width)
    return torch.stack([x, y])


def _sampled(value: Tensor, place: Tensor) -> Tensor:
    """`value` at `place` [N, 2, h, w], in its own pixels; beyond the border as on it."""
    height, width = value.shape[2:]
    size = torch.tensor([width - 1, height - 1], device=value.device, dtype=torch.float32).clamp(min=1)
    place = 2 * place.float().permute(0, 2, 3, 1) / size - 1
    return F.grid_sample(value.float(), place, padding_mode="border", align_corners=True)


def _along(here: Tensor, there: Tensor, flow: Tensor) -> Tensor:
    """[2N, (2 REACH + 1)^2, h, w]: how alike the features are at the end of the flow and around it."""
    height, width = here.shape[2:]
    moved = _sampled(there, flow + _grid(height, width, here)[None]).to(here.dtype)
    padded = F.pad(moved, (REACH, REACH, REACH, REACH))
    reach = range(2 * REACH + 1)
    costs = [(here * padded[:, :, y : y + height, x : x + width]).mean(1, keepdim=True) for y in reach for x in reach]
    return torch.cat(costs, 1)


def _blended(coarse: Tensor, weights: Tensor) -> Tensor:
    """[N, C, 4h, 4w]: each pixel is a mean of the 3x3 values around its place in `coarse` [N, C, h, w], weighted by the
    softmax of `weights` [N, 9 * 16, h, w]."""
    number, channels, height, width = coarse.shape
    shares = weights.reshape(number, 1, 9, 16, height, width).softmax(2)
    padded = F.pad(coarse, (1, 1, 1, 1), mode="replicate")
    around = [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    mixed = (torch.stack(around, 2)[:, :, :, None] * shares).sum(2)
    return F.pixel_shuffle(mixed.reshape(number, channels * 16, height, width), 4)
