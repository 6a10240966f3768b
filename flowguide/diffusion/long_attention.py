"""Attention on a CPU as matrix products of oneDNN.

PyTorch's own kernel multiplies small blocks by MKL, which is slow on CPUs of other makers. Here each head takes as many
queries at a time as keep the scores in the cache; scores and softmax are float32 in any arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .packed import can_pack

CACHED = 1 << 19
"""Scores that are worked on at once, 2 MiB."""
FEWEST = 128
"""Queries that are worked on at once however many keys there are."""
SHORT = 256
"""Queries under which a call of its own for each head costs more than it brings."""


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q·Kᵀ/√D)·V of [N, heads, tokens, D] each; the result likewise."""
    fits = query.device.type == "cpu" and query.dtype in (torch.float32, torch.bfloat16) and can_pack()
    if query.shape[2] < SHORT or not fits:
        return F.scaled_dot_product_attention(query, key, value)
    rows, heads, tokens, width = query.shape
    result = torch.empty(rows, tokens, heads, value.shape[3], dtype=query.dtype).transpose(1, 2)
    queries, keys = query.float(), (key.float() * width**-0.5).contiguous()
    # oneDNN is two to three times faster where the result's width is a multiple of 16.
    values = F.pad(value, (0, -value.shape[3] % 16)).transpose(2, 3).contiguous()
    chunk = max(FEWEST, CACHED // key.shape[2])
    for row in range(rows):
        for head in range(heads):
            for start in range(0, tokens, chunk):
                part = slice(start, start + chunk)
                shares = _product(queries[row, head, part], keys[row, head]).softmax(dim=-1).to(query.dtype)
                result[row, head, part] = _product(shares, values[row, head])[:, : value.shape[3]]
    return result


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x·Wᵀ"""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y


class LongAttention:
    """Processor of a UNet's attention layer."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *unused: Any, **more: Any
    ) -> Tensor:
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        return attended(attn, attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen))


def attended(attn: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The layer's output [N, tokens, width] from its projected queries, keys and values [N, tokens, heads·D]."""
    heads = [part.reshape(*part.shape[:2], attn.heads, -1).transpose(1, 2) for part in (query, key, value)]
    output: Tensor = attend(*heads).transpose(1, 2).reshape(query.shape)
    for layer in attn.to_out:
        output = layer(output)
    return output


def use_long_attention(unet: Any) -> None:
    """Put LongAttention into every attention layer that has diffusers' plain processor and no norms of its own."""
    for name, layer in unet.named_modules():
        plain = type(getattr(layer, "processor", None)).__name__ == "AttnProcessor2_0"
        if name.endswith(("attn1", "attn2")) and plain and layer.norm_cross is None and layer.group_norm is None:
            layer.set_processor(LongAttention())
