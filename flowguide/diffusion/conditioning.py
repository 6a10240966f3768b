"""What the UNet is told beside the noisy latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """One row per frame, or one row that holds for all of them."""

    text: Tensor
    """Prompt embeddings [N, tokens, width]."""
    pooled: Tensor | None = None
    """SDXL's second text encoder, [N, width]."""
    size: Tensor | None = None
    """SDXL's time ids [N, 6]: original height and width, crop top and left, target height and width, in pixels."""
    scale: Tensor | None = None
    """Embedding [N, width] of the guidance scale, for distilled models that take it as an input."""
    inpaint: Tensor | None = None
    """Mask and masked latents [N, 1 + C, h, w] that a 9-channel UNet sees beside the noisy ones."""
    hints: tuple[Tensor, ...] = ()
    """One picture [N, 3, H, W] in [0, 1] for each ControlNet."""
    image: tuple[Tensor, ...] = ()
    """Image prompt [N, pictures, width] for each IP-Adapter."""

    def each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """`change` applied to every tensor."""
        changed: dict[str, Tensor | tuple[Tensor, ...]] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                changed[field.name] = tuple(change(entry) for entry in value)
            elif value is not None:
                changed[field.name] = change(value)
        return Condition(**changed)  # type: ignore[arg-type]

    def expanded(self, rows: int) -> Condition:
        """The same for `rows` rows."""
        return self.each(lambda value: value.expand(rows, *value.shape[1:]))

    def part(self, first: int, last: int) -> Condition:
        """Rows `first` up to, not including, `last`."""
        return self.each(lambda value: value[first:last])

    @staticmethod
    def stacked(rows: list[Condition]) -> Condition:
        """All rows in one batch; each must say the same kinds of things."""
        stacked: dict[str, Tensor | tuple[Tensor, ...]] = {}
        for field in fields(Condition):
            values = [getattr(row, field.name) for row in rows]
            if isinstance(values[0], tuple):
                stacked[field.name] = tuple(torch.cat(entries) for entries in zip(*values, strict=True))
            elif values[0] is not None:
                stacked[field.name] = torch.cat(values)
        return Condition(**stacked)  # type: ignore[arg-type]


def scale_embedding(guidance_scale: float, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Sinusoids [1, width] of 1000·(guidance_scale − 1), as latent consistency models are told it
    (Luo et al. 2023; the distilled UNet's `time_cond_proj_dim` is the width)."""
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = 1000.0 * (guidance_scale - 1.0) * rates
    return torch.cat([angles.sin(), angles.cos()])[None].to(device, dtype)


def size_ids(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """SDXL's time ids [1, 6] of an uncropped picture."""
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=dtype, device=device)
