"""Several passes over a window of frames: forward, then backward over the finished frames, and so on.

The first pass is that of the strategy. Each later one goes over the window in the other direction: a frame shows what
the frame just finished shows, and what neither that nor the window's past knows is painted once more, pulled toward
what it was. So what came into view line by line is painted as one piece, in the frame that sees all of it, and carried
to those that see less. Pixels that were carried here from before the window stay as they are: nothing pops where one
window ends and the next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import ops
from .config import RenderConfig
from .diffusion.image_to_image import Known, NoiseKey
from .diffusion.sampling import LatentGuide
from .errors import UsageError
from .flow import FlowEstimator
from .flow.kept import KeptFlows
from .guidance.anchors import Finished
from .guidance.frame_by_frame import CarriedPixels, FrameByFrame
from .guidance.weights import WeightInputs, weight_schedule
from .later import Parts
from .one_by_one import OneByOne
from .timing import StageClock
from .types import Frame, Guide

LEAST_NEW = 0.01
"""Share of a frame that must be new for the model to paint it once more."""

MakeGuidance = Callable[[FlowEstimator, RenderConfig, int, StageClock], FrameByFrame]


@dataclass(frozen=True)
class _Waiting:
    """A frame of the window, as the passes so far left it."""

    frame: Frame
    """As it came in."""
    whole: Frame
    """Padded to the model's grid."""
    picture: Tensor
    """[3, H, W]"""
    carried: CarriedPixels | None
    """What guided it in the first pass."""
    rooted: Tensor
    """[H, W]: 1 where its pixels were carried from before the window."""


class Passes:
    """State and arithmetic of several passes; one instance per clip. Memory grows with the window, not the clip."""

    def __init__(self, config: RenderConfig, parts: Parts, make_guidance: MakeGuidance):
        for option, value in (("noise", "carried"), ("init", "previous")):
            if getattr(config, option) == value:
                raise UsageError(f"{option} {value!r} goes through a clip once, frame by frame; leave --passes at 1.")
        self.shot = 0
        self.painted_again = 0
        """Frames that the model has painted in later passes."""
        self._cell = parts.cell
        self._model, self._init, self._clock, self._on_step = parts.model, parts.init, parts.clock, parts.on_step
        self._flow = KeptFlows(parts.flow)
        self._make_guidance = make_guidance
        self._frames = OneByOne(make_guidance(self._flow, config, self._cell, parts.clock), config, parts)
        self._window: list[_Waiting] = []
        self._before: dict[str, Any] = {}
        """State of the guidance before the window; empty at the beginning of a shot."""
        self.configure(config)

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings."""
        self._config = config
        self._frames.configure(config)
        self._schedule = weight_schedule(config.flow_weight)

    def add(self, frame: Frame, whole: Frame) -> Iterator[tuple[Frame, Finished]]:
        """Take the next frame, padded `whole`; give out the window once it is full."""
        if not self._window:
            self._before = self._frames.guidance.state()
        picture, carried = self._frames(whole, self.shot)
        self._window.append(_Waiting(frame, whole, picture, carried, self._rooted(picture, carried)))
        if len(self._window) == self._config.window:
            yield from self.settle(end_shot=False)

    def settle(self, *, end_shot: bool) -> Iterator[tuple[Frame, Finished]]:
        """Make the later passes over what waits and give it out; `end_shot`: nothing of it is carried on."""
        window, self._window = self._window, []
        for number in range(2, self._config.passes + 1):
            window = self._gone_over(window, backward=number % 2 == 0)
        if window:
            self._take_over(window)
        self._flow.drop()
        if end_shot:
            self._frames.guidance.forget()
        for one in window:
            share = 0.0 if one.carried is None else one.carried.confident_share
            yield one.frame, Finished(one.whole, one.picture, share, is_anchor=False, carried=one.carried)

    def _rooted(self, picture: Tensor, carried: CarriedPixels | None) -> Tensor:
        """[H, W]: 1 where the pixels come from before the window, or from the first frame of the shot."""
        if carried is None:
            new_shot = not self._window and not self._before
            return torch.full_like(picture[0], float(new_shot))
        came = torch.ones_like(picture[:1])
        if self._window:
            came = ops.warp(self._window[-1].rooted[None, None], carried.uv[None])[0]
        return self._pasted(torch.zeros_like(came), came, carried.guide.confidence)[0]

    def _gone_over(self, window: Sequence[_Waiting], *, backward: bool) -> list[_Waiting]:
        """One more pass over the window."""
        guidance = self._make_guidance(self._flow, self._config, self._cell, self._clock)
        order = list(reversed(window)) if backward else list(window)
        made = []
        for one in order:
            source = self._frames.source(one.whole)
            carried: Any = guidance.carry(one.whole, source)
            kept = one.rooted
            with self._clock("glue"):
                if carried is None:
                    prior, confidence = one.picture, kept
                else:
                    # What was here before the window wins; the direction of the pass decides the rest.
                    carried = replace(
                        carried, guide=Guide(carried.guide.prior, carried.guide.confidence * (1.0 - kept))
                    )
                    both = torch.stack([one.picture, carried.guide.prior])[None]
                    trusts = torch.stack([kept, carried.guide.confidence])
                    prior = ops.composite(both, trusts[None])[0][0]
                    confidence = trusts.amax(0)
                filled = self._pasted(one.picture, prior, confidence)
            linked = carried is not None or one.carried is not None
            picture = self._painted_again(one, source, filled, confidence) if linked else one.picture
            guidance.remember(one.whole, source, picture, carried)
            made.append(replace(one, picture=picture))
        return made[::-1] if backward else made

    def _painted_again(self, one: _Waiting, source: Tensor, filled: Tensor, confidence: Tensor) -> Tensor:
        """`filled` [3, H, W] with what is new in it painted by the model, where it is more than a sliver."""
        new = (confidence < 0.5).float()
        if float(new.mean()) < LEAST_NEW:
            return filled
        self.painted_again += 1
        k0 = self._model.encode(filled[None])
        certain = torch.ones_like(confidence)
        inputs = WeightInputs(torch.zeros_like(certain), certain, (k0.shape[2], k0.shape[3]), self._config.strength)
        guide = LatentGuide(k0, self._schedule(self._model.table, inputs)[:, None])
        key = NoiseKey(self.shot, one.whole.index)
        start = self._init(source[None], key.shot, k0, certain)
        known = Known(filled[None], new[None, None])
        latents = self._model.denoise(start, key, guide, self._on_step, picture=source[None], known=known)
        return self._pasted(self._model.decode(latents)[0], filled, confidence)

    def _pasted(self, own: Tensor, prior: Tensor, confidence: Tensor) -> Tensor:
        ready = own[None], prior[None], confidence[None]
        return ops.paste(*ready, weight=self._config.paste, feather_px=self._config.feather_px)[0]

    def _take_over(self, window: Sequence[_Waiting]) -> None:
        """Let the next window begin from the finished pictures of this one."""
        guidance = self._frames.guidance
        guidance.restore(self._before)
        for one in window:
            carried: Any = one.carried
            if carried is not None:
                carried = replace(carried, guide=Guide(carried.guide.prior, carried.guide.confidence * one.rooted))
            guidance.remember(one.whole, self._frames.source(one.whole), one.picture, carried)

    def state(self) -> dict[str, Any]:
        """What `restore` needs; nothing may wait."""
        assert not self._window, "frames wait for the end of their window"
        return self._frames.guidance.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._window, self._before = [], {}
        self._frames.guidance.restore(state)
