"""A network as an engine sees it: tensors in by name, tensors out by name, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Spec:
    """Shape and dtype of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(tensor: Tensor) -> Spec:
        return Spec(tuple(tensor.shape), tensor.dtype)

    def empty(self, device: torch.device) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device=device)


@dataclass(frozen=True)
class Network:
    """One network at one size."""

    name: str
    """What it is: unet, vae-encoder, vae-decoder, controlnet-0, flow …"""
    module: nn.Module
    """forward(*inputs in order) -> one tensor or a tuple of them."""
    inputs: Mapping[str, Spec]
    outputs: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(parameter.dtype for parameter in self.module.parameters() if parameter.is_floating_point())

    def weight_bytes(self) -> int:
        """Room that its weights take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.module.state_dict().values())

    def digest(self) -> str:
        """BLAKE2 over the layers and every weight, adapters that were fused into them included."""
        total = hashlib.blake2b(repr(self.module).encode(), digest_size=16)
        for name, tensor in sorted(self.module.state_dict().items()):
            total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return total.hexdigest()

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace it with: noise; timesteps are 500."""
        generator = torch.Generator().manual_seed(0)
        made = []
        for name, spec in self.inputs.items():
            value = (
                torch.randn(spec.shape, generator=generator) if name != "timestep" else torch.full(spec.shape, 500.0)
            )
            made.append(value.to(self.device, spec.dtype))
        return tuple(made)

    def call(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The module itself, by names."""
        result = self.module(*(given[name] for name in self.inputs))
        return dict(zip(self.outputs, result if isinstance(result, tuple | list) else (result,), strict=True))
