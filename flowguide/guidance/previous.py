"""Strategy `previous`: each frame is guided by the finished frame before it.

The finished picture travels as float32 and its confident pixels are never sent through the autoencoder again except
to look at: they are warped once per frame and pasted after decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..config import RenderConfig
from ..diffusion.sampling import LatentGuide
from ..diffusion.tables import StepTable
from ..flow import FlowEstimator
from ..timing import StageClock
from ..types import Frame, Guide
from .sharpness import restored
from .weights import WeightInputs, WeightSchedule, weight_schedule


@dataclass(frozen=True)
class Carried:
    """What the frame before says about this one."""

    guide: Guide
    """Warped finished pixels and how far they are to be trusted."""
    filled: Tensor
    """The prior [3, H, W] without holes: what the model is pulled toward."""
    confidence_latent: Tensor
    """float [h, w]: least confidence in each latent cell."""
    distance_px: Tensor
    """Length of the flow, [H, W] in pixels."""

    @property
    def confident_share(self) -> float:
        """Mean confidence over the frame."""
        return float(self.guide.confidence.mean())


class PreviousFrame:
    """State and arithmetic of the strategy; one instance per clip."""

    def __init__(self, estimator: FlowEstimator, config: RenderConfig, cell: int, clock: StageClock):
        self._estimator = estimator
        self._cell = cell
        self._clock = clock
        self._before: tuple[Frame, Tensor, Tensor] | None = None
        self.configure(config)

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings; the state stays."""
        self._config = config
        self._schedule: WeightSchedule = weight_schedule(config.flow_weight)

    def carry(self, frame: Frame, source: Tensor) -> Carried | None:
        """The guide for `frame` (source [3, H, W] in [-1, 1]), or None where it has to start anew:
        at the first frame, and at a cut."""
        if self._before is None:
            return None
        before, source_before, finished = self._before
        with self._clock("flow"):
            flow, flow_back = self._estimator.both(frame, before)
        with self._clock("glue"):
            prediction = ops.predict(
                finished[None],
                flow.uv[None].to(finished.device),
                flow_back.uv[None].to(finished.device),
                source[None],
                source_before[None],
                None if flow.confidence is None else flow.confidence[None],
                cell=self._cell,
            )
            guide = Guide(prediction.prior[0], prediction.confidence[0])
            carried = Carried(
                guide=guide,
                filled=ops.fill(prediction.prior, prediction.confidence)[0],
                confidence_latent=prediction.confidence_latent[0],
                distance_px=torch.linalg.vector_norm(flow.uv, dim=0),
            )
        return None if carried.confident_share < self._config.cut_share else carried

    def latent_guide(self, carried: Carried, k0: Tensor, table: StepTable) -> LatentGuide:
        """The sampler's guide from the encoded prior `k0` [1, C, h, w]."""
        inputs = WeightInputs(
            distance_px=carried.distance_px,
            confidence=carried.guide.confidence,
            latent_size=(k0.shape[2], k0.shape[3]),
            strength=self._config.strength,
        )
        weights = self._schedule(table, inputs) * carried.confidence_latent
        return LatentGuide(k0=k0, weights=weights[:, None])

    def finish(self, generated: Tensor, carried: Carried | None) -> Tensor:
        """The finished picture [3, H, W]: carried pixels where they are known, generated ones elsewhere."""
        if carried is None or self._config.paste == 0.0:
            return generated
        with self._clock("glue"):
            prior = restored(carried.guide.prior, generated, carried.guide.confidence, self._config.sharpen)
            return ops.paste(
                generated[None],
                prior[None],
                carried.guide.confidence[None],
                weight=self._config.paste,
                feather_px=self._config.feather_px,
            )[0]

    def remember(self, frame: Frame, source: Tensor, finished: Tensor) -> None:
        """Keep what the next frame needs."""
        self._before = (frame, source, finished)

    def forget(self) -> None:
        """Start anew at the next frame."""
        self._before = None
