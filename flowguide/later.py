"""What a strategy is that gives frames out later than it takes them, and what it paints with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .config import RenderConfig
from .diffusion.checkpoint import Checkpoint
from .diffusion.image_to_image import ImageToImage
from .diffusion.init import InitialLatent
from .diffusion.sampling import StepCallback
from .errors import UsageError
from .flow import FlowEstimator
from .guidance.anchors import Finished
from .timing import StageClock
from .types import Frame


@dataclass(frozen=True)
class Parts:
    """What the renderer has, for its strategy to paint with."""

    checkpoint: Checkpoint
    model: ImageToImage
    init: InitialLatent
    flow: FlowEstimator
    clock: StageClock
    on_step: StepCallback | None
    explain: bool
    """Whether frames tell what guided them."""

    @property
    def cell(self) -> int:
        """Pixels along the side of a latent cell."""
        return self.checkpoint.autoencoder.cell


class Later(Protocol):
    """A strategy that needs frames ahead: they go in one by one and come out in order, later."""

    shot: int

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings."""

    def add(self, frame: Frame, whole: Frame) -> Iterator[tuple[Frame, Finished]]:
        """Take the next frame, padded `whole`; give out (frame, finished) pairs, none or several."""
        ...

    def settle(self, *, end_shot: bool) -> Iterator[tuple[Frame, Finished]]:
        """Finish what waits; `end_shot`: nothing of it is carried on."""
        ...

    def state(self) -> dict[str, Any]:
        """What `restore` needs; nothing may wait."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""


def refuse_what_needs_the_frame_before(config: RenderConfig, needing: Mapping[str, tuple[str, ...]]) -> None:
    """needing: option -> the values that need the finished frame before. Raises UsageError where one of them is set."""
    for option, values in needing.items():
        value = getattr(config, option)
        if value in values:
            raise UsageError(
                f"{option} {value!r} needs each frame's finished predecessor; take the strategy 'previous'."
            )
