"""Rendering with the strategy `joint`: the frames of a window are denoised together, the others are carried from them.

All painted frames of a window are one batch of the model, and at every step each is pulled toward what the others
predict (see `guidance.together`). Windows overlap: the last finished frames of one pull those of the next. What then
belongs to one picture is pasted as under the strategy `anchors`, whose anchors the painted frames are.
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
from .flow.kept import KeptFlows
from .guidance.anchors import Anchors, Finished, Known, Painted
from .guidance.frame_state import frame_state, restored_frame
from .guidance.generated import Generated
from .guidance.paths import Path, paths_between
from .guidance.rules import Every
from .guidance.together import Mutual, seen_cells
from .guidance.weights import WeightInputs, weight_schedule
from .later import Parts, refuse_what_needs_the_frame_before
from .machine import threads_beside
from .types import Frame

OVERLAP = 2
"""Finished frames of a window that pull the frames of the next."""
NEEDS_FINISHED = {"noise": ("carried",), "init": ("previous", "warped", "blend")}
"""Options whose value needs the finished frame before."""


@dataclass(frozen=True)
class _Arrived:
    """A frame of the window, on the model's device."""

    frame: Frame
    painted: bool
    """Whether the model paints it."""
    to_before: Path | None
    from_before: Path | None


@dataclass(frozen=True)
class _Fixed:
    """A finished frame of the window before."""

    frame: Frame
    latent: Tensor
    """[1, C, h, w]"""
    path: Path
    """From the last frame of its window to it."""


class JointFrames:
    """State and arithmetic of the strategy; one instance per clip. Memory grows with the window, not the clip."""

    def __init__(self, config: RenderConfig, parts: Parts):
        refuse_what_needs_the_frame_before(config, NEEDS_FINISHED)
        self.shot = 0
        self._device, self._cell = parts.checkpoint.device, parts.cell
        self._model, self._init, self._clock, self._on_step = parts.model, parts.init, parts.clock, parts.on_step
        self._flow = KeptFlows(parts.flow)
        self._alone = Generated(parts.model, parts.init, self._cell, self._key, parts.on_step)
        self._anchors = Anchors(
            self._flow,
            Every(config.joint_every),
            self._own,
            feather_px=config.feather_px,
            paste=config.paste,
            clock=parts.clock,
            threads=threads_beside(parts.checkpoint.device),
            explain=parts.explain,
        )
        self._pictures: dict[int, Tensor] = {}
        """What the model made of the frames of this window."""
        self._given: dict[int, Frame] = {}
        self._arrived: list[_Arrived] = []
        self._gap = 0
        """Frames since the last painted one."""
        self._last: Frame | None = None
        """The last frame that arrived."""
        self._fixed: list[_Fixed] = []
        self.configure(config)

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings; the width of the seam and the weight of carried pixels stay."""
        self._config = config
        self._alone.configure(config)
        self._schedule = weight_schedule(config.flow_weight)

    def add(self, frame: Frame, whole: Frame) -> Iterator[tuple[Frame, Finished]]:
        """Take the next frame, padded `whole`; give out (frame, finished) pairs once the window is full."""
        self._given[frame.index] = frame
        here = Frame(whole.rgb.to(self._device), whole.index, whole.pts, whole.time_base)
        paths: tuple[Path | None, Path | None] = (None, None)
        if self._last is not None:
            with self._clock("flow"):
                paths = paths_between(self._flow, here, self._last)
        self._gap += 1
        painted = self._last is None or self._gap >= self._config.joint_every
        self._gap = 0 if painted else self._gap
        self._arrived.append(_Arrived(here, painted, *paths))
        self._last = here
        if sum(one.painted for one in self._arrived) == self._config.window:
            yield from self._window()

    def settle(self, *, end_shot: bool) -> Iterator[tuple[Frame, Finished]]:
        """Finish what waits, its last frame as a painted one; `end_shot`: nothing of it is carried on."""
        if self._arrived:
            last = self._arrived[-1]
            self._arrived[-1] = _Arrived(last.frame, True, last.to_before, last.from_before)
            self._gap = 0
            yield from self._window()
        yield from self._paired(self._anchors.end_shot() if end_shot else self._anchors.settle())
        if end_shot:
            self._last, self._fixed, self._gap = None, [], 0

    def _window(self) -> Iterator[tuple[Frame, Finished]]:
        """Paint the window that has arrived, and paste."""
        arrived, self._arrived = self._arrived, []
        self._paint_together(arrived)
        painted = [one.frame.index for one in arrived if one.painted]
        keep, latents = set(painted[-OVERLAP:]), {}
        finished = (pair for one in arrived for pair in self._anchors.add(one.frame))
        last_one = self._anchors.settle()
        for source in (finished, last_one):
            for done in source:
                if done.frame.index in keep:
                    latents[done.frame.index] = self._model.encode(done.picture[None])
                yield self._given.pop(done.frame.index), done
        with self._clock("glue"):
            self._fixed = [
                _Fixed(arrived[place].frame, latents[arrived[place].frame.index], path)
                for place, path in _backward(arrived, len(arrived) - 1).items()
                if arrived[place].frame.index in keep
            ]
        self._pictures.clear()
        self._flow.drop()

    def _paint_together(self, arrived: list[_Arrived]) -> None:
        """The model's pictures of all painted frames, in one batch."""
        places = [place for place, one in enumerate(arrived) if one.painted]
        sources = {place: ops.to_model(arrived[place].frame.rgb[None]) for place in places}
        start = torch.cat([self._init(sources[place], self.shot) for place in places])
        with self._clock("glue"):
            mutual = self._mutual(arrived, sources, start)
        keys = [self._key(arrived[place].frame) for place in places]
        pull = mutual if mutual.trusts.any() else None
        latents = self._model.denoise(start, keys, pull, self._on_step, picture=torch.cat(list(sources.values())))
        pictures = self._model.decode(latents)
        self._pictures = {arrived[place].frame.index: picture for place, picture in zip(places, pictures, strict=True)}

    def _mutual(self, arrived: list[_Arrived], sources: Mapping[int, Tensor], start: Tensor) -> Mutual:
        """Who sees what of whom; the finished frames of the window before come last."""
        count, size = len(sources) + len(self._fixed), (start.shape[2], start.shape[3])
        flows = start.new_zeros(len(sources), count, 2, *size)
        trusts = start.new_zeros(len(sources), count, *size)
        columns = {place: column for column, place in enumerate(sources)}
        fixed = [ops.to_model(one.frame.rgb[None])[0] for one in self._fixed]
        for row, place in enumerate(sources):
            source = sources[place][0]
            back = _backward(arrived, place)
            for other, path in {**back, **_forward(arrived, place)}.items():
                if other != place and other in columns:
                    at = row, columns[other]
                    flows[at], trusts[at] = seen_cells(path, source, sources[other][0], self._cell)
            before = back.get(-1)
            for column, (one, there) in enumerate(zip(self._fixed, fixed, strict=True), len(sources)):
                assert before is not None
                path = before.then(one.path)
                flows[row, column], trusts[row, column] = seen_cells(path, source, there, self._cell)
        sure = torch.ones_like(sources[0 if 0 in sources else next(iter(sources))][0, 0])
        inputs = WeightInputs(torch.zeros_like(sure), sure, size, self._config.strength)
        base = self._schedule(self._model.table, inputs)[:, None].expand(-1, len(sources), -1, -1)
        known = torch.cat([one.latent for one in self._fixed]) if self._fixed else start[:0]
        return Mutual(flows, trusts, base, known)

    def _own(self, frame: Frame, known: Known | None) -> Painted:
        """The picture that the frame has by itself: made together, or alone where it was not painted."""
        made = self._pictures.get(frame.index)
        return self._alone(frame, known) if made is None else Painted(made)

    def _key(self, frame: Frame) -> NoiseKey:
        return NoiseKey(self.shot, frame.index)

    def _paired(self, finished: Iterator[Finished]) -> Iterator[tuple[Frame, Finished]]:
        for done in finished:
            yield self._given.pop(done.frame.index), done

    def state(self) -> dict[str, Any]:
        """What `restore` needs; nothing may wait."""
        if self._last is None:
            return {}
        fixed = {
            str(place): {
                "frame": frame_state(one.frame),
                "latent": one.latent,
                "uv": one.path.uv,
                "confidence": one.path.confidence,
            }
            for place, one in enumerate(self._fixed)
        }
        return {"anchors": self._anchors.state(), "last": frame_state(self._last), "gap": self._gap, "fixed": fixed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._given.clear()
        self._arrived, self._last, self._fixed, self._gap = [], None, [], 0
        self._anchors.restore(state.get("anchors", {}))
        if state:
            self._last, self._gap = restored_frame(state["last"]), state["gap"]
            told = [state["fixed"][str(place)] for place in range(len(state["fixed"]))]
            self._fixed = [
                _Fixed(restored_frame(one["frame"]), one["latent"], Path(one["uv"], one["confidence"])) for one in told
            ]


def _backward(arrived: list[_Arrived], place: int) -> dict[int, Path]:
    """Paths from the frame at `place` to itself and to each before it; -1 is the last frame of the window before."""
    uv = torch.zeros(2, *arrived[place].frame.size, device=arrived[place].frame.rgb.device)
    paths = {place: Path(uv, torch.ones_like(uv[0]))}
    for here in range(place, -1, -1):
        step = arrived[here].to_before
        if step is None:
            break
        paths[here - 1] = paths[here].then(step)
    return paths


def _forward(arrived: list[_Arrived], place: int) -> dict[int, Path]:
    """Paths from the frame at `place` to each after it."""
    paths: dict[int, Path] = {}
    for here in range(place + 1, len(arrived)):
        step = arrived[here].from_before
        assert step is not None
        paths[here] = paths[here - 1].then(step) if here - 1 in paths else step
    return paths
