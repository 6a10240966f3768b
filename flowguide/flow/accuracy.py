"""How good a flow and its confidence are where the truth is known.

A pixel's flow is right where it is visible in the other frame and its endpoint error is at most one pixel. Confidence
is taken as the probability of that. A pixel is called occluded where confidence is below one half.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..types import Flow

RIGHT_PX = 1.0
BINS = 15
KEPT = 20
"""Points of the sparsification curve: all pixels, then 95 %, 90 % ... of the most confident."""
SPARSIFIED_EVERY = 3
"""The curve is made of every third pixel along both axes."""


def endpoint_error(uv: Tensor, truth: Tensor) -> Tensor:
    """[H, W] in pixels, of two flows [2, H, W]."""
    return (uv - truth).square().sum(0).sqrt()


class Accuracy:
    """Sums over pairs; every measure is a mean over all pixels, the sparsification curve over pairs."""

    def __init__(self) -> None:
        self.pairs = 0
        self._pixels = self._visible = 0
        self._error = self._visible_error = 0.0
        self._above = dict.fromkeys((1, 3), 0)
        self._occlusion = torch.zeros(2, 3, dtype=torch.int64)
        """Found, called and true occluded pixels, as called and where confidence is below one half."""
        self._bins = torch.zeros(BINS, 3, dtype=torch.float64)
        """Per bin of confidence: pixels, their confidence, right ones."""
        self._curve = torch.zeros(KEPT, dtype=torch.float64)
        self._oracle = torch.zeros(KEPT, dtype=torch.float64)

    def merge(self, other: Accuracy) -> None:
        """Add the pairs of another."""
        for name in ("pairs", "_pixels", "_visible", "_error", "_visible_error"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._above = {limit: count + other._above[limit] for limit, count in self._above.items()}
        for name in ("_occlusion", "_bins", "_curve", "_oracle"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def add(self, flow: Flow, truth: Tensor, visible: Tensor, called_visible: Tensor | None = None) -> None:
        """truth: float [2, H, W] in pixels; visible: bool [H, W].

        called_visible: bool [H, W], for a measure that says so; without it, where confidence is at least one half.
        """
        error = endpoint_error(flow.uv, truth)
        self.pairs += 1
        self._pixels += error.numel()
        self._error += float(error.sum())
        self._visible += int(visible.sum())
        self._visible_error += float(error[visible].sum())
        for limit in self._above:
            self._above[limit] += int((error > limit).sum())
        if flow.confidence is not None:
            called = flow.confidence < 0.5 if called_visible is None else ~called_visible
            self._add_confidence(flow.confidence, error, visible, called)

    def _add_confidence(self, confidence: Tensor, error: Tensor, visible: Tensor, called: Tensor) -> None:
        occluded = ~visible
        for row, guess in enumerate((called, confidence < 0.5)):
            self._occlusion[row] += torch.stack([(guess & occluded).sum(), guess.sum(), occluded.sum()])
        right = ((error <= RIGHT_PX) & visible).double().flatten()
        value = confidence.double().flatten()
        place = (value * BINS).long().clamp(0, BINS - 1)
        self._bins.index_add_(0, place, torch.stack([torch.ones_like(value), value, right], 1))
        some = slice(None, None, SPARSIFIED_EVERY)
        few, doubt = error[some, some], -confidence[some, some]
        self._curve += _sparsified(few, doubt)
        self._oracle += _sparsified(few, few)

    @property
    def epe(self) -> float:
        """Mean endpoint error over all pixels."""
        return self._error / max(self._pixels, 1)

    @property
    def occlusion_f1(self) -> float:
        """Harmonic mean of precision and recall of the pixels called occluded."""
        return self._f1(0)

    @property
    def doubt_f1(self) -> float:
        """The same of the pixels whose confidence is below one half."""
        return self._f1(1)

    def _f1(self, row: int) -> float:
        found, called, true = (int(count) for count in self._occlusion[row])
        return 2 * found / max(called + true, 1)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean distance of confidence and share of right pixels, over 15 bins."""
        pixels, confidence, right = self._bins.unbind(1)
        return float((confidence - right).abs().sum() / pixels.sum().clamp(min=1))

    @property
    def calibration(self) -> list[tuple[float, float, float]]:
        """(mean confidence, share of right pixels, share of all pixels) per bin that holds any."""
        total = float(self._bins[:, 0].sum())
        return [(c / n, r / n, n / total) for n, c, r in self._bins.tolist() if n]

    @property
    def sparsification_area(self) -> float:
        """Area between the curve and that of the true errors: mean error of what is kept, relative to that of all."""
        return float((self._curve - self._oracle).mean() / max(self.pairs, 1))

    def row(self) -> dict[str, float]:
        """All numbers, by name; those of the confidence only where there was one."""
        measured = {
            "epe_px": self.epe,
            "epe_visible_px": self._visible_error / max(self._visible, 1),
            "share_above_1px": self._above[1] / max(self._pixels, 1),
            "share_above_3px": self._above[3] / max(self._pixels, 1),
        }
        if float(self._bins.sum()):
            measured |= {
                "occlusion_f1": self.occlusion_f1,
                "doubt_f1": self.doubt_f1,
                "calibration_error": self.calibration_error,
                "sparsification_area": self.sparsification_area,
            }
        return measured


def _sparsified(error: Tensor, order: Tensor) -> Tensor:
    """[KEPT]: mean error of the pixels kept, relative to that of all, as those of largest `order` are taken away."""
    ranked = error.flatten().double()[order.flatten().argsort(stable=True)]
    sums = ranked.cumsum(0)
    counts = torch.tensor([max(1, round(len(ranked) * (1 - k / KEPT))) for k in range(KEPT)])
    return sums[counts - 1] / counts / (sums[-1] / len(ranked)).clamp(min=1e-9)
