"""Confidence put together from parts, each with one setting: "consistency+texture+photometric:0.08+erode".

Lengths are those of a picture 1024 pixels wide and scale with the width. math.md, section 4, has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..errors import UnknownName, UsageError
from ..types import Frame

PARTS = {"consistency": 0.5, "texture": 4.0, "boundary": 0.002, "photometric": 0.1, "erode": 4.0}
"""Name -> its setting where none is given.

consistency: forward-backward error that is allowed whatever the motion, px^2 (Ruder et al. 2016). texture: how much
more where the picture has none, px^2: setting * max(0, 1/2 - s / mean s), s the smaller eigenvalue of the structure
tensor. boundary: gradient of the flow, squared, that counts as a motion boundary. photometric: mean absolute difference
of the pictures along the flow, in [-1, 1], that halves the confidence. erode: radius of a minimum filter, px.
"""
REFERENCE_WIDTH_PX = 1024
RELATIVE = 0.01
"""Share of the squared lengths of both flows that is allowed beside the setting."""
LEAST_PX2 = 0.1
"""The noise of any estimator."""


class ConfidenceParts:
    """A confidence measure: the product of its `parts`, name -> setting.

    Raises UnknownName for a part that is not in PARTS, UsageError for a setting that is not positive, or for texture
    without the consistency that it loosens.
    """

    def __init__(self, parts: Mapping[str, float]):
        for name, setting in parts.items():
            if name not in PARTS:
                raise UnknownName("part of confidence", name, PARTS)
            if not (setting > 0 and math.isfinite(setting)):
                raise UsageError(f"The part {name} of confidence should have a setting above 0, got {setting:g}.")
        if not parts or ("texture" in parts and "consistency" not in parts):
            raise UsageError("Confidence is made of 'consistency' and what is added to it: consistency+texture.")
        self.parts = dict(parts)

    @classmethod
    def parse(cls, text: str) -> ConfidenceParts:
        """From "name", "name:setting", joined by "+"."""
        parts = {}
        for part in text.split("+"):
            name, _, setting = part.strip().partition(":")
            try:
                parts[name] = float(setting) if setting else PARTS.get(name, 1.0)
            except ValueError as error:
                raise UsageError(f"The part {part!r} of confidence should be NAME or NAME:NUMBER.") from error
        return cls(parts)

    def __call__(self, at: Frame, to: Frame, uv: Tensor, back: Tensor) -> Tensor:
        """float32 [H, W] in [0, 1]; 0 where the flow leaves the frame or is not known."""
        known = uv.isfinite().all(0)
        flow = uv.float().nan_to_num(0, 0, 0)[None]
        confidence = (known & _inside(flow[0])).float()
        if "consistency" in self.parts:
            confidence = confidence * self._consistency(at, flow, back.float())
        if "boundary" in self.parts:
            confidence = confidence * _smooth(flow, self.parts["boundary"])
        if "photometric" in self.parts:
            here, there = ops.to_model(at.rgb[None]), ops.to_model(to.rgb[None])
            difference = (here - ops.warp(there, flow)).abs().mean(1)[0]
            confidence = confidence / (1 + (difference / self.parts["photometric"]) ** 4)
        if "erode" in self.parts:
            radius = round(self.parts["erode"] * uv.shape[2] / REFERENCE_WIDTH_PX)
            confidence = -F.max_pool2d(-confidence[None], 2 * radius + 1, 1, radius)[0]
        return confidence

    def _consistency(self, at: Frame, flow: Tensor, back: Tensor) -> Tensor:
        returned = ops.warp(back[None], flow)
        error = (flow + returned).square().sum(1)[0]
        squares = (flow.square() + returned.square()).sum(1)[0]
        scale = (flow.shape[3] / REFERENCE_WIDTH_PX) ** 2
        allowed = RELATIVE * squares + max(self.parts["consistency"] * scale, LEAST_PX2)
        if "texture" in self.parts:
            hold = smaller_eigenvalue(at)
            plain = (0.5 - hold / hold.mean().clamp(min=1e-6)).clamp(min=0)
            allowed = allowed + self.parts["texture"] * scale * plain
        agreed: Tensor = ((allowed - error) / (0.5 * allowed)).nan_to_num(0, 0, 0).clamp(0, 1)
        return agreed


def smaller_eigenvalue(frame: Frame) -> Tensor:
    """float32 [H, W]: of the structure tensor of the grey picture over 7x7 pixels: how well a corner holds a match."""
    across, down = _gradient(frame.rgb.float().mean(0)[None, None])
    products = torch.cat([across * across, down * down, across * down], 1)
    xx, yy, xy = F.avg_pool2d(products, 7, 1, 3, count_include_pad=False)[0].unbind(0)
    return (xx + yy) / 2 - (((xx - yy) / 2).square() + xy.square()).sqrt()


def _smooth(flow: Tensor, setting: float) -> Tensor:
    """[H, W]: 1 while |grad u|^2 + |grad v|^2 stays under the threshold, 0 from twice it."""
    across, down = _gradient(flow)
    gradient = (across.square() + down.square()).sum(1)[0]
    return (2 - gradient / (RELATIVE * flow.square().sum(1)[0] + setting)).clamp(0, 1)


def _gradient(value: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of [N, C, H, W] along x and y; the border repeated."""
    padded = F.pad(value, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    return across, (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2


def _inside(uv: Tensor) -> Tensor:
    height, width = uv.shape[1:]
    x = torch.arange(width, device=uv.device) + uv[0]
    y = torch.arange(height, device=uv.device)[:, None] + uv[1]
    return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
