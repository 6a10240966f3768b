"""Strategy `references`: each frame is guided by several finished frames, the best region of each.

The closest reference comes first, as under `previous`: what it shows is read there. Frames further back, at lags of
2, 4, 8 …, show what it does not: what was hidden for a while and comes back (Ruder et al. 2016, closest-first
long-term consistency). They are reached by a flow of their own, since the chain of flows ends where a pixel was hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..config import RenderConfig
from ..diffusion.sampling import LatentGuide
from ..diffusion.tables import StepTable
from ..errors import UsageError
from ..flow import FlowEstimator
from ..timing import StageClock
from ..types import Frame, Guide
from .anchor import Anchor
from .frame_state import frame_state, restored_frame
from .previous import Carried, PreviousFrame, outside_frame
from .stretch import log_area, soundness
from .trust import TRUST, decided, unchanged, unsharp

ENOUGH = 0.995
"""Share of the frame that is known from closer references, from which further ones are not asked."""
SPECK_PX = 2
"""A region up to twice as wide is not taken from a further reference: specks of it would be a patchwork."""

SEAM_PX = 3
"""Half the width of the seam between two references."""


def reference_lags(text: str) -> tuple[int, ...]:
    """'1,2,4,8' -> (1, 2, 4, 8): frames back to each reference. Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    lags = tuple(int(part) if part.isdecimal() else 0 for part in parts)
    if lags[0] != 1 or any(far <= near for near, far in pairwise(lags)) or lags[-1] > MOST_LAG:
        raise UsageError(
            f"The lags of references are frames back, from 1 on, growing, up to {MOST_LAG}, such as 1,2,4,8; "
            f"got {text!r}."
        )
    return lags


MOST_LAG = 64
"""Finished frames that are kept at most."""


def closest_first(confidences: Tensor) -> Tensor:
    """c_j ← max(c_j − Σ_{i<j} c_i, 0) along the first dimension of [K, H, W], closest reference first.

    What comes out sums up to the largest confidence of all, so nothing counts twice.
    """
    left: list[Tensor] = []
    taken = torch.zeros_like(confidences[0])
    for confidence in confidences:
        left.append((confidence - taken).clamp_min(0.0))
        taken = taken + left[-1]
    return torch.stack(left)


@dataclass(frozen=True)
class _Kept:
    """A finished frame further back."""

    frame: Frame
    painted: Tensor
    """float16 [7, H, W]: the finished picture, the source's colours when each pixel was painted, its log area."""


class References:
    """State and arithmetic of the strategy; one instance per clip and direction."""

    def __init__(
        self,
        estimator: FlowEstimator,
        config: RenderConfig,
        cell: int,
        clock: StageClock,
        lags: Sequence[int] | None = None,
    ):
        """lags: frames back to each reference, from 1; default: those of `config`."""
        self._previous = PreviousFrame(estimator, config, cell, clock)
        self._estimator, self._clock = estimator, clock
        self._lags = tuple(reference_lags(config.reference_lags) if lags is None else lags)
        self._kept: list[_Kept] = []
        self.configure(config)

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings; the state stays."""
        self._config = config
        self._previous.configure(config)

    def carry(self, frame: Frame, source: Tensor) -> Carried | None:
        """The guide for `frame` (source [3, H, W] in [-1, 1]), or None where it has to start anew."""
        near = self._previous.carry(frame, source)
        far = []
        open_area = torch.ones_like(source[0]) if near is None else 1.0 - near.guide.confidence
        for lag in self._lags[1:]:
            if lag > len(self._kept) or float(open_area.mean()) < 1.0 - ENOUGH:
                break
            wanted = _grown(_solid(open_area), 2 * SEAM_PX)
            view = self._seen_from(frame, source, self._kept[-lag], wanted)
            far.append(view)
            open_area = open_area * (1.0 - view.confidence)
        if not far:
            return near
        with self._clock("glue"):
            carried = self._composed(source, near, far)
        return None if carried.confident_share < self._config.cut_share else carried

    def _seen_from(self, frame: Frame, source: Tensor, kept: _Kept, wanted: Tensor) -> _Far:
        """A reference further back, moved to `frame`; it is believed where it is `wanted`, [H, W] 0 or 1."""
        with self._clock("flow"):
            flow, back = self._estimator.both(frame, kept.frame)
        with self._clock("glue"):
            uv = flow.uv.to(source.device)
            found = ops.predict(
                kept.painted.float()[None],
                uv[None],
                back.uv[None].to(uv.device),
                given_confidence=None if flow.confidence is None else flow.confidence[None],
                mode="spline36",
                settings=TRUST,
            )
            layers = found.prior[0]
            layers[:3] = layers[:3].clamp(-1.0, 1.0)  # Spline36 overshoots
            layers[6] = layers[6] + log_area(uv)
            trust = decided(found.confidence[0] * unchanged(source, layers[3:6])) * soundness(layers[6])
            return _Far(kept, uv, layers, trust.nan_to_num() * _solid(trust) * wanted)

    def _composed(self, source: Tensor, near: Carried | None, far: Sequence[_Far]) -> Carried:
        """What the closest reference and those further back say together."""
        layers, trusts = [view.layers for view in far], [view.confidence for view in far]
        if near is not None:
            for further, trust in zip(layers, trusts, strict=True):
                further[:3] = _matched(further[:3], trust, near.guide)
            layers.insert(0, torch.cat([near.guide.prior, near.seen, near.log_area[None]]))
            trusts.insert(0, near.guide.confidence)
        confidence = torch.stack(trusts).amax(0)
        shares = closest_first(torch.stack([*_with_seams(trusts), trusts[-1]]))
        mixed, _ = ops.composite(torch.stack(layers)[None], shares[None])
        prior, alike = mixed[0, :3], confidence if near is None else torch.maximum(confidence, near.alike)
        filled = unsharp(ops.fill(prior[None], confidence[None])[0], self._config.unsharp)
        told: dict[str, Any] = {
            "guide": Guide(prior, confidence),
            "filled": filled,
            "seen": mixed[0, 3:6],
            "log_area": mixed[0, 6],
            "alike": alike,
            "tone": source - mixed[0, 3:6] + prior,
        }
        if near is None:
            uv, before = far[0].uv, far[0].kept.painted.float()
            anchor = replace(Anchor.at(before[:6]), kept=torch.zeros_like(confidence))
            told |= {"distance_px": torch.hypot(uv[0], uv[1]), "outside": outside_frame(uv)}
            return Carried(reference=before[:3], uv=uv, anchor=anchor, **told)
        # What comes from further back is not the anchor's: from here on it is read from this frame.
        own = (shares[0] >= shares[1:].amax(0)).to(shares.dtype)
        return replace(near, anchor=replace(near.anchor, kept=near.anchor.kept * own), **told)

    def latent_guide(self, carried: Carried, k0: Tensor, table: StepTable) -> LatentGuide:
        """The sampler's guide from the encoded prior `k0` [1, C, h, w]."""
        return self._previous.latent_guide(carried, k0, table)

    def finish(self, generated: Tensor, carried: Carried) -> Tensor:
        """The finished picture [3, H, W]: carried pixels where they are known, generated ones elsewhere."""
        return self._previous.finish(generated, carried)

    def remember(self, frame: Frame, source: Tensor, finished: Tensor, carried: Carried | None) -> None:
        """Keep what the next frames need."""
        self._previous.remember(frame, source, finished, carried)
        before = self._previous.state()
        if self._lags[-1] > 1:
            painted = torch.cat([before["painted"], before["log_area"][None]]).half()
            self._kept = [*self._kept, _Kept(frame, painted)][-self._lags[-1] :]

    def state(self) -> dict[str, Any]:
        """What `restore` needs to guide the next frame; empty where it begins anew."""
        before = self._previous.state()
        if not before:
            return {}
        kept = {
            str(place): {"frame": frame_state(one.frame), "painted": one.painted}
            for place, one in enumerate(self._kept)
        }
        return {"previous": before, "kept": kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self.forget()
        if state:
            self._previous.restore(state["previous"])
            told = [state["kept"][str(place)] for place in range(len(state["kept"]))]
            self._kept = [_Kept(restored_frame(one["frame"]), one["painted"]) for one in told]

    def forget(self) -> None:
        """Start anew at the next frame."""
        self._previous.forget()
        self._kept = []


@dataclass(frozen=True)
class _Far:
    """A reference further back, as it is seen from the frame."""

    kept: _Kept
    uv: Tensor
    layers: Tensor
    """[7, H, W]"""
    confidence: Tensor


def _matched(further: Tensor, trust: Tensor, near: Guide) -> Tensor:
    """`further` [3, H, W] without its difference from the closest reference, as both know it around the hole."""
    both = ((trust >= 0.5) & (near.confidence >= 0.5)).to(trust.dtype)
    return further + ops.fill(((near.prior - further) * both)[None], both[None])[0]


def _with_seams(trusts: Sequence[Tensor]) -> list[Tensor]:
    """All but the last of the trusts [H, W], falling toward the edge of what they know where further ones know it too:
    one reference goes over into the next, and there is no border of a patch."""
    falling = []
    for place, trust in enumerate(trusts[:-1]):
        beyond = torch.stack(list(trusts[place + 1 :])).amax(0)
        none, all_of_it = torch.zeros_like(trust)[None, None], torch.ones_like(trust)[None, None]
        ramp = ops.paste(none, all_of_it, trust[None], feather_px=SEAM_PX)[0, 0]
        falling.append(torch.where(beyond >= 0.5, ramp, trust))
    return falling


def _solid(confidence: Tensor) -> Tensor:
    """[H, W]: 1 in regions that are certain over more than a speck."""
    certain = (confidence >= 0.5).float()[None, None]
    eroded = -F.max_pool2d(-certain, 2 * SPECK_PX + 1, stride=1, padding=SPECK_PX)
    return _grown(eroded[0, 0], SPECK_PX)


def _grown(region: Tensor, by_px: int) -> Tensor:
    """`region` [H, W] of 0 and 1, wider on all sides."""
    return F.max_pool2d(region[None, None], 2 * by_px + 1, stride=1, padding=by_px)[0, 0]
