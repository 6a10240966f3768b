"""Strategy `previous`: each frame is guided by the finished frame before it.

The finished picture travels as float32 and its confident pixels are never sent through the autoencoder again except
to look at: they are warped and pasted after decoding. Detail survives because pixels are read from a rolling anchor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..config import RenderConfig
from ..diffusion.sampling import LatentGuide
from ..diffusion.tables import StepTable
from ..flow import FlowEstimator
from ..seams import Toner
from ..timing import StageClock
from ..types import Frame, Guide
from .anchor import Anchor
from .stretch import log_area, soundness
from .trust import TRUST, Beginnings, decided, unchanged, unsharp
from .weights import WeightInputs, WeightSchedule, weight_schedule


@dataclass(frozen=True)
class Carried:
    """What the frame before says about this one."""

    guide: Guide
    """Warped finished pixels and how far they are to be trusted."""
    reference: Tensor
    """The finished frame before, [3, H, W]."""
    filled: Tensor
    """The prior [3, H, W] without holes: what the model is pulled toward."""
    uv: Tensor
    """Flow to the frame before, [2, H, W] in pixels."""
    distance_px: Tensor
    """Length of the flow, [H, W] in pixels."""
    anchor: Anchor
    seen: Tensor
    """[3, H, W]: the source's colours when each carried pixel was generated."""
    log_area: Tensor
    """[H, W]: how far each pixel has been stretched since it was generated (see `stretch`)."""
    alike: Tensor
    """[H, W] in [0, 1]: how far the source looks as it did then, whatever the confidence; 0 outside the last frame."""
    tone: Tensor
    """[3, H, W]: the prior in the light of this frame, which the source has changed by as much since it was painted."""
    outside: Tensor
    """[H, W]: 1 where the flow leaves the frame."""

    @property
    def confident_share(self) -> float:
        """Mean confidence over the frame."""
        return float(self.guide.confidence.mean())


@dataclass(frozen=True)
class _Before:
    """What is kept of the frame before."""

    frame: Frame
    kept: Tensor
    """[7, H, W]: `painted`, and `log_area`; in one piece, because all of it is warped at once."""
    anchor: Anchor

    @property
    def painted(self) -> Tensor:
        """[6, H, W]: the finished picture, and the source's colours when each of its pixels was generated."""
        return self.kept[:6]

    @property
    def log_area(self) -> Tensor:
        return self.kept[6]


class PreviousFrame:
    """State and arithmetic of the strategy; one instance per clip."""

    def __init__(self, estimator: FlowEstimator, config: RenderConfig, cell: int, clock: StageClock):
        self._estimator = estimator
        self._cell = cell
        self._clock = clock
        self._before: _Before | None = None
        self._beginnings = Beginnings()
        self._weighed: tuple[Carried, Tensor] | None = None
        self._toner: Toner | None = None
        self.configure(config)

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings; the state stays."""
        self._config = config
        self._schedule: WeightSchedule = weight_schedule(config.flow_weight)

    def carry(self, frame: Frame, source: Tensor) -> Carried | None:
        """The guide for `frame` (source [3, H, W] in [-1, 1]), or None where it has to start anew:
        at the first frame, and where too little of the frame can be trusted."""
        before = self._before
        if before is None:
            return None
        with self._clock("flow"):
            flow, flow_back = self._estimator.both(frame, before.frame)
        with self._clock("glue"):
            uv = flow.uv.to(before.painted.device)
            prediction = ops.predict(
                before.kept[None],
                uv[None],
                flow_back.uv[None].to(uv.device),
                given_confidence=None if flow.confidence is None else flow.confidence[None],
                cell=self._cell,
                mode="spline36",
                settings=TRUST,
            )
            anchor, painted = before.anchor.carried(uv, prediction.prior[0, :6])
            prior, seen = painted[:3].clamp(-1.0, 1.0), painted[3:]  # Spline36 overshoots
            log_areas = (prediction.prior[0, 6] + log_area(uv)).nan_to_num()  # unknown flow may be NaN
            outside = outside_frame(uv)
            looks, sound = unchanged(source, seen), soundness(log_areas)
            confidence = (decided(prediction.confidence[0] * looks) * sound).nan_to_num()
            carried = Carried(
                guide=Guide(prior, confidence),
                reference=before.painted[:3],
                filled=unsharp(ops.fill(prior[None], confidence[None])[0], self._config.unsharp),
                uv=uv,
                distance_px=torch.hypot(uv[0], uv[1]),
                anchor=anchor,
                seen=seen,
                log_area=log_areas,
                alike=decided(looks).mul_(sound).mul_(1.0 - outside).nan_to_num_(),
                tone=(source - seen).add_(prior),
                outside=outside,
            )
        anew = self._beginnings.is_anew(frame.index, carried.confident_share, self._config.cut_share)
        return None if anew else carried

    def latent_guide(self, carried: Carried, k0: Tensor, table: StepTable) -> LatentGuide:
        """The sampler's guide from the encoded prior `k0` [1, C, h, w]."""
        confidence = carried.guide.confidence
        inputs = WeightInputs(
            distance_px=carried.distance_px,
            confidence=confidence,
            latent_size=(k0.shape[2], k0.shape[3]),
            strength=self._config.strength,
        )
        # Where the frame's edge uncovers a line at a time, a cell without pull would paint each line by itself.
        least_in_cell = _least(torch.maximum(confidence, carried.outside), self._cell)
        shown = 1 - F.avg_pool2d(carried.outside[None], self._cell)[0]
        return LatentGuide(k0=k0, weights=(self._schedule(table, inputs) * least_in_cell * shown)[:, None])

    def finish(self, generated: Tensor, carried: Carried) -> Tensor:
        """The finished picture [3, H, W]: carried pixels where they are known, generated ones elsewhere."""
        if self._config.paste == 0.0:
            return generated
        with self._clock("glue"):
            size, device = (generated.shape[1], generated.shape[2]), generated.device
            if self._toner is None or not self._toner.fits(size, device):
                self._toner = Toner(size, device)
            own = self._toner(generated.clone(), carried.tone, carried.guide.confidence, carried.alike)
            return torch.lerp(own, carried.guide.prior, self._pasted(carried))

    def remember(self, frame: Frame, source: Tensor, finished: Tensor, carried: Carried | None) -> None:
        """Keep what the next frame needs."""
        with self._clock("glue"):
            empty = torch.zeros if carried is None else torch.empty
            whole = empty((7, *finished.shape[1:]), dtype=finished.dtype, device=finished.device)
            whole[:3] = finished
            if carried is None:
                whole[3:6] = source
                anchor = Anchor.at(whole[:6])
            else:
                pasted = self._pasted(carried)
                torch.lerp(source, carried.seen, pasted, out=whole[3:6])
                torch.mul(carried.log_area, pasted, out=whole[6])
                anchor = carried.anchor.after(pasted, whole[:6])
        self._before, self._weighed = _Before(frame, whole, anchor), None

    def _pasted(self, carried: Carried) -> Tensor:
        """[H, W]: weight of the carried pixel in the finished picture, which `ops.paste` knows."""
        if self._weighed is None or self._weighed[0] is not carried:
            confidence = carried.guide.confidence[None]
            ones = torch.ones_like(confidence)[None]
            weight, feather_px = self._config.paste, self._config.feather_px
            seam = ops.paste(torch.zeros_like(ones), ones, confidence, weight=weight, feather_px=feather_px)
            self._weighed = carried, seam[0, 0]
        return self._weighed[1]

    def state(self) -> dict[str, Any]:
        """What `restore` needs to guide the next frame; empty where it begins anew."""
        before = self._before
        if before is None:
            return {}
        frame = before.frame
        time_base = [frame.time_base.numerator, frame.time_base.denominator]
        return {
            "frame": {"rgb": frame.rgb, "index": frame.index, "pts": frame.pts, "time_base": time_base},
            "painted": before.painted,
            "log_area": before.log_area,
            "anchor": before.anchor.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        if not state:
            return self.forget()
        told, painted = state["frame"], state["painted"]
        frame = Frame(told["rgb"], told["index"], told["pts"], Fraction(*told["time_base"]))
        kept = torch.cat([painted, state["log_area"][None]])
        self._before = _Before(frame, kept, Anchor.from_state(state["anchor"], painted))

    def forget(self) -> None:
        """Start anew at the next frame."""
        self._before = None


def outside_frame(uv: Tensor) -> Tensor:
    """[H, W]: 1 where the flow [2, H, W] leaves the frame."""
    _, height, width = uv.shape
    x = uv[0] + torch.arange(width, device=uv.device)
    y = uv[1] + torch.arange(height, device=uv.device)[:, None]
    x.sub_(x.clamp(-0.5, width - 0.5)).abs_()
    y.sub_(y.clamp(-0.5, height - 0.5)).abs_()
    return x.add_(y).sign_().nan_to_num_()


def _least(values: Tensor, cell: int) -> Tensor:
    """The least of every whole cell, [H / cell, W / cell]: down first, along lines of memory."""
    height, width = (side // cell for side in values.shape)
    lines = values[: height * cell, : width * cell].reshape(height, cell, width * cell).amin(1)
    return lines.view(height, width, cell).amin(2)
