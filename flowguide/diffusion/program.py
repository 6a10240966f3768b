"""A whole frame at fixed addresses: colour, encode, K times network and guided step, decode, paste, pack.

What changes from frame to frame is copied into buffers that stay where they are; the same program then runs as it is,
or is recorded once as a CUDA graph and replayed. Nothing in it waits for the host, and nothing but the networks
themselves takes memory. Results equal those of the ordinary path.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .. import ops
from ..seams import Toner
from .conditioning import Condition
from .rows import PredictRows
from .tables import StepTable

log = logging.getLogger("flowguide.diffusion")

Kind = Literal["first", "guided", "carried"]
"""first: nothing is known of the frame. guided: pulled toward what is known, which is pasted. carried: no model runs,
what is known is filled."""

Work = Callable[[], None]
Record = Callable[[Work], Work]
"""A piece of the program -> what replays it. Raises RuntimeError for a piece that cannot be recorded."""

RAMP_PX = 2
"""Width of the ramp of a carried frame between what is known and what fills the rest."""


@dataclass(frozen=True)
class Networks:
    """The model's own calls, on one device. They may take memory."""

    encode: Callable[[Tensor], Tensor]
    """Pictures [1, 3, H, W] -> latents [1, C, h, w]."""
    predict: PredictRows
    decode: Callable[[Tensor], Tensor]
    """Latents [1, C, h, w] -> pictures float32 [1, 3, H, W]."""


@dataclass(frozen=True)
class Settings:
    """What holds for every frame of a program."""

    table: StepTable
    guidance_scale: float
    """Classifier-free guidance; up to 1 the model is asked once."""
    paste: float = 1.0
    feather_px: int = 1
    erode: bool = True


@dataclass(frozen=True)
class Volatile:
    """What changes from frame to frame; all but `rgb` and the noise may be on any device."""

    rgb: Tensor | None = None
    """uint8 [1, 3, H, W]; None for a carried frame."""
    noises: dict[int, Tensor] = field(default_factory=dict)
    """Number of the noise -> [1, C, h, w]; 0 is the start's, i + 1 that of step i."""
    condition: Condition | None = None
    """One row, or two under classifier-free guidance, without the prompt first."""
    filled: Tensor | None = None
    """[1, 3, H, W]: the guide without holes."""
    prior: Tensor | None = None
    """[1, 3, H, W]"""
    confidence: Tensor | None = None
    """[1, H, W]"""
    weights: Tensor | None = None
    """[steps, 1, h, w]"""
    tone: Tensor | None = None
    """[1, 3, H, W]: the prior in the light of this frame."""
    alike: Tensor | None = None
    """[1, H, W]: how far that tone is kept where the prior is not pasted."""

    def tensors(self) -> Iterator[Tensor]:
        """All of them, in one order."""
        for value in (self.rgb, self.filled, self.prior, self.confidence, self.weights, self.tone, self.alike):
            if value is not None:
                yield value
        yield from (self.noises[number] for number in sorted(self.noises))
        if self.condition is not None:
            found: list[Tensor] = []
            self.condition.each(lambda value: found.append(value) or value)  # type: ignore[func-returns-value]
            yield from found

    def held(self, device: torch.device) -> Volatile:
        """The same in memory of its own on `device`."""

        def own(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device, copy=True).contiguous()

        condition = None if self.condition is None else self.condition.each(lambda value: value.to(device).clone())
        noises = {number: noise.to(device, copy=True) for number, noise in self.noises.items()}
        guidance = (self.filled, self.prior, self.confidence, self.weights, self.tone, self.alike)
        pictures = (own(value) for value in guidance)
        return Volatile(own(self.rgb), noises, condition, *pictures)


class FrameProgram:
    """One kind of frame, at one size."""

    def __init__(
        self,
        kind: Kind,
        networks: Networks | None,
        settings: Settings | None,
        example: Volatile,
        device: torch.device,
        record: Record | None = None,
    ):
        """networks, settings: None for a carried frame. example: a frame's own; what comes later has the same shapes.
        record: None runs the pieces as they are."""
        self.kind, self._device = kind, device
        if kind != "carried":
            assert networks is not None
            assert settings is not None
            self._networks, self._settings = networks, settings
        with torch.inference_mode():
            self._held = example.held(device)
            self._stages = [_Stage(held) for held in self._held.tensors()]
            shown = self._held.prior if kind == "carried" else self._held.rgb
            assert shown is not None
            self._allocate(tuple(shown.shape))
        pieces: list[tuple[str, Work]] = [("colour and encoding", self._begin), ("steps", self._sample),
                                          ("decoding", self._decode), ("paste and packing", self._end)]  # fmt: skip
        if kind == "carried":
            pieces = [("filling and packing", self._fill)]
        self._pieces = pieces
        self._work = [work for _, work in pieces]
        self.recorded: tuple[str, ...] = ()
        """Pieces that are replayed; 'frame' where the whole is."""
        if record is not None:
            self._record(record)

    def __call__(self, volatile: Volatile) -> tuple[Tensor, Tensor]:
        """(finished picture float32 [3, H, W], the same as uint8), borrowed until the next call."""
        with torch.inference_mode():
            for stage, value in zip(self._stages, volatile.tensors(), strict=True):
                stage.take(value)
            for work in self._work:
                work()
        return self._finished[0], self._packed[0]

    def addresses(self) -> list[int]:
        """Where every buffer lies."""
        buffers = [self._finished, self._packed, *self._held.tensors()]
        if self.kind != "carried":
            buffers += [self._source, *self._x, *self._x0, self._z, self._k0, self._output, self._input]
        return [buffer.data_ptr() for buffer in buffers]

    def _allocate(self, size: tuple[int, ...]) -> None:
        def empty(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=self._device)

        self._finished, self._packed = empty(size), empty(size, torch.uint8)
        if self.kind == "carried":
            self._ones, self._zeros = torch.ones_like(self._finished[:, :1]), torch.zeros_like(self._finished[:, :1])
            self._inside = empty((1, 1, *size[2:]))
            return
        assert self._held.condition is not None
        table, scale = self._settings.table, self._settings.guidance_scale
        shape = tuple(self._held.noises[0].shape)
        self._rows = 2 if scale > 1.0 else 1
        self._source, self._generated = empty(size), empty(size)
        if self._held.alike is not None:
            self._toner = Toner((size[2], size[3]), self._device)
        self._z, self._k0, self._scratch = empty(shape), empty(shape), empty(shape)
        self._x, self._x0 = [empty(shape), empty(shape)], [empty(shape), empty(shape)]
        rows = (self._rows, *shape[1:])
        self._input, self._output = empty(rows, self._held.condition.text.dtype), empty(rows)
        told = [tuple(table.row(step, scale)) for step in range(len(table))]
        self._coefficients = torch.tensor(told, dtype=torch.float64).float().to(self._device)
        self._timesteps = torch.tensor(table.timestep, dtype=torch.float32, device=self._device)

    def _begin(self) -> None:
        assert self._held.rgb is not None
        ops.to_model(self._held.rgb, out=self._source)
        self._z.copy_(self._networks.encode(self._source))
        if self._held.filled is not None:
            self._k0.copy_(self._networks.encode(self._held.filled))

    def _sample(self) -> None:
        table, held = self._settings.table, self._held
        assert held.condition is not None
        here, there = 0, 1
        torch.mul(self._z, table.s_z, out=self._x[0])
        torch.mul(held.noises[0], table.s_n, out=self._scratch)
        self._x[0].add_(self._scratch)
        for step in range(len(table)):
            torch.mul(self._x[here], float(table.c_in[step]), out=self._scratch)
            self._input.copy_(self._scratch.expand_as(self._input))
            timestep = self._timesteps[step : step + 1]
            self._output.copy_(self._networks.predict(self._input, timestep, held.condition))
            ops.guided_step(
                self._x[here],
                self._output[-1:],
                self._coefficients[step : step + 1],
                model_output_uncond=self._output[:1] if self._rows == 2 else None,
                k0=None if held.weights is None else self._k0,
                weight=None if held.weights is None else held.weights[step],
                x0_prev=self._x0[here] if table.C[step] else None,
                noise=held.noises[step + 1] if table.D[step] else None,
                erode=self._settings.erode,
                out=(self._x[there], self._x0[there]),
            )
            here, there = there, here

    def _decode(self) -> None:
        self._generated.copy_(self._networks.decode(self._x[len(self._settings.table) % 2]))

    def _end(self) -> None:
        held, settings = self._held, self._settings
        if held.prior is None or held.confidence is None or settings.paste == 0.0:
            self._finished.copy_(self._generated)
        else:
            if held.tone is not None and held.alike is not None:
                self._toner(self._generated[0], held.tone[0], held.confidence[0], held.alike[0])
            ops.paste(
                self._generated, held.prior, held.confidence, weight=settings.paste, feather_px=settings.feather_px,
                out=self._finished,
            )  # fmt: skip
        ops.from_model(self._finished, out=self._packed)

    def _fill(self) -> None:
        prior, confidence = self._held.prior, self._held.confidence
        assert prior is not None
        assert confidence is not None
        ops.paste(self._zeros, self._ones, confidence, feather_px=RAMP_PX, out=self._inside)
        ops.fill(prior, self._inside[:, 0], out=self._finished)
        ops.from_model(self._finished, out=self._packed)

    def _record(self, record: Record) -> None:
        """The whole frame as one recording; where that fails, each piece by itself, and what fails runs as it is."""

        def whole() -> None:
            for _, work in self._pieces:
                work()

        try:
            with torch.inference_mode():
                self._work = [record(whole)]
            self.recorded = ("frame",)
        except RuntimeError as error:
            log.warning("A %s frame cannot be recorded whole (%s); its pieces are.", self.kind, _first_line(error))
            self._work = [self._recorded_piece(name, work, record) for name, work in self._pieces]

    def _recorded_piece(self, name: str, work: Work, record: Record) -> Work:
        try:
            with torch.inference_mode():
                replay = record(work)
        except RuntimeError as error:
            log.warning("The piece '%s' cannot be recorded (%s); it runs as it is.", name, _first_line(error))
            return work
        self.recorded = (*self.recorded, name)
        return replay


class _Stage:
    """Copies what is given to a buffer's fixed address; from host memory to a GPU through pinned memory."""

    def __init__(self, held: Tensor):
        self._held = held
        self._slots: list[tuple[Tensor, torch.cuda.Event]] = []
        self._turn = 0

    def take(self, given: Tensor) -> None:
        if given.device.type != "cpu" or self._held.device.type == "cpu":
            self._held.copy_(given)
            return
        if not self._slots:
            self._slots = [(torch.empty_like(given, pin_memory=True), _event()) for _ in range(2)]
        pinned, free = self._slots[self._turn % 2]
        self._turn += 1
        free.synchronize()
        pinned.copy_(given)
        self._held.copy_(pinned, non_blocking=True)
        free.record()


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


def cuda_graph(work: Work) -> Work:
    """`work` recorded as a CUDA graph. Raises RuntimeError where something in it cannot be."""
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    # Another thread may find flow on the same card meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
