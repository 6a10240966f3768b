"""The meaning of every operation, in plain torch: slow and obvious, for any float dtype and any device.

In float64 on the CPU this file is the truth that every other implementation is tested against. Half-precision tensors
are read as float32, computed in float32 and stored back in their own dtype; so do all other implementations.

Conventions: pixel centres at x = 0..W-1, y = 0..H-1; a flow is (u, v) in pixels, u right, v down; a picture is planar
RGB in [-1, 1]. Sections name docs/math.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .reference_colour import from_model, to_model
from .reference_sampling import FARTHEST_PX, sampled

__all__ = [
    "carry_noise",
    "compose",
    "composite",
    "fill",
    "from_model",
    "guided_step",
    "paste",
    "predict",
    "to_model",
    "warp",
]

RELIABLE = 0.5
"""From this confidence on `composite(rule="best")` counts a pixel as reliable."""


@dataclass(frozen=True)
class ConfidenceSettings:
    """When a flow vector is believed (section 4)."""

    relative: float = 0.01
    """Share of |F|^2 + |F_back|^2 that the forward-backward error squared may reach."""
    absolute_px2: float = 0.5
    """Added to it, in px^2 at a picture width of 1024; scales with the width squared."""
    absolute_floor_px2: float = 0.1
    """Least value of that addition, px^2: below it the noise of any estimator counts as occlusion."""
    softness: float = 0.5
    """Part of the threshold over which confidence falls from 1 to 0; 0 < softness <= 1."""
    boundary: bool = True
    """Whether motion boundaries are distrusted."""
    boundary_relative: float = 0.01
    boundary_absolute: float = 0.002
    """Confidence is 1 while |grad u|^2 + |grad v|^2 <= boundary_relative |F|^2 + boundary_absolute, 0 from twice it."""
    photometric: float | None = 0.1
    """Mean absolute difference of the sources (in [-1, 1]) that halves the confidence; None: not looked at."""

    def allowed_px2(self, width: int) -> float:
        """The absolute part of the forward-backward threshold for a picture `width` pixels wide."""
        return max(self.absolute_px2 * (width / 1024) ** 2, self.absolute_floor_px2)


class Prediction(NamedTuple):
    """What finished pixels say about this frame."""

    prior: Tensor
    """[N, C, H, W]: the finished reference, moved here."""
    confidence: Tensor
    """[N, H, W] in [0, 1]."""
    flow_latent: Tensor
    """[N, 2, h, w]: the flow averaged over the cell, in cells."""
    confidence_latent: Tensor
    """[N, h, w]: the least confidence in the cell."""


class StepRow(NamedTuple):
    """The columns of `guided_step`'s coefficients, in this order (section 2)."""

    P: float
    Q: float
    A: float
    B: float
    C: float = 0.0
    D: float = 0.0
    share: float = 0.0
    """Share of the guidance at this noise level; 0: no guidance."""
    guidance_scale: float = 1.0
    """Classifier-free guidance."""
    clip: float = 0.0
    """x0 is clamped to [-clip, clip] before guidance; 0: not at all."""


def widened(*tensors: Tensor | None) -> torch.dtype:
    """The dtype arithmetic is done in: float64 if any tensor is, else float32."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def clamp01(value: Tensor) -> Tensor:
    """[0, 1], NaN becomes 0."""
    return torch.where(value > 0, value.clamp(max=1), torch.zeros_like(value))


def targets(flow: Tensor) -> tuple[Tensor, Tensor]:
    """x and y of p + F(p), each [N, H, W]."""
    height, width = flow.shape[-2:]
    x = torch.arange(width, device=flow.device, dtype=flow.dtype)
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)
    return x + flow[:, 0], y[:, None] + flow[:, 1]


def inside(x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    """Whether (x, y) lies on the area of the picture: half a pixel beyond the outermost centres still does."""
    return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)


def warp(image: Tensor, flow: Tensor, mode: str, border: str) -> Tensor:
    """out(p) = image(p + F(p))."""
    wide = widened(image, flow)
    return sampled(image.to(wide), *targets(flow.to(wide)), mode, border).to(image.dtype)


def consistency(flow: Tensor, back: Tensor, settings: ConfidenceSettings) -> Tensor:
    """Forward-backward confidence [N, H, W]; `back` is the backward flow sampled at p + F(p) (Ruder et al. 2016)."""
    error = (flow + back).square().sum(1)
    squares = flow.square().sum(1) + back.square().sum(1)
    threshold = settings.relative * squares + settings.allowed_px2(flow.shape[-1])
    return clamp01((threshold - error) / (settings.softness * threshold))


def smoothness(flow: Tensor, settings: ConfidenceSettings) -> Tensor:
    """Confidence [N, H, W] that p is on no motion boundary: central differences, the border pixel repeated."""
    padded = torch.nn.functional.pad(flow, (1, 1, 1, 1), mode="replicate")
    along_x = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    along_y = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    gradient = along_x.square().sum(1) + along_y.square().sum(1)
    threshold = settings.boundary_relative * flow.square().sum(1) + settings.boundary_absolute
    return clamp01(2 - gradient / threshold)


def pooled(value: Tensor, cell: int, least: bool) -> Tensor:
    """[N, C, H, W] -> mean (or minimum) over cells; a cell cut by the border pools the pixels it has."""
    height, width = value.shape[-2:]
    beyond = (0, -width % cell, 0, -height % cell)
    if least:
        padded = torch.nn.functional.pad(value, beyond, value=math.inf)
        return -torch.nn.functional.max_pool2d(-padded, cell)
    ones = torch.nn.functional.pad(torch.ones_like(value), beyond)
    padded = torch.nn.functional.pad(value, beyond)
    return torch.nn.functional.avg_pool2d(padded, cell) / torch.nn.functional.avg_pool2d(ones, cell)


def predict(
    reference: Tensor,
    flow: Tensor,
    flow_back: Tensor | None,
    source_at: Tensor | None,
    source_to: Tensor | None,
    given_confidence: Tensor | None,
    cell: int,
    mode: str,
    settings: ConfidenceSettings,
) -> Prediction:
    """Warp, forward-backward check, motion boundary, photometric check and pooling (section 4)."""
    wide = widened(reference, flow)
    field = flow.to(wide)
    x, y = targets(field)
    prior = sampled(reference.to(wide), x, y, mode, "edge")
    if given_confidence is not None:
        confidence = clamp01(given_confidence.to(wide))
    else:
        assert flow_back is not None
        confidence = consistency(field, sampled(flow_back.to(wide), x, y, "bilinear", "edge"), settings)
        if settings.boundary:
            confidence = confidence * smoothness(field, settings)
    if settings.photometric is not None and source_at is not None and source_to is not None:
        moved = sampled(source_to.to(wide), x, y, "bilinear", "edge")
        difference = (source_at.to(wide) - moved).abs().mean(1)
        confidence = confidence * clamp01(1 / (1 + (difference / settings.photometric) ** 4))
    confidence = torch.where(inside(x, y, *field.shape[-2:]), confidence, 0)
    finite = torch.where(field.isfinite(), field, 0).clamp(-FARTHEST_PX, FARTHEST_PX)
    return Prediction(
        prior.to(reference.dtype),
        confidence.to(flow.dtype),
        (pooled(finite, cell, least=False) / cell).to(flow.dtype),
        pooled(confidence[:, None], cell, least=True)[:, 0].to(flow.dtype),
    )


def compose(
    flow_ab: Tensor, flow_bc: Tensor, confidence_ab: Tensor | None, confidence_bc: Tensor | None
) -> tuple[Tensor, Tensor]:
    """F_ac(p) = F_ab(p) + F_bc(p + F_ab(p)); the confidences multiply (section 3)."""
    wide = widened(flow_ab, flow_bc)
    first, second = flow_ab.to(wide), flow_bc.to(wide)
    x, y = targets(first)
    flow = first + sampled(second, x, y, "bilinear", "edge")
    confidence = (inside(x, y, *first.shape[-2:]) & flow.isfinite().all(1)).to(wide)
    if confidence_ab is not None:
        confidence = confidence * clamp01(confidence_ab.to(wide))
    if confidence_bc is not None:
        confidence = confidence * clamp01(sampled(confidence_bc.to(wide)[:, None], x, y, "bilinear", "edge")[:, 0])
    return flow.to(flow_ab.dtype), confidence.to(flow_ab.dtype)


def composite(priors: Tensor, confidences: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """Several priors become one (section 7)."""
    wide = widened(priors, confidences)
    value = clamp01(confidences.to(wide))  # [N, K, H, W]
    if rule == "mean":
        weight = value[:, :, None]
        total = torch.where(weight > 0, weight * priors.to(wide), 0).sum(1)
        prior = torch.where(weight.sum(1) > 0, total / weight.sum(1), 0)
        return prior.to(priors.dtype), value.amax(1).to(confidences.dtype)
    reliable = value >= RELIABLE
    order = reliable.flatten(2).sum(2).argsort(dim=1, descending=True, stable=True)  # largest reliable area first
    ordered = value.gather(1, order[:, :, None, None].expand_as(value))
    first = (ordered >= RELIABLE).to(torch.uint8).argmax(1)  # 0 where none is
    place = torch.where((ordered >= RELIABLE).any(1), first, ordered.argmax(1))
    chosen = order[:, :, None, None].expand_as(value).gather(1, place[:, None])  # [N, 1, H, W]
    confidence = value.gather(1, chosen)
    index = chosen[:, :, None].expand(-1, -1, priors.shape[2], -1, -1)
    prior = torch.where(confidence > 0, priors.gather(1, index)[:, 0], 0)
    return prior, confidence[:, 0].to(confidences.dtype)


def fill(prior: Tensor, confidence: Tensor) -> Tensor:
    """Push-pull (Gortler et al. 1996): averages of known pixels go down a pyramid and come back into the holes."""
    wide = widened(prior, confidence)
    weight = clamp01(confidence.to(wide))[:, None]
    known = torch.where(weight > 0, prior.to(wide), 0)
    return pushed(known, weight).to(prior.dtype)


def pushed(value: Tensor, weight: Tensor) -> Tensor:
    """One level of `fill`: value [N, C, h, w] where weight [N, 1, h, w] is 1, the coarser level where it is 0."""
    height, width = value.shape[-2:]
    if height == 1 and width == 1:
        return torch.where(weight > 0, value, 0)
    even = (0, width % 2, 0, height % 2)
    quarter = torch.nn.functional.avg_pool2d
    mass = 4 * quarter(torch.nn.functional.pad(weight, even), 2)
    total = 4 * quarter(torch.nn.functional.pad(value * weight, even), 2)
    coarse = pushed(torch.where(mass > 0, total / mass, 0), mass.clamp(max=1))
    up = upsampled(coarse, height, width)
    return weight * value + (1 - weight) * up


def upsampled(coarse: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, each coarse pixel being 2x2 fine ones: weights 3/4 and 1/4, the border repeated."""
    x = (torch.arange(width, device=coarse.device, dtype=coarse.dtype) - 0.5) / 2
    y = (torch.arange(height, device=coarse.device, dtype=coarse.dtype) - 0.5) / 2
    grid = (coarse.shape[0], height, width)
    return sampled(coarse, x.expand(grid), y[:, None].expand(grid), "bilinear", "edge")


def guided_step(
    x: Tensor,
    model_output: Tensor,
    coefficients: Tensor,
    model_output_uncond: Tensor | None,
    k0: Tensor | None,
    weight: Tensor | None,
    x0_prev: Tensor | None,
    noise: Tensor | None,
    erode: bool,
) -> tuple[Tensor, Tensor]:
    """One sampler step with guidance (sections 1 and 2). Returns x_next and the guided x0."""
    wide = widened(x)
    columns = coefficients.to(device=x.device, dtype=wide)[:, :, None, None, None].unbind(1)
    p, q, a, b, c, d, share, guidance_scale, clip = columns
    m = model_output.to(wide)
    if model_output_uncond is not None:
        uncond = model_output_uncond.to(wide)
        m = uncond + guidance_scale * (m - uncond)
    x0 = p * x.to(wide) + q * m
    x0 = torch.where(clip > 0, torch.minimum(torch.maximum(x0, -clip), clip), x0)
    if k0 is not None and weight is not None:
        w = clamp01(weight.to(wide))[:, None]
        w = share * (eroded(w) if erode else w)
        x0 = torch.where(w > 0, x0 + w * (k0.to(wide) - x0), x0)
    x_next = a * x.to(wide) + b * x0
    if x0_prev is not None:
        x_next = torch.where(c != 0, x_next + c * x0_prev.to(wide), x_next)
    if noise is not None:
        x_next = torch.where(d != 0, x_next + d * noise.to(wide), x_next)
    return x_next.to(x.dtype), x0.to(x.dtype)


def eroded(weight: Tensor, radius: int = 1) -> Tensor:
    """Least value within `radius` along both axes; the border repeated."""
    padded = torch.nn.functional.pad(weight, (radius,) * 4, mode="constant", value=math.inf)
    return -torch.nn.functional.max_pool2d(-padded, 2 * radius + 1, stride=1)


def carry_noise(noise: Tensor, flow: Tensor, fresh: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """Unit Gaussian noise follows the flow and stays unit Gaussian (section 5)."""
    wide = widened(noise)
    channels, height, width = noise.shape[1:]
    x, y = targets(flow.float())  # float32 in every implementation, so that all address the same source
    column, row = (x + 0.5).floor(), (y + 0.5).floor()
    known = (column >= 0) & (column < width) & (row >= 0) & (row < height)  # false for NaN
    source = torch.where(known, row * width + column, 0).long().flatten(1)  # [N, H*W]
    target = known.flatten(1)
    k = torch.zeros_like(source).scatter_add_(1, source, target.long())
    source_c, target_c = source[:, None].expand(-1, channels, -1), target[:, None]
    z = fresh.to(wide).flatten(2)
    z_sum = torch.zeros_like(z).scatter_add_(2, source_c, torch.where(target_c, z, 0))
    k_here = k.gather(1, source)[:, None].clamp(min=1).to(wide)
    value = noise.to(wide).flatten(2).gather(2, source_c)
    spread = torch.where(k_here > 1, z - z_sum.gather(2, source_c) / k_here, 0)
    carried = torch.where(target_c, value / k_here.sqrt() + spread, z).view_as(noise)
    latent = torch.nn.functional.avg_pool2d(carried, cell) * cell
    return carried.to(noise.dtype), latent.to(noise.dtype)


def box_mean(value: Tensor, radius: int) -> Tensor:
    """Mean within `radius` along both axes, of the pixels that are there."""
    size = 2 * radius + 1
    return torch.nn.functional.avg_pool2d(value, size, stride=1, padding=radius, count_include_pad=False)


def feathered(confidence: Tensor, radius: int) -> Tensor:
    """[N, 1, H, W]: an inward ramp, 0 outside the confident region and 1 from 2 * radius inside it."""
    return box_mean(eroded(confidence, radius), radius)


def paste(generated: Tensor, prior: Tensor, confidence: Tensor, weight: float, feather_px: int, rule: str) -> Tensor:
    """The last word in pixels (section 6): the prior where it is certain, the generated picture elsewhere.

    "multiband" lets the base (a mean over 8 feather_px + 1 pixels) cross over four times as wide as the detail on it.
    """
    wide = widened(generated, prior, confidence)
    certain = clamp01(confidence.to(wide))[:, None]
    background = generated.to(wide)
    region = certain > 0
    difference = torch.where(region, prior.to(wide) - background, 0)
    detail_alpha = base_alpha = feathered(certain, feather_px) * weight
    if rule == "multiband":
        base_radius = 4 * feather_px
        share = box_mean(region.to(wide), base_radius)
        base = torch.where(region, box_mean(difference, base_radius) / share, 0)
        base_alpha = feathered(certain, base_radius) * weight
        finished = background + detail_alpha * (difference - base) + base_alpha * base
    else:
        finished = background + detail_alpha * difference
    finished = finished.to(generated.dtype)
    finished = torch.where(base_alpha == 1, prior.to(generated.dtype), finished)
    return torch.where(detail_alpha == 0, generated, finished)
