"""Pictures to latents and back, by the autoencoder's mode and never by a sample of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .runtimes import PlainDecoder, PlainEncoder, Runtimes

log = logging.getLogger("flowguide.diffusion")


class Autoencoder:
    """One face for AutoencoderKL and AutoencoderTiny.

    Latents are scaled as the denoiser expects them: z = (E(picture) − shift)·scale. Where half precision overflows
    (NaN, which would be stored as black), the autoencoder goes on in float32 and says so once.
    """

    def __init__(self, vae: Any, cell: int, runtimes: Runtimes | None = None):
        """runtimes: what runs the network; default: it is called as it is."""
        self._vae = vae
        self.runtimes = runtimes
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
        if getattr(self._vae, "use_tiling", False) or not hasattr(self._vae, "enable_tiling"):
            return False
        self._vae.enable_slicing()
        self._vae.enable_tiling()
        return True

    def _finite(self, work: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        result = work(given)
        if self._vae.dtype == torch.float16 and not bool(torch.isfinite(result).all()):
            log.warning("The autoencoder overflows in float16 (black frames); it runs in float32 from now on.")
            self._vae.to(torch.float32)
            result = work(given)
        return result

    @torch.inference_mode()
    def _encode(self, pictures: Tensor) -> Tensor:
        pictures = pictures.to(self._vae.device, self._vae.dtype).contiguous(memory_format=torch.channels_last)
        if self.runtimes is None:
            latents = PlainEncoder(self._vae)(pictures)
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
            pictures: Tensor = PlainDecoder(self._vae)(given["latents"])
            return pictures
        return self.runtimes("vae-decoder", PlainDecoder(self._vae), given, ("pictures",))[0]
