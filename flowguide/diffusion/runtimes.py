"""The networks of a checkpoint under a runtime by name: TensorRT, OpenVINO, ONNX Runtime, compiled PyTorch.

A network is handed over with tensors alone, by name; its engine is opened, and built where there is none, at the first
call with a size.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FlowguideError, UnknownName

Named = Mapping[str, Tensor]


class Runtimes:
    """Calls networks by one runtime."""

    def __init__(self, name: str, device: torch.device, precision: torch.dtype):
        """Raises UnknownName, or BackendMissing with the reason why it cannot be used here."""
        self.name = name
        self._precision = precision
        self._engines: Any = importlib.import_module("flowguide.engines.runtime")
        self._engines.check_usable(name, device, precision)
        self._opened: dict[tuple[Any, ...], Any] = {}

    @property
    def fixes_sizes(self) -> bool:
        """Whether another number of rows would be another engine, or another recording."""
        return self.name != "torch"

    def __call__(self, what: str, module: nn.Module, given: Named, outputs: tuple[str, ...]) -> tuple[Tensor, ...]:
        """What `module`, called `what`, makes of `given`; borrowed until the next call with the same sizes."""
        place = (what, *((name, tuple(tensor.shape)) for name, tensor in given.items()))
        if place not in self._opened:
            self._opened[place] = self._engines.open_runtime(
                self.name, network_of(what, module, given, outputs), self._precision
            )
        runtime = self._opened[place]
        taken = {name: tensor.to(runtime.inputs[name].dtype) for name, tensor in given.items()}
        made = runtime(taken)
        dtype = next(tensor.dtype for tensor in given.values() if tensor.ndim > 1)
        return tuple(made[name].to(dtype) for name in outputs)


def usable_runtimes(names: tuple[str, ...], device: torch.device, precision: torch.dtype) -> dict[str, str | None]:
    """Name -> None where the runtime can be used here, else the reason in sentences. Raises UnknownName."""
    engines: Any = importlib.import_module("flowguide.engines.runtime")
    found: dict[str, str | None] = {}
    for name in names:
        try:
            engines.check_usable(name, device, precision)
        except UnknownName:
            raise
        except FlowguideError as error:
            found[name] = str(error)
        else:
            found[name] = None
    return found


def network_of(what: str, module: nn.Module, given: Named, outputs: tuple[str, ...]) -> Any:
    """The Network of `module` at the sizes of `given`."""
    network = importlib.import_module("flowguide.engines.network")
    specs = {name: network.Spec.of(tensor) for name, tensor in given.items()}
    return network.Network(what, module, specs, outputs)


class PlainUNet(nn.Module):
    """A UNet with what is plugged into it, tensors in the order of `names`."""

    def __init__(self, unet: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self._unet, self._names = unet, names

    def forward(self, *tensors: Tensor) -> Tensor:
        told = dict(zip(self._names, tensors, strict=True))
        down = tuple(told[name] for name in self._names if name.startswith("down"))
        output: Tensor = self._unet(
            told["sample"],
            told["timestep"],
            encoder_hidden_states=told["text"],
            timestep_cond=told.get("scale"),
            added_cond_kwargs=_added(told, self._names),
            down_block_additional_residuals=down or None,
            mid_block_additional_residual=told.get("middle"),
            return_dict=False,
        )[0]
        return output


class PlainControlNet(nn.Module):
    """A ControlNet at scale 1, tensors in the order of `names`; gives its down residuals, then the middle."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self._network, self._names = network, names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        told = dict(zip(self._names, tensors, strict=True))
        down, middle = self._network(
            told["sample"],
            told["timestep"],
            encoder_hidden_states=told["text"],
            controlnet_cond=told["hint"],
            added_cond_kwargs=_added(told, self._names),
            return_dict=False,
        )
        return (*down, middle)


class PlainEncoder(nn.Module):
    """Pictures to the autoencoder's own latents, its mode."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self._vae: Any = vae

    def forward(self, pictures: Tensor) -> Tensor:
        coded = self._vae.encode(pictures)
        latents: Tensor = coded.latent_dist.mode() if hasattr(coded, "latent_dist") else coded.latents
        return latents


class PlainDecoder(nn.Module):
    """The autoencoder's own latents to pictures."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self._vae: Any = vae

    def forward(self, latents: Tensor) -> Tensor:
        pictures: Tensor = self._vae.decode(latents, return_dict=False)[0]
        return pictures


def _added(told: Named, names: tuple[str, ...]) -> dict[str, Any] | None:
    added: dict[str, Any] = {}
    if "pooled" in told:
        added |= {"text_embeds": told["pooled"], "time_ids": told["size"]}
    images = [told[name] for name in names if name.startswith("image")]
    if images:
        added["image_embeds"] = images
    return added or None
