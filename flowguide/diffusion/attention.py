"""Self-attention shared between frames, so that pictures painted apart look alike.

Every frame's queries see the keys and values of other frames beside its own: of the whole batch (`together`), or of
anchors painted before (`recall` what `remember` stored). Outside these the UNet's own processors are in place, so that
sharing costs nothing when it is off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .long_attention import attended


@dataclass
class KeyBank:
    """Keys and values of anchors: (layer, timestep) -> [groups, tokens, width] each; groups are the rows of
    classifier-free guidance."""

    entries: dict[tuple[str, float], tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Memory that it holds."""
        return sum(tensor.numel() * tensor.element_size() for pair in self.entries.values() for tensor in pair)


class AttentionSharing:
    """Switches the self-attention of one UNet."""

    def __init__(self, unet: Any, *, plain: bool = True):
        """plain: whether the UNet is called as it is; another runtime's attention cannot be shared."""
        self._unet = unet
        self._plain = plain
        self._timestep = 0.0
        self._on = False

    @contextmanager
    def together(self, frames: int) -> Iterator[None]:
        """Within, each of the `frames` frames of a batch sees all of them."""
        with self._processors(frames, None, storing=False):
            yield

    @contextmanager
    def remember(self, bank: KeyBank, frames: int = 1) -> Iterator[None]:
        """Within, the frames of a batch see each other, and their keys and values are added to `bank`."""
        with self._processors(frames, bank, storing=True):
            yield

    @contextmanager
    def recall(self, bank: KeyBank, frames: int = 1) -> Iterator[None]:
        """Within, each frame sees itself and what is in `bank` for the same timestep."""
        with self._processors(frames, bank, storing=False):
            yield

    @contextmanager
    def _processors(self, frames: int, bank: KeyBank | None, *, storing: bool) -> Iterator[None]:
        if not self._plain:
            raise UsageError("Attention is shared under --runtime torch alone, and not between lanes.")
        if self._on:
            raise UsageError("Attention is already shared; leave one kind of sharing before another begins.")
        layers = {
            name: module
            for name, module in self._unet.named_modules()
            if name.endswith("attn1") and hasattr(module, "set_processor")
        }
        own = {name: layer.processor for name, layer in layers.items()}
        hook = self._unet.register_forward_pre_hook(self._note_timestep, with_kwargs=True)
        self._on = True
        try:
            for name, layer in layers.items():
                layer.set_processor(_Shared(self, name, frames, bank, storing=storing))
            yield
        finally:
            for name, layer in layers.items():
                layer.set_processor(own[name])
            hook.remove()
            self._on = False

    def _note_timestep(self, unet: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._timestep = float(arguments[1] if len(arguments) > 1 else options["timestep"])

    @property
    def timestep(self) -> float:
        """The timestep of the UNet call that is running."""
        return self._timestep


class _Shared:
    """Processor of one self-attention layer: scaled dot product over the keys and values of several frames."""

    def __init__(self, sharing: AttentionSharing, layer: str, frames: int, bank: KeyBank | None, *, storing: bool):
        self._sharing, self._layer, self._frames = sharing, layer, frames
        self._bank, self._storing = bank, storing

    def __call__(self, attn: Any, hidden_states: Tensor, *arguments: Any, **options: Any) -> Tensor:
        rows = hidden_states.shape[0]
        if rows % self._frames:
            raise UsageError(f"Attention shared by {self._frames} frames needs them in one batch, got {rows} rows.")
        keys, values = (self._seen(part, rows) for part in self._keys_and_values(attn, hidden_states))
        return attended(attn, attn.to_q(hidden_states), keys, values)

    def _keys_and_values(self, attn: Any, hidden_states: Tensor) -> list[Tensor]:
        """[groups, frames or 1, tokens of all that is seen, width] each."""
        place = (self._layer, self._sharing.timestep)
        pair = [part(hidden_states).unflatten(0, (-1, self._frames)) for part in (attn.to_k, attn.to_v)]
        if self._bank is None or self._storing:
            pair = [part.flatten(1, 2)[:, None] for part in pair]
        if self._bank is None:
            return pair
        stored = self._bank.entries.get(place)
        if stored is not None:
            pair = [torch.cat([part, old[:, None].expand(-1, part.shape[1], -1, -1)], dim=2)
                    for part, old in zip(pair, stored, strict=True)]  # fmt: skip
        if self._storing:
            keys, values = (part[:, 0] for part in pair)
            self._bank.entries[place] = (keys, values)
        return pair

    def _seen(self, part: Tensor, rows: int) -> Tensor:
        """[rows, tokens, width]: one entry per row, without a copy where all frames see the same."""
        return part.expand(-1, self._frames, -1, -1).reshape(rows, *part.shape[2:])
