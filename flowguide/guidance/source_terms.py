"""What the picture's own knobs of the strategy `source` do: edges, depth, semantics.

Each is a function of (picture, source, strength) that returns by how much the picture should change for its loss to
fall; pictures are [3, H, W] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import RenderConfig
from ..diffusion.hints import Depth
from ..diffusion.semantics import Likeness
from .source import Strength, Term, knobs_of

LUMA = (0.299, 0.587, 0.114)
MOST_SEMANTIC = 0.2
"""Root mean square of the change that one step of the semantic pull makes, at most."""


def edges(picture: Tensor, source: Tensor, strength: Strength) -> Tensor:
    """The minimiser of |y − x|² + W |∇y − ∇T|² over the grey picture y, ∇ being Sobel's operator / 8.

    In frequencies it is y = x + WΛ/(1 + WΛ) (T − x) with Λ = |∇|², a high pass of the difference: the screened Poisson
    equation, exact for pictures that are mirrored at their border. All channels change alike, so colours stay.
    """
    difference = _grey(source) - _grey(picture)
    height, width = difference.shape
    mirrored = torch.cat([difference, difference.flip(0)])
    mirrored = torch.cat([mirrored, mirrored.flip(1)], dim=1)
    down = 2.0 * torch.pi * torch.fft.fftfreq(2 * height, device=difference.device)[:, None]
    across = 2.0 * torch.pi * torch.fft.rfftfreq(2 * width, device=difference.device)
    power = (across.sin() * (1.0 + down.cos()) / 2.0) ** 2 + (down.sin() * (1.0 + across.cos()) / 2.0) ** 2
    spectrum = torch.fft.rfft2(mirrored)
    if strength.lets_go(float((spectrum.abs().square() * power).mean()) / mirrored.numel()):
        return torch.zeros_like(picture)
    weight = abs(strength.weight) * power
    change = torch.fft.irfft2(spectrum * weight / (1.0 + weight), s=tuple(mirrored.shape))[:height, :width]
    return _where(strength, change if strength.weight > 0 else -change).expand_as(picture)


class DepthTerm:
    """Pulls the picture toward the source where its depth is another.

    The network has no gradient here; but a picture that is the source has the source's depth, so the difference of the
    depths d decides how strongly it is pulled there: W d / (1 + W d).
    """

    def __init__(self, depth: Callable[[Tensor], Tensor]):
        """depth: picture [1, 3, H, W] -> nearness [1, 3, H, W] in [0, 1]."""
        self._depth = depth

    def __call__(self, picture: Tensor, source: Tensor, strength: Strength) -> Tensor:
        apart = (self._depth(picture[None]) - self._depth(source[None]))[0, :1].abs().to(picture.device)
        if strength.lets_go(float(apart.square().mean())):
            return torch.zeros_like(picture)
        weight = abs(strength.weight) * apart
        change = weight / (1.0 + weight) * (source - picture)
        return _where(strength, change if strength.weight > 0 else -change)


class SemanticTerm:
    """Pulls the picture toward what CLIP sees in the source, the same places compared.

    One step of Polyak's length along the gradient: as far as the loss would take to reach 0 if it were linear.
    """

    def __init__(self, likeness: Likeness):
        self._likeness = likeness

    def __call__(self, picture: Tensor, source: Tensor, strength: Strength) -> Tensor:
        loss, gradient = self._likeness.loss(picture, source)
        length = float(gradient.square().sum())
        if strength.lets_go(loss) or not length:
            return torch.zeros_like(picture)
        share = strength.weight / (1.0 + abs(strength.weight))
        change = -share * loss / length * gradient
        strongest = float(change.square().mean().sqrt())
        return _where(strength, change * min(1.0, MOST_SEMANTIC / max(strongest, 1e-12)))


def terms_of(config: RenderConfig, device: torch.device) -> dict[str, Term]:
    """The terms that `config` has the networks for. Raises ModelError and BackendMissing where one cannot be loaded."""
    knobs = knobs_of(config)
    terms: dict[str, Term] = {"edge": edges}
    if config.depth_model is not None and not knobs["depth"].is_off:
        terms["depth"] = DepthTerm(Depth(Path(config.depth_model).expanduser()))
    if config.clip_model is not None and not knobs["semantic"].is_off:
        terms["semantic"] = SemanticTerm(Likeness(Path(config.clip_model).expanduser(), device, config.allow_pickle))
    return terms


def _grey(picture: Tensor) -> Tensor:
    """[H, W] in [0, 1]."""
    weights = picture.new_tensor(LUMA).view(3, 1, 1)
    return ((picture + 1.0) / 2.0 * weights).sum(0)


def _where(strength: Strength, change: Tensor) -> Tensor:
    """`change` [C, H, W] or [H, W] of a grey picture in [0, 1], where the strength's mask is."""
    change = change if change.ndim == 3 else 2.0 * change[None]
    if strength.mask is None:
        return change
    down, right = change.shape[1] - strength.mask.shape[0], change.shape[2] - strength.mask.shape[1]
    return change * F.pad(strength.mask[None, None], (0, right, 0, down), mode="replicate")[0].to(change.device)
