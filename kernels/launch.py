"""What every launcher needs: dense tensors, block sizes, and pointers for absent tensors."""

from __future__ import annotations

import os

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def dense(tensor: Tensor) -> Tensor:
    """Contiguous; a copy only if it was not."""
    return tensor.detach().contiguous()


def dense_or(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """A kernel takes no None: an absent tensor is stood in for by another, which a constexpr keeps from being read."""
    return stand_in if tensor is None else dense(tensor)


def block(size: int) -> int:
    """Elements of a program; many more when interpreting, which costs per program."""
    return 16384 if INTERPRETED else size


def float32_like(tensor: Tensor, *shape: int) -> Tensor:
    """Uninitialised float32 scratch on the tensor's device."""
    return torch.empty(shape, dtype=torch.float32, device=tensor.device)
