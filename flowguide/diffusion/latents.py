"""Pictures to latents and back, by the autoencoder's mode and never by a sample of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from .runtimes import PlainDecoder, PlainEncoder, Runtimes

log = logging.getLogger("flowguide.diffusion")

TILE = 64
"""Side of a tiny autoencoder's tile in latent cells."""
MARGIN = 20
"""Cells around a tile that are computed with it; a TAESD looks no farther."""


class Autoencoder:
    """One face for AutoencoderKL and AutoencoderTiny.

    Latents are scaled as the denoiser expects them: z = (E(picture) − shift)·scale. Where half precision overflows
    (NaN, which would be stored as black), the autoencoder goes on in float32 and says so once.
    """

    def __init__(self, vae: Any, cell: int, runtimes: Runtimes | None = None, *, checked: bool = True):
        """runtimes: what runs the network; default: it is called as it is. checked: look for overflow, for which the
        host has to wait for the device."""
        self._vae = vae
        self.runtimes = runtimes
        self._checked = checked
        self._tiles = False
        self.cell = cell
        """Side of one latent cell in pixels."""
        self.channels: int = vae.config.latent_channels
        self._scale: float = vae.config.scaling_factor
        self._shift: float = getattr(vae.config, "shift_factor", None) or 0.0

    @property
    def network(self) -> Any:
        """The autoencoder itself."""
        return self._vae

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents [N, channels, H/cell, W/cell] of `pictures` [N, 3, H, W] in [-1, 1], in the autoencoder's dtype."""
        return self._finite(self._encode, pictures)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures float32 [N, 3, H, W] in [-1, 1] of `latents`."""
        return self._finite(self._decode, latents).float().contiguous().clamp(-1.0, 1.0)

    def use_tiles(self) -> bool:
        """Work on one picture and one tile of it at a time from now on; False if it did already or cannot."""
        if self.runtimes is not None:
            return False
        if self._tiles:
            return False
        self._tiles = True
        if self._tiled_by_itself:
            self._vae.enable_slicing()
            self._vae.enable_tiling()
        return True

    @property
    def _tiled_by_itself(self) -> bool:
        """AutoencoderKL's group norms see a whole tile, so diffusers blends its tiles; a tiny autoencoder is
        convolutions alone, and diffusers' tiles of it know four channels only."""
        return type(self._vae).__name__ == "AutoencoderKL"

    def _finite(self, work: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        result = work(given)
        if self._checked and self._vae.dtype == torch.float16 and not bool(torch.isfinite(result).all()):
            if not bool(torch.isfinite(given).all()):
                raise _not_finite("The model's latents are")
            log.warning("The autoencoder overflows in float16 (black frames); it runs in float32 from now on.")
            self._vae.to(torch.float32)
            result = work(given)
            if not bool(torch.isfinite(result).all()):
                raise _not_finite("What the autoencoder makes is")
        return result

    @torch.inference_mode()
    def _encode(self, pictures: Tensor) -> Tensor:
        pictures = pictures.to(self._vae.device, self._vae.dtype).contiguous(memory_format=torch.channels_last)
        if self.runtimes is None:
            latents = self._whole_or_tiled(PlainEncoder(self._vae), pictures, self.cell, 1)
        else:
            given = {"pictures": pictures}
            latents = self.runtimes("vae-encoder", PlainEncoder(self._vae), given, ("latents",))[0]
        scaled: Tensor = (latents - self._shift) * self._scale if self._shift else latents * self._scale
        return scaled

    @torch.inference_mode()
    def _decode(self, latents: Tensor) -> Tensor:
        latents = latents.to(self._vae.device, self._vae.dtype)
        given = {"latents": latents / self._scale + self._shift}
        if self.runtimes is None:
            return self._whole_or_tiled(PlainDecoder(self._vae), given["latents"], 1, self.cell)
        return self.runtimes("vae-decoder", PlainDecoder(self._vae), given, ("pictures",))[0]

    def _whole_or_tiled(
        self, network: Callable[[Tensor], Tensor], given: Tensor, cell_in: int, cell_out: int
    ) -> Tensor:
        """`network` of `given`; cell_in, cell_out: side of a latent cell in its input and its output."""
        if not self._tiles or self._tiled_by_itself:
            return network(given)
        rows = (given[row : row + 1] for row in range(given.shape[0]))
        return torch.cat([tiled(network, row, cell_in, cell_out) for row in rows])


def tiled(network: Callable[[Tensor], Tensor], given: Tensor, cell_in: int, cell_out: int) -> Tensor:
    """`network` of `given` [N, C, H, W], one tile at a time; equal to the whole where it looks no farther than MARGIN.

    cell_in, cell_out: side of a latent cell in the network's input and output, one of them 1.
    """
    height, width = (side // cell_in for side in given.shape[2:])
    rows = []
    for top in range(0, height, TILE):
        row = []
        for left in range(0, width, TILE):
            first = max(top - MARGIN, 0), max(left - MARGIN, 0)
            last = min(top + TILE + MARGIN, height), min(left + TILE + MARGIN, width)
            y, x = (slice(a * cell_in, b * cell_in) for a, b in zip(first, last, strict=True))
            made = network(given[..., y, x].contiguous(memory_format=torch.channels_last))
            ends = min(top + TILE, height), min(left + TILE, width)
            kept = ((start - a, end - a) for start, end, a in zip((top, left), ends, first, strict=True))
            y, x = (slice(start * cell_out, end * cell_out) for start, end in kept)
            row.append(made[..., y, x])
        rows.append(torch.cat(row, dim=3))
    return torch.cat(rows, dim=2)


def _not_finite(subject: str) -> ModelError:
    return ModelError(f"{subject} not finite (NaN); float16 is too narrow for this model: give --dtype float32.")
