"""Which networks a configuration will run, at which sizes: found by a run in which nothing is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..config import RenderConfig
from ..timing import StageClock
from .checkpoint import load_checkpoint
from .image_to_image import ImageToImage, NoiseKey
from .runtimes import Named, Runtimes, network_of


class _Recorder(Runtimes):
    """Notes every network and answers with zeros of the right shapes."""

    def __init__(self) -> None:
        self.name = "recorder"
        self.networks: dict[tuple[Any, ...], Any] = {}

    def __call__(self, what: str, module: nn.Module, given: Named, outputs: tuple[str, ...]) -> tuple[Tensor, ...]:
        place = (what, *((name, tuple(tensor.shape)) for name, tensor in given.items()))
        self.networks[place] = network_of(what, module, given, outputs)
        weights = {name: tensor.to("meta") for name, tensor in module.state_dict().items()}
        shapes = torch.func.functional_call(module, weights, tuple(tensor.to("meta") for tensor in given.values()))
        made = shapes if isinstance(shapes, tuple | list) else (shapes,)
        device = next(iter(given.values())).device
        return tuple(torch.zeros(shape.shape, dtype=shape.dtype, device=device) for shape in made)


def planned_networks(
    config: RenderConfig, height: int, width: int, batch: int, dtype: torch.dtype, device: torch.device
) -> list[Any]:
    """The networks (engines.network.Network) of `config` for pictures of height × width px, `batch` frames at once.

    Under the strategy `step-aligned` the UNet's rows are as many as its steps, each with a timestep of its own. Sides
    are rounded up to the checkpoint's grid. Raises ModelError and UsageError as loading does.
    """
    checkpoint = load_checkpoint(config.model, dtype, device, config.model_copy(update={"runtime": "torch"}))
    recorder = _Recorder()
    checkpoint.use(recorder)
    model = ImageToImage(checkpoint, config, StageClock())
    height, width = (-(-side // checkpoint.grid) * checkpoint.grid for side in (height, width))
    pictures = torch.zeros(batch, 3, height, width, device=device)
    keys = [NoiseKey(shot=0, frame=frame) for frame in range(batch)]
    start = model.encode(pictures)
    if config.strategy == "step-aligned" and config.guidance:
        model.advance([model.row(start[:1], keys[0], picture=pictures[:1])], None, most=len(model.table))
    else:
        start = model.denoise(start, keys, picture=pictures)
    model.decode(start)
    return list(recorder.networks.values())
