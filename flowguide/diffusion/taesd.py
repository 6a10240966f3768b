"""Tiny autoencoders in their author's own files: an encoder and a decoder, TAESD and its successors.

The layers are read off the names and shapes (github.com/madebyollin/taesd, taesd.py): convolutions, residual blocks,
blocks whose input is first mixed over the whole picture through a group norm, halvings and doublings.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from .loading import first_line, pickle_refused

Weights = dict[str, Tensor]


class Block(nn.Module):
    """relu(x + three convolutions of x), after x + pool(x) where the block has a pool."""

    def __init__(self, weights: Weights):
        super().__init__()
        width_out, width_in = weights["conv.0.weight"].shape[:2]
        layers = [_convolution(weights[f"conv.{place}.weight"]) for place in (0, 2, 4)]
        self.conv = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        self.skip = nn.Conv2d(width_in, width_out, 1, bias=False) if "skip.weight" in weights else nn.Identity()
        self.pool = nn.Sequential()
        if "pool.0.weight" in weights:
            wide = weights["pool.0.weight"].shape[0]
            self.pool = nn.Sequential(
                nn.Conv2d(width_in, wide, 1, bias=False), nn.GroupNorm(4, wide), nn.ReLU(),
                nn.Conv2d(wide, width_in, 1, bias=False),
            )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        if len(self.pool):
            x = x + self.pool(x)
        result: Tensor = torch.relu(self.conv(x) + self.skip(x))
        return result


class Clamp(nn.Module):
    """tanh(x / 3)·3"""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3.0) * 3.0


class TinyAutoencoder(nn.Module):
    """The face of diffusers' AutoencoderTiny: pictures in [-1, 1], latents as the denoiser takes them."""

    def __init__(self, encoder: Weights, decoder: Weights):
        super().__init__()
        self.encoder, self.decoder = _sequence(encoder), _sequence(decoder)
        halvings = sum(getattr(layer, "stride", None) == (2, 2) for layer in self.encoder)
        # As diffusers' configs say it: a latent cell is 2^(blocks − 1) pixels wide.
        self.config = SimpleNamespace(
            latent_channels=decoder["1.weight"].shape[1], scaling_factor=1.0, block_out_channels=(0,) * (halvings + 1)
        )

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def encode(self, pictures: Tensor) -> Any:
        """An object whose `latents` are those of `pictures` [N, 3, H, W]."""
        return SimpleNamespace(latents=self.encoder((pictures + 1.0) / 2.0))

    def decode(self, latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """(pictures,)"""
        return (self.decoder(latents) * 2.0 - 1.0,)


def load_taesd(folder: Path, dtype: torch.dtype, *, allow_pickle: bool = False) -> TinyAutoencoder:
    """The autoencoder whose two files lie in `folder`, one with `encoder` in its name and one with `decoder`.

    Raises ModelError.
    """
    weights = []
    for side in ("encoder", "decoder"):
        files = sorted(f for f in folder.glob(f"*{side}*") if f.suffix in (".safetensors", ".pth", ".pt"))
        if not files:
            raise ModelError(f"{folder} holds neither a config.json nor a file of a tiny {side}.")
        weights.append(_read(files[0], allow_pickle))
    try:
        network = TinyAutoencoder(*weights)
        network.encoder.load_state_dict(weights[0])
        network.decoder.load_state_dict(weights[1])
    except (KeyError, RuntimeError, ValueError) as error:
        raise ModelError(f"The autoencoder in {folder} is not of the TAESD kind: {first_line(error)}") from error
    return network.to(dtype)


def _read(file: Path, allow_pickle: bool) -> Weights:
    from safetensors.torch import load_file

    if file.suffix != ".safetensors" and not allow_pickle:
        raise pickle_refused(file)
    try:
        content: Weights = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    except Exception as error:
        raise ModelError(f"{file} could not be read: {first_line(error)}") from error
    return content


def _sequence(weights: Weights) -> nn.Sequential:
    """The layers by their numbers; numbers without weights are the clamp, the first ReLU and the doublings."""
    decoder = "0.weight" not in weights
    layers: list[nn.Module] = []
    for number in range(max(int(name.split(".")[0]) for name in weights) + 1):
        own = {name.split(".", 1)[1]: value for name, value in weights.items() if name.startswith(f"{number}.")}
        if not own:
            layers.append(Clamp() if number == 0 else nn.ReLU() if number == 2 else nn.Upsample(scale_factor=2))
        elif "conv.0.weight" in own:
            layers.append(Block(own))
        else:
            halves = not decoder and "bias" not in own
            layers.append(_convolution(own["weight"], bias="bias" in own, stride=2 if halves else 1))
    return nn.Sequential(*layers)


def _convolution(weight: Tensor, *, bias: bool = True, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=bias, stride=stride)
