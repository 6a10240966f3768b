"""What a strategy is that guides each frame by the ones before it, and finishes it before the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..config import RenderConfig
from ..diffusion.sampling import LatentGuide, StepPull
from ..diffusion.tables import StepTable
from ..types import Frame, Guide


class CarriedPixels(Protocol):
    """What earlier frames say about this one."""

    @property
    def guide(self) -> Guide:
        """Warped finished pixels and how far they are to be trusted."""
        ...

    @property
    def reference(self) -> Tensor:
        """The finished frame before, [3, H, W] in [-1, 1]."""
        ...

    @property
    def filled(self) -> Tensor:
        """The prior [3, H, W] without holes: what the model is pulled toward."""
        ...

    @property
    def uv(self) -> Tensor:
        """Flow to the frame before, [2, H, W] in pixels."""
        ...

    @property
    def confident_share(self) -> float:
        """Mean confidence over the frame."""
        ...


@dataclass(frozen=True)
class Shown:
    """What guided a frame, as plain values."""

    guide: Guide
    reference: Tensor
    filled: Tensor
    uv: Tensor
    painted_in: Tensor | None = None
    """int64 [H, W]: the frame in which each carried pixel was painted; None where that is not told."""

    @property
    def confident_share(self) -> float:
        """Mean confidence over the frame."""
        return float(self.guide.confidence.mean())


class FrameByFrame(Protocol):
    """State and arithmetic of such a strategy; one instance per clip. `carried` is what its own `carry` returned."""

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings; the state stays."""

    def carry(self, frame: Frame, source: Tensor) -> CarriedPixels | None:
        """The guide for `frame` (source [3, H, W] in [-1, 1]), or None where it has to start anew."""
        ...

    def latent_guide(self, carried: Any, k0: Tensor, table: StepTable) -> LatentGuide | StepPull:
        """The sampler's guide from the encoded prior `k0` [1, C, h, w]."""
        ...

    def finish(self, generated: Tensor, carried: Any) -> Tensor:
        """The finished picture [3, H, W] from the generated one."""
        ...

    def remember(self, frame: Frame, source: Tensor, finished: Tensor, carried: Any) -> None:
        """Keep what the next frame needs."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs to guide the next frame; empty where it begins anew."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""

    def forget(self) -> None:
        """Start anew at the next frame."""
