"""A network's layers laid out once for oneDNN, for networks that only run on a CPU in float32 or bfloat16.

PyTorch hands float32 matrix products to MKL, which is slow on CPUs of other makers, and small convolutions to a loop
of its own; a layer that holds its weight in oneDNN's layout goes straight to oneDNN. A 3×3 convolution behind a
doubling of the picture becomes four 2×2 ones in front of it, which is the same sum with 16 products instead of 36.
Sums and products behind a layer are written by the layer itself. Results differ in the last bits; pack last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .packed_layers import (
    PackedConv2d,
    PackedGatedLinear,
    PackedLinear,
    PackedResnet,
    PackedTinyBlock,
    PackedUpsample,
    SmallGroupNorm,
)

_ASKED_FOR_WEIGHTS = ("encoder_hid_proj", "processor")
"""Parts of a UNet whose code looks at the weights of its layers; an IP-Adapter's."""


def can_pack() -> bool:
    """Whether this build of PyTorch has oneDNN and the operations that take its layout."""
    needed = ("_linear_pointwise", "_reorder_linear_weight", "_convolution_pointwise", "_reorder_convolution_weight")
    backend: Any = torch.backends.mkldnn
    return bool(backend.is_available()) and all(hasattr(torch.ops.mkldnn, name) for name in needed)


@torch.inference_mode()
def pack(network: nn.Module) -> int:
    """Replace every layer and block inside `network` that can be packed, on the CPU; returns how many."""
    if not can_pack():
        return 0
    count = _pack_sequence(network) if isinstance(network, nn.Sequential) else 0
    for name, child in list(network.named_children()):
        if name in _ASKED_FOR_WEIGHTS:
            continue
        packed = _packed(child)
        if packed is None:
            count += pack(child)
        elif packed is not child:
            setattr(network, name, packed)
            count += 1
    return count


def _packed(layer: Any) -> nn.Module | None:
    """What takes the place of `layer`; itself where it is packed already, None where it cannot be."""
    if type(layer) in (PackedConv2d, PackedGatedLinear, PackedLinear, PackedResnet, PackedTinyBlock, PackedUpsample):
        packed: nn.Module = layer
        return packed
    for suits, makes in _KINDS:
        if suits(layer):
            return makes(layer)
    return None


def _suits(weight: Tensor) -> bool:
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)


def _is_linear(layer: Any) -> bool:
    return type(layer) is nn.Linear and _suits(layer.weight)


def _is_gated(layer: Any) -> bool:
    return type(layer).__name__ == "GEGLU" and _is_linear(layer.proj)


def _is_slow_norm(layer: Any) -> bool:
    return (
        type(layer) is nn.GroupNorm and layer.affine and layer.weight.dtype == torch.bfloat16 and _suits(layer.weight)
    )


def _is_convolution(layer: Any) -> bool:
    if type(layer) is not nn.Conv2d or not _suits(layer.weight):
        return False
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _is_3x3(layer: Any) -> bool:
    plain = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    return _is_convolution(layer) and all(getattr(layer, name) == value for name, value in plain.items())


def _is_doubling(layer: Any) -> bool:
    """Whether it is diffusers' nearest doubling with a 3×3 convolution behind it and nothing else."""
    if type(layer).__name__ != "Upsample2D" or not _is_3x3(layer.conv):
        return False
    return bool(layer.norm is None and layer.interpolate and not layer.use_conv_transpose)


def _is_resnet(layer: Any) -> bool:
    """Whether it is diffusers' residual block without anything beside what `PackedResnet` does."""
    if type(layer).__name__ != "ResnetBlock2D" or layer.upsample is not None or layer.downsample is not None:
        return False
    shortcut = layer.conv_shortcut is None or _is_convolution(layer.conv_shortcut)
    timestep = layer.time_emb_proj is None or _is_linear(layer.time_emb_proj)
    plain = type(layer.nonlinearity) is nn.SiLU and layer.output_scale_factor == 1.0 and not layer.skip_time_act
    return plain and shortcut and timestep and _is_convolution(layer.conv1) and _is_convolution(layer.conv2)


def _is_tiny_block(layer: Any) -> bool:
    if type(layer).__name__ != "AutoencoderTinyBlock" or type(layer.conv[1]) is not nn.ReLU:
        return False
    skip = isinstance(layer.skip, nn.Identity) or _is_convolution(layer.skip)
    return skip and all(_is_convolution(layer.conv[place]) for place in (0, 2, 4))


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any], nn.Module]], ...] = (
    (_is_resnet, PackedResnet),
    (_is_tiny_block, PackedTinyBlock),
    (_is_gated, lambda layer: PackedGatedLinear(layer.proj)),
    (_is_doubling, lambda layer: PackedUpsample(layer.conv)),
    (_is_slow_norm, SmallGroupNorm),
    (_is_linear, PackedLinear),
    (_is_convolution, PackedConv2d),
)


def _pack_sequence(sequence: nn.Sequential) -> int:
    """Convolutions of a Sequential with the ReLU after them, or the doubling before them, as one layer."""
    count = 0
    for place in range(len(sequence) - 1):
        first: Any = sequence[place]
        second: Any = sequence[place + 1]
        if _is_convolution(first) and type(second) is nn.ReLU:
            sequence[place], sequence[place + 1] = PackedConv2d(first, after="relu"), nn.Identity()
            count += 1
        elif type(first) is nn.Upsample and first.mode == "nearest" and first.scale_factor == 2 and _is_3x3(second):
            sequence[place], sequence[place + 1] = PackedUpsample(second), nn.Identity()
            count += 1
    return count
