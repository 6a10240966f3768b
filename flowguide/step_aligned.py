"""Rendering with the strategy `step-aligned`: one model call holds frame t at step 0, t - 1 at step 1 and so on.

Frame t at step k needs frame t - 1 at step k alone, so K frames are under way at once and each model call is a batch of
K rows. A frame comes out K calls after it went in. Pixels that are known are carried as by the strategy `previous`,
once the frame before is finished.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import ops
from .config import RenderConfig
from .diffusion.image_to_image import NoiseKey
from .diffusion.rows import Row
from .errors import UsageError
from .flow.kept import KeptFlows
from .guidance.anchors import Finished
from .guidance.frame_state import frame_state, restored_frame
from .guidance.previous import PreviousFrame
from .guidance.same_step import SameStep, SameStepPull, pulled_toward
from .later import Parts, refuse_what_needs_the_frame_before
from .types import Frame

NEEDS_FINISHED = {"init": ("warped", "previous", "blend")}
"""Options whose value needs the finished frame before, which is not there when a frame goes in."""
STEPS_DEPEND_ON = ("steps", "strength", "sampler", "eta", "guidance_scale")


@dataclass
class _UnderWay:
    """A frame in the batch."""

    frame: Frame
    """As it came in."""
    whole: Frame
    """Padded, on the model's device."""
    source: Tensor
    """[3, H, W] in [-1, 1]"""
    row: Row
    before: list[Tensor]
    """The guided x0 of the frame before, step by step: it is one step ahead."""
    pull: SameStepPull | None


class StepAlignedFrames:
    """Frames go in one by one and come out in order, as many later as there are steps."""

    def __init__(self, config: RenderConfig, parts: Parts, at_once: int | None = None):
        """at_once: most frames under way; default: as many as there are steps. 1 paints one after the other."""
        if parts.checkpoint.inpainting:
            raise UsageError(
                "An inpainting checkpoint is shown the finished frame before; take the strategy 'previous'."
            )
        self.shot = 0
        self._device, self._model, self._init = parts.checkpoint.device, parts.model, parts.init
        self._clock, self._on_step, self._at_once = parts.clock, parts.on_step, at_once
        self._flow = KeptFlows(parts.flow)
        self._pixels = PreviousFrame(self._flow, config, parts.cell, parts.clock)
        self._same_step = SameStep(self._flow, config, parts.cell)
        self._rows: list[_UnderWay] = []
        self._config = config
        self._before: tuple[Frame, list[Tensor], list[float]] | None = None
        """The last frame that went in, its trail and its timesteps."""
        self.configure(config)

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings. Raises UsageError for what cannot change while frames are under way."""
        refuse_what_needs_the_frame_before(config, NEEDS_FINISHED)
        if self._rows:
            for name in STEPS_DEPEND_ON:
                if getattr(config, name) != getattr(self._config, name):
                    raise UsageError(f"{name} cannot change while frames are under way; finish the clip first.")
        self._config = config
        self._pixels.configure(config)
        self._same_step.configure(config)

    def add(self, frame: Frame, whole: Frame) -> Iterator[tuple[Frame, Finished]]:
        """Take the next frame, padded `whole`; give out the (frame, finished) pairs that are done by then."""
        self._rows.append(self._entered(frame, whole))
        while True:
            yield from self._tick()
            if len(self._rows) < self._room:
                return

    def settle(self, *, end_shot: bool) -> Iterator[tuple[Frame, Finished]]:
        """Finish what is under way; `end_shot`: nothing of it guides what comes."""
        while self._rows:
            yield from self._tick()
        if end_shot:
            self.forget()

    def forget(self) -> None:
        """Begin anew at the next frame."""
        self._rows.clear()
        self._before = None
        self._pixels.forget()

    @property
    def _room(self) -> int:
        """Most frames under way."""
        return self._at_once or max(1, len(self._model.table))

    def _entered(self, frame: Frame, whole: Frame) -> _UnderWay:
        model = self._model
        with self._clock("colour"):
            whole = Frame(whole.rgb.to(self._device), whole.index, whole.pts, whole.time_base)
            source = ops.to_model(whole.rgb[None])[0]
        pull, trail, uv = self._pull(whole, source)
        start = self._init(source[None], self.shot)
        row = model.row(start, NoiseKey(self.shot, frame.index), picture=source[None], flow=uv)
        self._before = whole, row.trail, [float(step) for step in row.table.timestep]
        return _UnderWay(frame, whole, source, row, trail, pull)

    def _pull(self, whole: Frame, source: Tensor) -> tuple[SameStepPull | None, list[Tensor], Tensor | None]:
        """What pulls the frame, the trail it is pulled toward, and the flow to the frame before."""
        if self._before is None:
            return None, [], None
        before, trail, timesteps = self._before
        with self._clock("flow"):
            uv = self._flow.both(whole, before)[0].uv[None].to(self._device)
        if timesteps != [float(step) for step in self._model.table.timestep]:  # changed between two clips' parts
            return None, [], uv
        with self._clock("glue"):
            source_before = ops.to_model(before.rgb[None])[0]
            return self._same_step(whole, before, source, source_before, self._model.table), trail, uv

    def _tick(self) -> Iterator[tuple[Frame, Finished]]:
        """One model call for all that is under way, then what is done by it."""
        under_way = [one for one in self._rows if not one.row.is_done]
        if under_way:
            guided = any(one.pull is not None for one in under_way)
            pull = (lambda x0: self._guide(under_way, x0)) if guided else None
            self._model.advance([one.row for one in under_way], pull, self._on_step, most=self._room)
        while self._rows and self._rows[0].row.is_done:
            yield self._finish(self._rows.pop(0))

    def _guide(self, rows: list[_UnderWay], x0: Tensor) -> tuple[Tensor, Tensor]:
        """k0 and weight of every row; rows that nothing pulls have weight 0."""
        with self._clock("glue"):
            pulls = [(place, one, one.pull) for place, one in enumerate(rows) if one.pull is not None]
            places = [place for place, _, _ in pulls]
            trails = torch.cat([one.before[one.row.step] for _, one, _ in pulls])
            k0, weight = x0.clone(), torch.zeros_like(x0[:, 0])
            k0[places] = pulled_toward(x0[places], trails, [pull for _, _, pull in pulls])
            weight[places] = torch.stack([pull.weights[one.row.step] for _, one, pull in pulls])
            return k0, weight

    def _finish(self, done: _UnderWay) -> tuple[Frame, Finished]:
        carried = self._pixels.carry(done.whole, done.source)
        generated = self._model.decode(done.row.x)[0]
        picture = generated if carried is None else self._pixels.finish(generated, carried)
        self._pixels.remember(done.whole, done.source, picture, carried)
        self._flow.drop(done.whole)
        share = 0.0 if carried is None else carried.confident_share
        return done.frame, Finished(done.whole, picture, share, is_anchor=False, carried=carried)

    def state(self) -> dict[str, Any]:
        """What `restore` needs; nothing may be under way."""
        if self._before is None:
            return {}
        frame, trail, timesteps = self._before
        steps = {str(step): x0 for step, x0 in enumerate(trail)}
        return {"frame": frame_state(frame), "trail": steps, "timesteps": timesteps, "pixels": self._pixels.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self.forget()
        if state:
            trail = [state["trail"][str(step)] for step in range(len(state["trail"]))]
            self._before = restored_frame(state["frame"]), trail, list(state["timesteps"])
            self._pixels.restore(state["pixels"])
