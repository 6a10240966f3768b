"""What the UNet costs in multiplications, and what this machine does of them in a plain matrix product."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch

SIDES = {"cpu": 1024, "cuda": 8192}
"""Side of the square matrices, large enough for full speed."""


def unet_flop(config: Mapping[str, Any], rows: int, latent: tuple[int, int], text: tuple[int, int]) -> float:
    """Floating-point operations of one call with `rows` rows, counted on tensors without memory.

    latent: (height, width) in cells. text: (tokens, width) of the prompt.
    """
    from diffusers import UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(dict(config)).eval()
        sample = torch.empty(rows, unet.config["in_channels"], *latent)
        told: dict[str, Any] = {"encoder_hidden_states": torch.empty(rows, *text)}
        if unet.config.get("addition_embed_type") == "text_time":
            pooled = unet.config["projection_class_embeddings_input_dim"] - 6 * unet.config["addition_time_embed_dim"]
            told["added_cond_kwargs"] = {"text_embeds": torch.empty(rows, pooled), "time_ids": torch.empty(rows, 6)}
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            unet(sample, torch.zeros(rows), **told)
    return float(counter.get_total_flops())


def matmul_tflops(device: torch.device, dtype: torch.dtype, seconds: float = 0.4) -> float:
    """Median rate of a square matrix product, in 10¹² floating-point operations a second."""
    side = SIDES[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    took, until = list[float](), time.perf_counter() + seconds
    while time.perf_counter() < until or len(took) < 3:
        began = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(took[1:]) / 1e12
