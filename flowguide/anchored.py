"""Rendering with the strategy `anchors`: frames go in one by one and come out in order, later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .config import RenderConfig
from .diffusion.image_to_image import NoiseKey
from .diffusion.program import cuda_graph
from .diffusion.programs import CarriedPrograms
from .guidance.anchors import Anchors, Finished
from .guidance.generated import Generated
from .guidance.rules import anchor_rule
from .later import Parts, refuse_what_needs_the_frame_before
from .machine import threads_beside
from .types import Frame

NEEDS_FINISHED = {"noise": ("carried",), "init": ("previous",)}
"""Options whose value needs the finished frame before."""


class AnchoredFrames:
    """The strategy with the renderer's model; holds the frames that wait for their next anchor."""

    def __init__(self, config: RenderConfig, parts: Parts):
        refuse_what_needs_the_frame_before(config, NEEDS_FINISHED)
        self.shot = 0
        self._device = parts.checkpoint.device
        self._generated = Generated(
            parts.model, parts.init, parts.cell, lambda frame: NoiseKey(self.shot, frame.index), parts.on_step
        )
        self._generated.configure(config)
        if config.runtime == "torch-graphed":
            self._generated.fill = CarriedPrograms(cuda_graph)
        rule = anchor_rule(config.anchors, config.anchor_frames)
        self._anchors = Anchors(
            parts.flow,
            rule,
            self._generated,
            feather_px=config.feather_px,
            paste=config.paste,
            clock=parts.clock,
            threads=threads_beside(self._device),
            explain=parts.explain,
        )
        self._sources: dict[int, Frame] = {}

    @property
    def painted(self) -> int:
        """Frames that the model has painted so far."""
        return self._generated.painted

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings; the width of the seam and the weight of carried pixels stay."""
        self._generated.configure(config)

    def add(self, frame: Frame, whole: Frame) -> Iterator[tuple[Frame, Finished]]:
        """Take the next frame, padded `whole`; give out (frame, finished) pairs, none or several."""
        self._sources[frame.index] = frame
        on_device = Frame(whole.rgb.to(self._device), whole.index, whole.pts, whole.time_base)
        yield from self._paired(self._anchors.add(on_device))

    def settle(self, *, end_shot: bool) -> Iterator[tuple[Frame, Finished]]:
        """Finish what waits, the last frame as an anchor; `end_shot`: nothing of it is carried on."""
        yield from self._paired(self._anchors.end_shot() if end_shot else self._anchors.settle())

    def _paired(self, finished: Iterator[Finished]) -> Iterator[tuple[Frame, Finished]]:
        for done in finished:
            yield self._sources.pop(done.frame.index), done

    def state(self) -> dict[str, Any]:
        """What `restore` needs; nothing may wait."""
        return self._anchors.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._sources.clear()
        self._anchors.restore(state)
