"""The straight line: decode, flow, guide, denoise, paste, encode.

A frame's guide is the finished frame before it, carried here by the optical flow of the source, with a confidence per
pixel. The denoiser's prediction is pulled toward it, what was uncovered is generated, what was known is pasted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import ops
from .config import Option, RenderConfig, changed
from .diffusion.checkpoint import Checkpoint, load_checkpoint
from .diffusion.image_to_image import ImageToImage
from .diffusion.init import InitialLatent
from .diffusion.sampling import StepCallback
from .errors import Interrupted, UsageError
from .flow import FlowEstimator
from .flow.chosen import chosen_cuts, chosen_flow
from .flow.lookahead import Ahead
from .guidance.anchors import Finished
from .guidance.frame_by_frame import CarriedPixels
from .later import Later, Parts
from .machine import choose_device, choose_dtype, choose_threads
from .masks import region_of
from .one_by_one import OneByOne
from .pictures import as_frame, like_input, padded
from .strategies import beginning_of, estimator_ahead, guidance_of, later_of, read_ahead
from .timing import StageClock
from .types import Frame


@dataclass(frozen=True)
class Styled:
    """One finished frame."""

    picture: Tensor
    """float32 [3, H, W] in [-1, 1], the size of the source frame."""
    source: Frame
    shot: int
    """Number of the shot, from 0; cuts are found in the source."""
    confident_share: float | None
    """Mean confidence of what was carried here, or None where the frame began anew."""
    stage_seconds: dict[str, float] = field(repr=False)
    """Seconds that this frame spent per stage."""
    is_anchor: bool = False
    """Whether the strategy `anchors` carried others from it."""
    carried: CarriedPixels | None = field(default=None, repr=False)
    """What guided the frame, padded to the model's grid; only under a Renderer that explains."""
    packed: Tensor | None = field(default=None, repr=False)
    """The picture as uint8 [3, H, W], where the program that painted it made it."""

    def frame(self, *, deep: bool = False) -> Frame:
        """The picture rounded to 8 bit, or to 16 where `deep`, with the source's time and opacity."""
        source, alpha = self.source, self.source.alpha
        if not deep:
            rgb = ops.from_model(self.picture[None])[0] if self.packed is None else self.packed
            return Frame(rgb, source.index, source.pts, source.time_base, alpha)
        codes = ((self.picture.float() + 1.0) * 32767.5).round().clamp(0, 65535).to(torch.int32)
        wide = None if alpha is None else (alpha.to(torch.int32) * 257).to(torch.uint16)
        return Frame(codes.to(torch.uint16), source.index, source.pts, source.time_base, wide)


FIXED = frozenset(RenderConfig.model_fields) - {
    "prompt", "negative_prompt", "strength", "steps", "guidance_scale", "sampler", "eta", "seed", "noise",
    "init", "init_weight",
    "guidance", "flow_weight", "paste", "feather_px", "unsharp", "cut_share",
}  # fmt: skip
"""Options that hold for a whole run."""


class Renderer:
    """Paints frames one after another; holds what one frame hands to the next."""

    def __init__(
        self,
        config: RenderConfig | None = None,
        *,
        checkpoint: Checkpoint | None = None,
        flow: FlowEstimator | None = None,
        on_frame: Callable[[Styled], None] | None = None,
        on_step: StepCallback | None = None,
        explain: bool = False,
    ):
        """explain: give out with each frame what guided it, `Styled.carried`."""
        self.config = config or RenderConfig()
        torch.set_num_threads(choose_threads(self.config.threads))
        if checkpoint is None:
            device = choose_device(self.config.device)
            dtype = choose_dtype(self.config.dtype, device)
            checkpoint = load_checkpoint(self.config.model, dtype, device, self.config)
        self.checkpoint = checkpoint
        self.clock = StageClock()
        self._on_frame, self._on_step, self._explain = on_frame, on_step, explain
        self._model = ImageToImage(checkpoint, self.config, self.clock)
        self._init = InitialLatent(self._model.encode, beginning_of(self.config))
        found_by = flow or chosen_flow(self.config, checkpoint.device)
        self._flow = Ahead(
            estimator_ahead(self.config, found_by, checkpoint.device), read_ahead(self.config), self._whole
        )
        parts = Parts(checkpoint, self._model, self._init, self._flow, self.clock, on_step, explain)
        self._frames = OneByOne(guidance_of(self.config, parts), self.config, parts)
        self._later: Later | None = later_of(self.config, parts)
        """A strategy that gives frames out later than it takes them."""
        self._region = region_of(self.config)
        self._regions: dict[int, Tensor] = {}
        """The painted region of frames that are not given out yet, by number."""
        self._cuts = chosen_cuts(self.config)
        self._shot = 0
        self._next_index = 0
        self._cancelled = False

    def __call__(self, frames: Iterable[Frame]) -> Iterator[Styled]:
        """Paint `frames` in order, all of them by the end. Raises Interrupted after `cancel`."""
        with self._flow.over(frames, wanted=self._frames.follows) as ready:
            source = iter(ready)
            while True:
                with self.clock("read"):
                    frame = next(source, None)
                if frame is None:
                    break
                if self._later is None:
                    yield self.render(frame)
                else:
                    yield from self._passed_on(frame, self._later)
            if self._later is not None:
                yield from self._given_out(self._later.settle(end_shot=False))

    @property
    def flow_name(self) -> str:
        """Name of the flow estimator in use."""
        return self._flow.name

    @property
    def model_calls(self) -> int:
        """Rows that the denoiser is given for one frame: its steps, twice under classifier-free guidance."""
        return len(self._model.table) * (2 if self._model.guidance_scale > 1.0 else 1)

    def step(self, picture: Any) -> Any:
        """Paint one more picture of the same clip and return it as the kind it came in.

        picture: Frame, torch tensor, NumPy array or anything with DLPack; [H, W, 3] or [3, H, W]; uint8 in 0..255 or
        float in [0, 1]. The same kind, layout, dtype and size come back (a Frame for a Frame).
        """
        frame = as_frame(picture, index=self._next_index)
        return like_input(self.render(frame), picture)

    def update(self, **changes: Option) -> None:
        """Change settings between two frames; the guidance goes on.

        Raises UsageError for an option of FIXED, which belong to the whole run, and for a value out of range.
        """
        fixed = sorted(FIXED & changes.keys())
        if fixed:
            raise UsageError(f"{', '.join(fixed)} cannot change during a run; make a new Renderer.")
        config = changed(self.config, **changes)
        self._model.configure(config)
        self._init.configure(beginning_of(config))
        self._frames.configure(config)
        if self._later is not None:
            self._later.configure(config)
        self.config = config

    def restart(self) -> None:
        """Begin a new shot at the next frame."""
        self._shot += 1
        self._frames.guidance.forget()
        if self._later is not None:
            self._later.restore({})
            self._later.shot = self._shot

    def state(self) -> dict[str, Any]:
        """All that the next frame needs, bit by bit: nested dicts of tensors, numbers, strings and lists.

        Tensors are borrowed: save or copy them before the next frame.
        """
        return {
            "shot": self._shot,
            "next_index": self._next_index,
            "cuts": self._cuts.state(),
            "guidance": self._frames.guidance.state(),
            "later": {} if self._later is None else self._later.state(),
            "init": self._init.state(),
            "model": self._model.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on after the frame at which `state` was taken, with the same settings and the same clip."""
        self._shot, self._next_index = state["shot"], state["next_index"]
        self._cuts.restore(state["cuts"])
        self._frames.guidance.restore(state["guidance"])
        if self._later is not None:
            self._later.restore(state["later"])
            self._later.shot = self._shot
        self._init.restore(state["init"])
        self._model.restore(state["model"])

    def _whole(self, frame: Frame) -> Frame:
        return padded(frame, self.checkpoint.grid)

    def cancel(self) -> None:
        """Stop before the next frame; may be called from another thread or a callback."""
        self._cancelled = True

    def _passed_on(self, frame: Frame, later: Later) -> Iterator[Styled]:
        """Hand one frame to a strategy that gives out later, and give out what is finished by it."""
        self._go_on_before(frame)
        with self.clock("cuts"):
            cut = self._cuts.is_cut(frame)
        if cut:
            yield from self._given_out(later.settle(end_shot=True))
            self.restart()
        yield from self._given_out(later.add(frame, self._whole(frame)))
        self._next_index = frame.index + 1

    def _given_out(self, finished: Iterator[tuple[Frame, Finished]]) -> Iterator[Styled]:
        began = dict(self.clock.seconds)
        for frame, done in finished:
            self._init.remember(done.picture, self._shot)
            yield self._styled(frame, done, done.confident_share, began)
            began = dict(self.clock.seconds)

    def _go_on_before(self, frame: Frame) -> None:
        if self._cancelled:
            raise Interrupted(f"The run was stopped before frame {frame.index}.")
        if self._region is not None:
            self._regions[frame.index] = self._region.of(frame)

    def render(self, frame: Frame) -> Styled:
        """Paint one frame. Raises UsageError under a strategy that needs the frames after it."""
        self._go_on_before(frame)
        if self._later is not None:
            how = f"The strategy {self.config.strategy!r} needs" if self.config.passes == 1 else "Several passes need"
            raise UsageError(f"{how} the frames after each one; iterate over a clip instead.")
        began = dict(self.clock.seconds)
        with self.clock("cuts"):
            if self._cuts.is_cut(frame):
                self.restart()
        whole = self._whole(frame)
        picture, carried = self._frames(whole, self._shot)
        self._next_index = frame.index + 1
        share = None if carried is None else carried.confident_share
        packed = self._frames.packed
        done = Finished(whole, picture, share or 0.0, is_anchor=False, carried=carried, packed=packed)
        return self._styled(frame, done, share, began)

    def _styled(self, frame: Frame, done: Finished, share: float | None, began: Mapping[str, float]) -> Styled:
        """The finished frame at the size of the source; `began`: the clock when work on it began."""
        height, width = frame.size
        picture, packed = done.picture[:, :height, :width], done.packed
        if self._region is not None:
            packed = None
            picture = self._region.applied(picture, frame, self._regions.pop(frame.index))
        styled = Styled(
            picture=picture,
            source=frame,
            shot=self._shot,
            confident_share=share,
            stage_seconds={name: total - began.get(name, 0.0) for name, total in self.clock.seconds.items()},
            is_anchor=done.is_anchor,
            carried=done.carried if self._explain else None,
            packed=None if packed is None else packed[:, :height, :width],
        )
        if self._on_frame is not None:
            self._on_frame(styled)
        return styled
