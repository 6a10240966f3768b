"""Layers and blocks that hold their weights in oneDNN's layout; made from PyTorch's by `packed.pack`.

They cannot be trained, saved or exported.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """y = x·Wᵀ + b."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)

    def forward(self, x: Tensor, *unused: float) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")
        return y


class PackedGatedLinear(nn.Module):
    """(x·Aᵀ + a)·gelu(x·Bᵀ + b), diffusers' GEGLU, whose one weight is A above B."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        reorder = torch.ops.mkldnn._reorder_linear_weight
        value, gate = (half.contiguous() for half in layer.weight.detach().chunk(2))
        self._value: Tensor = reorder(value, None)
        self._gate: Tensor = reorder(gate, None)
        biases = (None, None) if layer.bias is None else layer.bias.detach().chunk(2)
        self._value_bias, self._gate_bias = biases

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.ops.mkldnn._linear_pointwise(x, self._gate, self._gate_bias, "gelu", [], "none")
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, gate, self._value, self._value_bias, "mul")
        return y


class SmallGroupNorm(nn.Module):
    """Group norm of bfloat16 [N, C, H, W]; fewer than 1024 pixels go through float32, which PyTorch does 3 to 9 times
    faster."""

    def __init__(self, layer: nn.GroupNorm):
        super().__init__()
        self._groups, self._eps = layer.num_groups, layer.eps
        self._weight, self._bias = layer.weight.detach(), layer.bias.detach()
        self._weight32, self._bias32 = self._weight.float(), self._bias.float()

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[2] * x.shape[3] >= 1024:
            return F.group_norm(x, self._groups, self._weight, self._bias, self._eps)
        return F.group_norm(x.float(), self._groups, self._weight32, self._bias32, self._eps).to(x.dtype)


class PackedConv2d(nn.Module):
    """Convolution of [N, C, H, W] with zeros outside; after: 'none' or 'relu'.

    The weight is laid out for the size that is seen first, and anew for another: oneDNN takes a layout that does not
    suit the size through code ten times slower.
    """

    def __init__(self, layer: nn.Conv2d, after: str = "none"):
        super().__init__()
        self.in_channels, self.out_channels, self.bias = layer.in_channels, layer.out_channels, layer.bias
        self._geometry = (list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups)
        self._weight: Tensor = layer.weight.detach()
        self._size: torch.Size | None = None
        self._after = after

    def forward(self, x: Tensor, *unused: float) -> Tensor:
        y: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._suited(x.shape), self.bias, *self._geometry, self._after, [], ""
        )
        return y

    def plus(self, other: Tensor, x: Tensor) -> Tensor:
        """other + the convolution of x, before what comes after."""
        after = None if self._after == "none" else self._after
        y: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, self._suited(x.shape), self.bias, *self._geometry, "add", None, after, [], None
        )
        return y

    def _suited(self, size: torch.Size) -> Tensor:
        if size != self._size:
            plain = self._weight.to_dense() if self._weight.is_mkldnn else self._weight
            self._weight = torch.ops.mkldnn._reorder_convolution_weight(plain, *self._geometry, list(size))
            self._size = size
        return self._weight


class PackedUpsample(nn.Module):
    """The picture doubled by repetition, then a 3×3 convolution; [N, C, H, W] -> [N, D, 2·H, 2·W].

    An output pixel at an even row sees source rows i−1 and i, the kernel's last two rows meeting in one source row; at
    an odd row it sees i and i+1. So for columns, which makes four kernels of 2×2, run as one convolution.
    """

    def __init__(self, layer: nn.Conv2d):
        super().__init__()
        weight = layer.weight.detach().float()
        first, middle, last = weight.unbind(2)
        by_row = torch.stack([torch.stack([first, middle + last], 2), torch.stack([first + middle, last], 2)])
        first, middle, last = by_row.unbind(-1)
        by_cell = torch.stack([torch.stack([first, middle + last], -1), torch.stack([first + middle, last], -1)], 1)
        phases = nn.Conv2d(layer.in_channels, 4 * layer.out_channels, 2, padding=1, bias=layer.bias is not None)
        phases.weight.data = by_cell.flatten(0, 2).to(layer.weight.dtype)
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


class PackedResnet(nn.Module):
    """diffusers' ResnetBlock2D: x + conv(silu(norm(conv(silu(norm(x)))))), the timestep heard at the second norm."""

    def __init__(self, layer: Any):
        super().__init__()
        self._norms = nn.ModuleList([packed_norm(layer.norm1), packed_norm(layer.norm2)])
        self._first, self._second = PackedConv2d(layer.conv1), PackedConv2d(layer.conv2)
        self._shortcut = nn.Identity() if layer.conv_shortcut is None else PackedConv2d(layer.conv_shortcut)
        self._timestep = None if layer.time_emb_proj is None else PackedLinear(layer.time_emb_proj)
        self._scales = layer.time_embedding_norm == "scale_shift"

    def forward(self, x: Tensor, temb: Tensor | None = None, *unused: float) -> Tensor:
        h = self._first.forward(F.silu(self._norms[0](x), inplace=True))
        told = None
        if self._timestep is not None and temb is not None:
            told = self._timestep.forward(F.silu(temb))[:, :, None, None]
        if told is not None and not self._scales:
            h.add_(told)
        h = self._norms[1](h)
        if told is not None and self._scales:
            scale, shift = told.chunk(2, dim=1)
            torch.addcmul(shift, h, 1 + scale, out=h)
        return self._second.plus(self._shortcut(x), F.silu(h, inplace=True))


class PackedTinyBlock(nn.Module):
    """diffusers' AutoencoderTinyBlock: relu(three convolutions of x + x)."""

    def __init__(self, layer: Any):
        super().__init__()
        self._convolutions = nn.ModuleList(PackedConv2d(layer.conv[place], after="relu") for place in (0, 2, 4))
        self._skip = PackedConv2d(layer.skip) if isinstance(layer.skip, nn.Conv2d) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self._convolutions
        result: Tensor = third.plus(self._skip(x), second(first(x)))  # type: ignore[operator]
        return result


def packed_norm(layer: nn.GroupNorm) -> nn.Module:
    """`layer`, or in bfloat16 what does the same faster."""
    return SmallGroupNorm(layer) if layer.weight.dtype == torch.bfloat16 else layer
