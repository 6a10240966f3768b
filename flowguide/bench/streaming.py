"""The denoising batch of streaming img2img systems, written from its published description (StreamDiffusion,
arXiv 2312.12491, sections 3.1 and 3.2): a peer to measure against, without guidance by flow.

One call of the UNet holds the newest frame at its first step, the one before at its second step, and so on; after each
call every row moves on by one step, and the oldest comes out. The clean estimate is re-noised with the noise of its
next step (LCM). Under classifier-free guidance the negative prediction is asked for once, of the newest row, and kept
with the frame (the residual CFG of that paper, in its one-time form).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor, bool], Tensor]
"""(latents [N, C, h, w], timesteps [N], with the prompt?) -> noise prediction like the latents."""


class StreamBatch:
    """Latents in, latents out, `len(timesteps) - 1` frames later."""

    def __init__(
        self,
        network: Network,
        alphas_cumprod: Tensor,
        timesteps: list[int],
        *,
        shape: tuple[int, ...],
        guidance_scale: float,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """timesteps: of the steps, falling. shape: [1, C, h, w] of a latent."""
        self._network, self._scale = network, guidance_scale
        self._steps = torch.tensor(timesteps, device=device)
        kept = alphas_cumprod[self._steps.cpu()].to(device, torch.float32).view(-1, 1, 1, 1)
        self._signal, self._spread = kept.sqrt().to(dtype), (1 - kept).sqrt().to(dtype)
        generator = torch.Generator().manual_seed(0)
        noise = [torch.randn(shape, generator=generator) for _ in timesteps]
        self._noise = torch.cat(noise).to(device, dtype)
        rows = (len(timesteps), *shape[1:])
        self._rows = torch.zeros(rows, device=device, dtype=dtype)
        self._negative = torch.zeros(rows, device=device, dtype=dtype)

    @torch.inference_mode()
    def __call__(self, latent: Tensor) -> Tensor:
        """One tick: `latent` [1, C, h, w] goes in, the clean latent of the oldest frame comes out."""
        newest = self._signal[:1] * latent + self._spread[:1] * self._noise[:1]
        rows = torch.cat([newest, self._rows[:-1]]) if len(self._steps) > 1 else newest
        predicted = self._network(rows, self._steps, True)
        if self._scale > 1.0:
            negative = self._network(newest, self._steps[:1], False)
            self._negative = torch.cat([negative, self._negative[:-1]])
            predicted = self._negative + self._scale * (predicted - self._negative)
        clean = (rows - self._spread * predicted) / self._signal
        self._rows = torch.cat([self._signal[1:] * clean[:-1] + self._spread[1:] * self._noise[1:], clean[-1:]])
        return clean[-1:]
