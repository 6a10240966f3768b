"""RAFT (Teed and Deng, ECCV 2020), as torchvision has it, with weights that are already on this machine."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BackendMissing, ModelError, UnknownName, UsageError
from ..types import Frame
from .confidence import Confidence
from .protocol import PairEstimator

MULTIPLE = 8
SMALLEST_SIDE_PX = 128
"""On less, the coarsest of RAFT's four levels is empty and its flow is NaN."""


class RaftLarge(PairEstimator):
    """RAFT with 5.3 million parameters.

    weights: a file (.pth or .safetensors) with torchvision's names, or the name of torchvision's own weights, such as
    "C_T_V2", which must be in torch's cache; without it, torchvision's default ones. updates: refinements of the flow.
    Raises BackendMissing without torchvision, ModelError for weights that are not there or do not fit.
    """

    builder = "raft_large"

    def __init__(self, weights: str = "DEFAULT", *, updates: int = 12, confidence: str | Confidence | None = "check"):
        super().__init__(confidence=confidence)
        if not 1 <= updates <= 100:
            raise UsageError(f"updates of RAFT should be between 1 and 100, got {updates}.")
        self.updates = updates
        self._file = _weights_file(self.builder, weights)
        self._builder = getattr(_optical_flow(), self.builder)

    @property
    def name(self) -> str:
        return self.builder.replace("_", "-")

    @property
    def key(self) -> str | None:
        if super().key is None:
            return None
        return f"{super().key} {_digest(self._file)} {self.updates} torch-{torch.__version__}"

    def displacement(self, at: Frame, to: Frame) -> Tensor:
        return self._found(torch.stack([at.rgb]), torch.stack([to.rgb]))[0]

    def displacements(self, at: Frame, to: Frame) -> tuple[Tensor, Tensor]:
        forward, backward = self._found(torch.stack([at.rgb, to.rgb]), torch.stack([to.rgb, at.rgb]))
        return forward, backward

    def _found(self, first: Tensor, second: Tensor) -> Tensor:
        """float32 [N, 2, H, W] of pictures uint8 [N, 3, H, W]."""
        height, width = first.shape[2:]
        device = self.device or first.device
        network = _network(self._builder, self._file, device)
        pictures = [_prepared(pictures.to(device)) for pictures in (first, second)]
        with torch.inference_mode():
            flow: Tensor = network(*pictures, num_flow_updates=self.updates)[-1]
        return flow[:, :, :height, :width].to(first.device, torch.float32, copy=True)


class RaftSmall(RaftLarge):
    """RAFT with one million parameters."""

    builder = "raft_small"


def _prepared(pictures: Tensor) -> Tensor:
    """float [N, 3, H, W] in [-1, 1] with sides that RAFT takes, padded by repeating the border."""
    height, width = pictures.shape[2:]
    below, right = (max(-side % MULTIPLE, SMALLEST_SIDE_PX - side) for side in (height, width))
    return F.pad(pictures.float() / 127.5 - 1, (0, right, 0, below), mode="replicate")


def _optical_flow() -> Any:
    try:
        from torchvision.models import optical_flow
    except (ImportError, RuntimeError) as error:  # RuntimeError: a build for another torch
        raise BackendMissing(
            f"RAFT needs torchvision in the build that fits torch {torch.__version__} ({error}): "
            "pip install 'flowguide[raft]'."
        ) from error
    return optical_flow


def _weights_file(builder: str, weights: str) -> Path:
    path = Path(weights)
    if path.suffix in (".pth", ".pt", ".safetensors"):
        if not path.is_file():
            raise ModelError(f"There is no weights file {path} for {builder}.")
        return path
    table = getattr(_optical_flow(), f"{builder.title()}_Weights")
    if weights not in table.__members__:
        raise UnknownName(f"weights of {builder}", weights, [*table.__members__, "a .pth or .safetensors file"])
    url: str = table[weights].url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not cached.is_file():
        raise ModelError(
            f"The weights {table[weights].name} of {builder} are not on this machine, and nothing is downloaded "
            f"unasked. Fetch {url} to {cached}, or name a file: {builder.replace('_', '-')}:FILE."
        )
    return cached


@lru_cache(maxsize=2)
def _network(builder: Any, file: Path, device: torch.device) -> torch.nn.Module:
    network: torch.nn.Module = builder(weights=None, progress=False)
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception as error:
        raise ModelError(f"{file} holds no weights of torchvision's {builder.__name__}: {error}") from error
    return network.eval().requires_grad_(False).to(device)


@lru_cache(maxsize=8)
def _digest(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
