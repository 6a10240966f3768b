"""What an engine file depends on, as readable JSON beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from flowguide.engines.network import Network
from flowguide.engines.runtime import RUNTIMES, version_of

OPSET = 20
_REBUILT = ("runtime_version", "compute_capability")


@dataclass(frozen=True)
class EngineKey:
    """Everything that, when it changes, makes an engine another one."""

    network: str
    weights: str
    """Digest of the layers and weights, LoRAs included."""
    inputs: dict[str, tuple[list[int], str]]
    """name -> shape, dtype"""
    outputs: list[str]
    runtime: str
    runtime_version: str
    compute_capability: list[str] = field(default_factory=list)
    """Cards that it is built for, such as 8.9; empty for ONNX."""
    opset: int = OPSET
    flags: list[str] = field(default_factory=list)
    ranges: dict[str, list[list[int]]] = field(default_factory=dict)
    """name -> least and most shape, of inputs whose size is a range"""

    @property
    def stem(self) -> str:
        """The file's name without its suffix: the same for every version of the runtime and every card."""
        lasting = {name: value for name, value in asdict(self).items() if name not in _REBUILT}
        short = hashlib.blake2b(json.dumps(lasting, sort_keys=True).encode(), digest_size=5).hexdigest()
        shape, dtype = next(iter(self.inputs.values()))
        size = "x".join(str(side) for side in shape)
        return f"{self.network}-{size}-{dtype}-{self.runtime}-{short}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(content: dict[str, Any]) -> EngineKey:
        """What `as_dict` gave; raises KeyError or TypeError for anything else."""
        given = {entry.name: content[entry.name] for entry in fields(EngineKey)}
        given["inputs"] = {name: (list(shape), str(dtype)) for name, (shape, dtype) in given["inputs"].items()}
        return EngineKey(**given)

    def differences(self, other: EngineKey) -> list[str]:
        """What is not as `other` asks for, each as `name: this, now that`; more cards than asked for are no harm."""
        if set(other.compute_capability) <= set(self.compute_capability):
            other = replace(other, compute_capability=self.compute_capability)
        mine, theirs = asdict(self), asdict(other)
        return [f"{name}: {_short(mine[name])}, now {_short(theirs[name])}" for name in mine
                if json.dumps(mine[name]) != json.dumps(theirs[name])]  # fmt: skip

    def covers(self, other: EngineKey) -> bool:
        """Whether an engine of this key, for a range of sizes, runs at the sizes that `other` asks for."""
        if not self.ranges or self.inputs.keys() != other.inputs.keys():
            return False
        for name, (shape, dtype) in other.inputs.items():
            own, own_dtype = self.inputs[name]
            least, most = self.ranges.get(name, (own, own))
            if dtype != own_dtype or len(shape) != len(own):
                return False
            if any(not a <= side <= b for a, side, b in zip(least, shape, most, strict=True)):
                return False
        return not replace(self, inputs=other.inputs, ranges=other.ranges).differences(other)


def key_of(network: Network, runtime: str, capabilities: tuple[str, ...] = ()) -> EngineKey:
    """capabilities: cards to build for; default: the one that is here."""
    inputs = {name: (list(spec.shape), str(spec.dtype).removeprefix("torch.")) for name, spec in network.inputs.items()}
    cards = list(capabilities)
    if not cards and RUNTIMES[runtime].engine == ".plan" and torch.cuda.is_available():
        cards = [".".join(map(str, torch.cuda.get_device_capability()))]
    ranges = {
        name: [list(spec.least or ()), list(spec.most or ())] for name, spec in network.inputs.items() if spec.varying
    }
    return EngineKey(
        network.name, network.digest(), inputs, list(network.outputs), runtime, version_of(runtime), in_order(cards),
        ranges=ranges,
    )  # fmt: skip


def in_order(cards: Iterable[str]) -> list[str]:
    """Compute capabilities, each once, by their numbers."""
    return sorted(set(cards), key=lambda name: [int(part) if part.isdigit() else 0 for part in name.split(".")])


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "…"
