"""Layers laid out once for oneDNN, for networks that only run on a CPU in float32.

PyTorch hands float32 matrix products to MKL, which is slow on CPUs of other makers, and small convolutions to a loop
of its own; a layer that holds its weight in oneDNN's layout goes straight to oneDNN. A 3×3 convolution behind a
doubling of the picture becomes four 2×2 ones in front of it, which is the same sum with 16 products instead of 36.
Results differ in the last bits. The layers cannot be trained, saved or exported: pack last.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ASKED_FOR_WEIGHTS = ("encoder_hid_proj", "processor")
"""Parts of a UNet whose code looks at the weights of its layers; an IP-Adapter's."""


def can_pack() -> bool:
    """Whether this build of PyTorch has oneDNN and the operations that take its layout."""
    needed = ("_linear_pointwise", "_reorder_linear_weight", "_convolution_pointwise", "_reorder_convolution_weight")
    backend: Any = torch.backends.mkldnn
    return bool(backend.is_available()) and all(hasattr(torch.ops.mkldnn, name) for name in needed)


@torch.inference_mode()
def pack(network: nn.Module) -> int:
    """Replace every layer inside `network` that can be packed, float32 on the CPU; returns how many."""
    if not can_pack():
        return 0
    count = 0
    for place, parent in list(network.named_modules()):
        if any(part in place for part in _ASKED_FOR_WEIGHTS):
            continue
        if isinstance(parent, nn.Sequential):
            count += _pack_sequence(parent)
        for name, layer in list(parent.named_children()):
            packed = _packed(layer)
            if packed is not None:
                setattr(parent, name, packed)
                count += 1
    return count


def _packed(layer: Any) -> nn.Module | None:
    if type(layer) is nn.Linear and _suits(layer.weight):
        return PackedLinear(layer)
    if _packable(layer):
        return PackedConv2d(layer)
    if _doubles(layer):
        return PackedUpsample(layer.conv)
    return None


def _pack_sequence(sequence: nn.Sequential) -> int:
    """Convolutions of a Sequential with the ReLU after them, or the doubling before them, as one layer."""
    count = 0
    for place in range(len(sequence) - 1):
        first: Any = sequence[place]
        second: Any = sequence[place + 1]
        if _packable(first) and type(second) is nn.ReLU:
            sequence[place], sequence[place + 1] = PackedConv2d(first, after="relu"), nn.Identity()
            count += 1
        elif type(first) is nn.Upsample and first.mode == "nearest" and first.scale_factor == 2 and _is_3x3(second):
            sequence[place], sequence[place + 1] = PackedUpsample(second), nn.Identity()
            count += 1
    return count


def _suits(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _packable(layer: Any) -> bool:
    if type(layer) is not nn.Conv2d or not _suits(layer.weight):
        return False
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _is_3x3(layer: Any) -> bool:
    plain = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    return _packable(layer) and all(getattr(layer, name) == value for name, value in plain.items())


def _doubles(layer: Any) -> bool:
    """Whether it is diffusers' nearest doubling with a 3×3 convolution behind it and nothing else."""
    if type(layer).__name__ != "Upsample2D" or not _is_3x3(layer.conv):
        return False
    return bool(layer.norm is None and layer.interpolate and not layer.use_conv_transpose)


class PackedLinear(nn.Module):
    """y = x·Wᵀ + b."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)

    def forward(self, x: Tensor, *unused: float) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")
        return y


class PackedConv2d(nn.Module):
    """Convolution of [N, C, H, W] with zeros outside; after: 'none' or 'relu'."""

    def __init__(self, layer: nn.Conv2d, after: str = "none"):
        super().__init__()
        self.in_channels, self.out_channels, self.bias = layer.in_channels, layer.out_channels, layer.bias
        self._geometry = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)
        self._weight: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            layer.weight.detach(), *self._geometry, None
        )
        self._after = after

    def forward(self, x: Tensor, *unused: float) -> Tensor:
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self.bias, *self._geometry, self._after, [], ""
        )
        return y


class PackedUpsample(nn.Module):
    """The picture doubled by repetition, then a 3×3 convolution; [N, C, H, W] -> [N, D, 2·H, 2·W].

    An output pixel at an even row sees source rows i−1 and i, the kernel's last two rows meeting in one source row; at
    an odd row it sees i and i+1. So for columns, which makes four kernels of 2×2, run as one convolution.
    """

    def __init__(self, layer: nn.Conv2d):
        super().__init__()
        weight = layer.weight.detach()
        first, middle, last = weight.unbind(2)
        by_row = torch.stack([torch.stack([first, middle + last], 2), torch.stack([first + middle, last], 2)])
        first, middle, last = by_row.unbind(-1)
        by_cell = torch.stack([torch.stack([first, middle + last], -1), torch.stack([first + middle, last], -1)], 1)
        phases = nn.Conv2d(layer.in_channels, 4 * layer.out_channels, 2, padding=1, bias=layer.bias is not None)
        phases.weight.data = by_cell.flatten(0, 2)
        if layer.bias is not None and phases.bias is not None:
            phases.bias.data = layer.bias.detach().repeat(4)
        self._phases = PackedConv2d(phases)
        self._plain = PackedConv2d(layer)

    def forward(self, x: Tensor, output_size: Any = None, *unused: float) -> Tensor:
        height, width = x.shape[2:]
        if output_size is not None and tuple(output_size) != (2 * height, 2 * width):
            resized = F.interpolate(x, size=tuple(output_size), mode="nearest")
            return self._plain.forward(resized)
        together = self._phases.forward(x)
        phases = together.reshape(x.shape[0], 2, 2, -1, *together.shape[2:])
        shape = (x.shape[0], phases.shape[3], 2 * height, 2 * width)
        doubled = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        for row in range(2):
            for column in range(2):
                part = phases[:, row, column, :, row : row + height, column : column + width]
                doubled[:, :, row::2, column::2] = part
        return doubled
