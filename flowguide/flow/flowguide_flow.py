"""`flowguide-flow`: the network of `network`, as an estimator."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.runtimes import Runtimes
from ..errors import ModelError
from ..types import Flow, Frame
from .confidence import Confidence
from .network import MULTIPLE, FlowNetwork
from .protocol import PairEstimator, require_same_size

WEIGHTS = Path(__file__).parent.parent / "assets" / "flow" / "flow.safetensors"
LARGEST_AREA_PX = 768 * 768
"""Larger frames are found smaller: all places are compared with all, and that grows with the square of the area."""


OUTPUTS = ("uv", "log_scale", "visible")


class PlainFlow(nn.Module):
    """The network with tensors alone: two pictures in, OUTPUTS of both directions out."""

    def __init__(self, network: FlowNetwork):
        super().__init__()
        self.network = network

    def forward(self, at: Tensor, to: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.network(at, to)
        return found.uv, found.log_scale, found.visible


class NetworkFlow(PairEstimator):
    """flowguide's own network: both directions and the confidence of both from one pass.

    confidence: a measure by name, or "own": the network's own probability that the flow is right within one pixel and
    the pixel is visible. network: weights of one's own.
    """

    NAME = "flowguide-flow"

    def __init__(self, *, confidence: str | Confidence | None = "own", network: FlowNetwork | None = None):
        super().__init__(confidence=None if confidence == "own" else confidence)
        self._own = confidence == "own"
        self._given = network
        self._runtimes: Runtimes | None = None

    @property
    def name(self) -> str:
        return self.NAME

    @property
    def key(self) -> str | None:
        if self._given is not None or super().key is None:
            return None
        return f"{super().key} {'own' if self._own else ''} {weights_digest()} {self.runtime} {torch.__version__}"

    def run_by(self, runtime: str, device: torch.device) -> None:
        self.runtime, self.device = runtime, device
        self._runtimes = Runtimes(runtime, device, torch.float32)

    def displacement(self, at: Frame, to: Frame) -> Tensor:
        return self.displacements(at, to)[0]

    def displacements(self, at: Frame, to: Frame) -> tuple[Tensor, Tensor]:
        forward, backward = self._found([(at, to)])[0]
        return forward.uv, backward.uv

    def __call__(self, at: Frame, to: Frame) -> Flow:
        return self.both(at, to)[0]

    def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        return self.several([(at, to)])[0]

    @property
    def at_once(self) -> int:
        on_gpu = self.device is not None and self.device.type == "cuda"
        return 4 if on_gpu else 1

    def several(self, pairs: Sequence[tuple[Frame, Frame]]) -> list[tuple[Flow, Flow]]:
        for at, to in pairs:
            require_same_size(at, to)
        if len({at.size for at, _ in pairs}) > 1:
            return [self.both(at, to) for at, to in pairs]
        found = self._found(pairs)
        if self._own:
            return found
        return [
            (self._with_confidence(at, to, there.uv, back.uv), self._with_confidence(to, at, back.uv, there.uv))
            for (at, to), (there, back) in zip(pairs, found, strict=True)
        ]

    def _found(self, pairs: Sequence[tuple[Frame, Frame]]) -> list[tuple[Flow, Flow]]:
        """Flows with the network's own confidence, of pairs of one size."""
        frames = pairs[0][0]
        network = self._given or shipped_network(self.device or frames.rgb.device)
        device = next(network.parameters()).device
        size = working_size(frames.size)
        first, second = (torch.cat([_prepared(pair[place], size) for pair in pairs]).to(device) for place in (0, 1))
        with torch.inference_mode():
            plain = PlainFlow(network)
            if self._runtimes is None:
                uv, log_scale, score = plain(first, second)
            else:
                uv, log_scale, score = self._runtimes("flow", plain, {"at": first, "to": second}, OUTPUTS)
            visible = score.sigmoid()
            parts = torch.cat([uv, right_within(log_scale) * visible, visible], 1)
        parts = parts[:, :, : size[0], : size[1]].to(frames.rgb.device, torch.float32, copy=True)
        flows = []
        for part, (here, there) in zip(parts, [*pairs, *((to, at) for at, to in pairs)], strict=True):
            flow = Flow(part[:2], here.index, there.index, part[2], part[3]).resized(here.size)
            assert flow.confidence is not None
            assert flow.visible is not None
            inside = _ends_inside(flow.uv)
            flows.append(replace(flow, confidence=flow.confidence * inside, visible=flow.visible * inside))
        return list(zip(flows[: len(pairs)], flows[len(pairs) :], strict=True))


def right_within(log_scale: Tensor, limit_px: float = 1.0) -> Tensor:
    """P(|e| <= limit) where p(e) ~ exp(-|e| / b) over the plane: 1 - (1 + limit / b) exp(-limit / b)."""
    ratio = limit_px * (-log_scale.float()).exp()
    return 1 - (1 + ratio) * (-ratio).exp()


def working_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which a frame is looked at: its own, or less where it is larger than LARGEST_AREA_PX."""
    scale = min(1.0, (LARGEST_AREA_PX / (size[0] * size[1])) ** 0.5)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _prepared(frame: Frame, size: tuple[int, int]) -> Tensor:
    """float [1, 3, H, W] with sides that the network takes, scaled and padded by repeating the border."""
    rgb = frame.rgb[None].float()
    if size != frame.size:
        rgb = F.interpolate(rgb, size, mode="bilinear", antialias=True)
    # Below two multiples a corner is padded by more than the network's deepest convolution reaches.
    return F.pad(rgb, (0, _missing(size[1]), 0, _missing(size[0])), mode="replicate")


def _missing(side: int) -> int:
    return max(-side % MULTIPLE, 2 * MULTIPLE - side)


def _ends_inside(uv: Tensor) -> Tensor:
    height, width = uv.shape[1:]
    x = torch.arange(width, device=uv.device) + uv[0]
    y = torch.arange(height, device=uv.device)[:, None] + uv[1]
    return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)


def save_weights(network: FlowNetwork, path: Path) -> None:
    """As float16 safetensors, whole or not at all."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    save_file(
        {name: value.detach().cpu().half().contiguous() for name, value in network.state_dict().items()}, unfinished
    )
    unfinished.chmod(0o644)
    unfinished.replace(path)


@cache
def weights_digest() -> str:
    """Of the shipped weights, so that what was found with others is not taken for theirs."""
    return hashlib.blake2b(WEIGHTS.read_bytes(), digest_size=8).hexdigest() if WEIGHTS.is_file() else "none"


def load_weights(path: Path) -> FlowNetwork:
    """The network with the weights of that file. Raises ModelError where it is missing or holds others."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise ModelError(f"flowguide-flow has no weights: {path} is missing.")
    network = FlowNetwork()
    try:
        network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except Exception as error:
        raise ModelError(f"{path} holds no weights of flowguide-flow: {error}") from error
    return network.eval().requires_grad_(False)


@cache
def shipped_network(device: torch.device) -> FlowNetwork:
    """The network with the weights that come with flowguide."""
    return load_weights(WEIGHTS).to(device)
