"""Self-attention over many tokens on a CPU, as matrix products of oneDNN.

PyTorch's own kernel multiplies small blocks by MKL, which is slow on CPUs of other makers. Here each head takes 256
queries at a time, so that their scores stay in the cache; scores and softmax are float32 in any arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .packed import can_pack

LONG = 512
"""Keys from which it is faster than PyTorch's own."""
CHUNK = 256


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q·Kᵀ/√D)·V of [N, heads, tokens, D] each; the result likewise."""
    fits = query.device.type == "cpu" and query.dtype in (torch.float32, torch.bfloat16) and can_pack()
    if key.shape[2] < LONG or not fits:
        return F.scaled_dot_product_attention(query, key, value)
    rows, heads, tokens, width = query.shape
    result = torch.empty(rows, tokens, heads, value.shape[3], dtype=query.dtype).transpose(1, 2)
    queries, scaled_keys = query.float(), key.float() * width**-0.5
    for row in range(rows):
        for head in range(heads):
            keys, values = scaled_keys[row, head].contiguous(), value[row, head].t().contiguous()
            for start in range(0, tokens, CHUNK):
                part = slice(start, start + CHUNK)
                shares = _product(queries[row, head, part], keys).softmax(dim=-1).to(query.dtype)
                result[row, head, part] = _product(shares, values)
    return result


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x·Wᵀ"""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y


class LongAttention:
    """Processor of a UNet's self-attention layer."""

    def __call__(self, attn: Any, hidden_states: Tensor, *arguments: Any, **options: Any) -> Tensor:
        keys_values = attn.to_k(hidden_states), attn.to_v(hidden_states)
        return attended(attn, attn.to_q(hidden_states), *keys_values)


def attended(attn: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The layer's output [N, tokens, width] from its projected queries, keys and values [N, tokens, heads·D]."""
    heads = [part.reshape(*part.shape[:2], attn.heads, -1).transpose(1, 2) for part in (query, key, value)]
    output: Tensor = attend(*heads).transpose(1, 2).reshape(query.shape)
    for layer in attn.to_out:
        output = layer(output)
    return output


def use_long_attention(unet: Any) -> None:
    """Put LongAttention into every self-attention layer that has diffusers' plain processor."""
    for name, layer in unet.named_modules():
        if name.endswith("attn1") and type(getattr(layer, "processor", None)).__name__ == "AttnProcessor2_0":
            layer.set_processor(LongAttention())
