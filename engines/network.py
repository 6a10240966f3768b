"""A network as an engine sees it: tensors in by name, tensors out by name, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Spec:
    """Shape and dtype of one tensor."""

    shape: tuple[int, ...]
    """Of a range of sizes, the one that it is best at."""
    dtype: torch.dtype
    least: tuple[int, ...] | None = None
    """The smallest shape, where a range is asked for; else None, as `most`."""
    most: tuple[int, ...] | None = None

    @staticmethod
    def of(tensor: Tensor) -> Spec:
        return Spec(tuple(tensor.shape), tensor.dtype)

    @property
    def varying(self) -> tuple[int, ...]:
        """The dimensions that are not fixed."""
        if self.least is None or self.most is None:
            return ()
        return tuple(place for place, (a, b) in enumerate(zip(self.least, self.most, strict=True)) if a != b)

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


@dataclass(frozen=True)
class FileNetwork(Network):
    """A network that is an ONNX file already; `module` is none."""

    file: Path
    where: torch.device

    @property
    def device(self) -> torch.device:
        return self.where

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def weight_bytes(self) -> int:
        return self.file.stat().st_size

    def digest(self) -> str:
        """BLAKE2 of the file."""
        with self.file.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def ranged(least: Sequence[Network], best: Sequence[Network], most: Sequence[Network]) -> list[Network]:
    """The networks `best` for all sizes between those of `least` and those of `most`, in the same order."""
    made = []
    for small, middle, large in zip(least, best, most, strict=True):
        specs = {
            name: replace(spec, least=small.inputs[name].shape, most=large.inputs[name].shape)
            for name, spec in middle.inputs.items()
        }
        made.append(replace(middle, inputs=specs))
    return made
