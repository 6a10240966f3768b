"""Pictures to latents and back, by the autoencoder's mode and never by a sample of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Autoencoder:
    """One face for AutoencoderKL and AutoencoderTiny.

    Latents are scaled as the denoiser expects them: z = (E(picture) − shift)·scale.
    """

    def __init__(self, vae: Any, cell: int):
        self._vae = vae
        self.cell = cell
        """Side of one latent cell in pixels."""
        self.channels: int = vae.config.latent_channels
        self._scale: float = vae.config.scaling_factor
        self._shift: float = getattr(vae.config, "shift_factor", None) or 0.0

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents [N, channels, H/cell, W/cell] of `pictures` [N, 3, H, W] in [-1, 1], in the autoencoder's dtype."""
        pictures = pictures.to(self._vae.device, self._vae.dtype).contiguous(memory_format=torch.channels_last)
        coded = self._vae.encode(pictures)
        latents = coded.latent_dist.mode() if hasattr(coded, "latent_dist") else coded.latents
        return (latents - self._shift) * self._scale if self._shift else latents * self._scale

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures float32 [N, 3, H, W] in [-1, 1] of `latents`."""
        latents = latents.to(self._vae.device, self._vae.dtype)
        pictures: Tensor = self._vae.decode(latents / self._scale + self._shift, return_dict=False)[0]
        return pictures.float().contiguous().clamp_(-1.0, 1.0)
