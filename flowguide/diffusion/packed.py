"""Linear and convolution layers with weights laid out once for oneDNN, for networks that only run on a CPU in float32.

PyTorch hands float32 matrix products to MKL, which is slow on CPUs of other makers, and small convolutions to a loop
of its own; a layer that holds its weight in oneDNN's layout goes straight to oneDNN. Results differ in the last bits.
The layers cannot be trained, saved or exported: pack last.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def can_pack() -> bool:
    """Whether this build of PyTorch has oneDNN and the operations that take its layout."""
    needed = ("_linear_pointwise", "_reorder_linear_weight", "_convolution_pointwise", "_reorder_convolution_weight")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in needed)


@torch.inference_mode()
def pack(network: nn.Module) -> int:
    """Replace every float32 Linear and Conv2d on the CPU inside `network`; returns how many were replaced."""
    if not can_pack():
        return 0
    count = 0
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            packed = _packed(layer)
            if packed is not None:
                setattr(parent, name, packed)
                count += 1
    return count


def _packed(layer: nn.Module) -> nn.Module | None:
    if type(layer) not in (nn.Linear, nn.Conv2d):
        return None
    weight = layer.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    if isinstance(layer, nn.Conv2d):
        return PackedConv2d(layer) if layer.padding_mode == "zeros" and not isinstance(layer.padding, str) else None
    assert isinstance(layer, nn.Linear)
    return PackedLinear(layer)


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
    """Convolution of [N, C, H, W] with zeros outside."""

    def __init__(self, layer: nn.Conv2d):
        super().__init__()
        self.in_channels, self.out_channels, self.bias = layer.in_channels, layer.out_channels, layer.bias
        self._geometry = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)
        self._weight: Tensor = torch.ops.mkldnn._reorder_convolution_weight(layer.weight.detach(), *self._geometry, None)

    def forward(self, x: Tensor, *unused: float) -> Tensor:
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._weight, self.bias, *self._geometry, "none", [], ""
        )
        return y
