"""A flow as a picture: the Middlebury colour wheel, and a frame overlaid with arrows and doubt."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..types import Flow, Frame

WHEEL = (("yellow", 15), ("green", 6), ("cyan", 4), ("blue", 11), ("magenta", 13), ("red", 6))
"""Colours passed when the wheel is walked from red, and the steps that lead to each (Baker et al. 2011)."""
CORNERS = {
    "red": (1, 0, 0),
    "yellow": (1, 1, 0),
    "green": (0, 1, 0),
    "cyan": (0, 1, 1),
    "blue": (0, 0, 1),
    "magenta": (1, 0, 1),
}
DOUBT = (255, 0, 110)
"""Colour that pixels without confidence are tinted with."""


def colour_wheel(flow: Flow, longest_px: float | None = None) -> Tensor:
    """uint8 [3, H, W]: direction as hue, length as saturation; white does not move, black is not known.

    longest_px: the length that is fully saturated; without it, the flow's own 99th percentile. Longer is darker.
    """
    known = flow.uv.isfinite().all(0)
    u, v = torch.where(known, flow.uv.float(), 0)
    length = torch.hypot(u, v)
    if longest_px is None:
        longest_px = float(length.flatten().sort().values[math.ceil(0.99 * length.numel()) - 1])
    relative = length / max(longest_px, 1e-6)
    wheel = _wheel().to(u.device)
    place = (torch.atan2(-v, -u) / math.pi + 1) / 2 * (len(wheel) - 1)
    below = place.floor().long()
    fraction = (place - below)[..., None]
    hue = (1 - fraction) * wheel[below] + fraction * wheel[(below + 1) % len(wheel)]
    inside = 1 - relative.clamp(max=1)[..., None] * (1 - hue)
    colour = torch.where(relative[..., None] <= 1, inside, 0.75 * hue)
    return (torch.where(known[..., None], colour, 0) * 255).round().to(torch.uint8).permute(2, 0, 1).contiguous()


def overlay(frame: Frame, flow: Flow, spacing_px: int = 24) -> Tensor:
    """uint8 [3, H, W]: the frame, tinted where confidence is low, with an arrow every `spacing_px` pixels."""
    import cv2
    import numpy as np

    picture = frame.rgb.float().cpu()
    if flow.confidence is not None:
        doubt = 0.7 * (1 - flow.confidence.float().cpu())
        picture = picture + doubt * (torch.tensor(DOUBT, dtype=torch.float32).view(3, 1, 1) - picture)
    canvas = np.ascontiguousarray(picture.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy())
    height, width = flow.size
    uv = flow.uv.float().cpu()
    for y in range(spacing_px // 2, height, spacing_px):
        for x in range(spacing_px // 2, width, spacing_px):
            u, v = uv[0, y, x].item(), uv[1, y, x].item()
            if math.isfinite(u) and math.isfinite(v):
                end = (round(x + u), round(y + v))
                cv2.arrowedLine(canvas, (x, y), end, (255, 255, 255), 1, cv2.LINE_AA, tipLength=0.3)
    return torch.from_numpy(canvas).permute(2, 0, 1).contiguous()


def _wheel() -> Tensor:
    """float [55, 3] in [0, 1]: hues from red and round again."""
    rows = []
    start = torch.tensor(CORNERS["red"], dtype=torch.float32)
    for name, steps in WHEEL:
        end = torch.tensor(CORNERS[name], dtype=torch.float32)
        rows += [start + (end - start) * k / steps for k in range(steps)]
        start = end
    return torch.stack(rows)
