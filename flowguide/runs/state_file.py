"""The state between two frames as one file: tensors in safetensors, everything else as JSON in its header.

Tensors come back bit by bit, on their device, and with their order in memory: an operation may choose its arithmetic
by it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FlowguideError

TENSOR = "tensor"
"""Key by which a dict in the JSON is known to stand for a tensor; no dict of a state has it."""


@dataclass(frozen=True)
class PackedState:
    """A state as it was when packed: its tensors are copies."""

    tree: Any
    tensors: dict[str, Tensor]


def pack(state: dict[str, Any]) -> PackedState:
    """`state` (nested dicts of tensors and what JSON knows) in memory of its own, on the CPU."""
    tensors: dict[str, Tensor] = {}
    return PackedState(_described(state, "", tensors), tensors)


def state_bytes(part: Any) -> int:
    """Room that the tensors of a state take."""
    if isinstance(part, dict):
        return sum(state_bytes(value) for value in part.values())
    return part.numel() * part.element_size() if isinstance(part, Tensor) else 0


def save_state(path: Path, state: PackedState) -> None:
    """Write `state` to `path`. Raises OSError."""
    try:
        save_file(state.tensors, path, {"state": json.dumps(state.tree)})
    except SafetensorError as error:
        raise OSError(str(error)) from error


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` wrote. Raises FlowguideError where the file is absent or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tree = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state: dict[str, Any] = _rebuilt(tree, tensors)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise FlowguideError(f"The state {path} cannot be read ({error}).") from error
    return state


def _described(part: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`part` with each tensor put into `tensors` under its path and described in its place."""
    if isinstance(part, dict):
        return {key: _described(value, f"{name}.{key}" if name else key, tensors) for key, value in part.items()}
    if not isinstance(part, Tensor):
        return part
    order = _memory_order(part)
    tensors[name] = part.permute(order).cpu().clone(memory_format=torch.contiguous_format)
    return {TENSOR: name, "order": order, "device": str(part.device)}


def _memory_order(tensor: Tensor) -> list[int]:
    """The dimensions from the slowest to the fastest in memory."""
    return sorted(range(tensor.ndim), key=tensor.stride, reverse=True)


def _rebuilt(part: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(part, dict):
        return part
    if TENSOR not in part:
        return {key: _rebuilt(value, tensors) for key, value in part.items()}
    order = part["order"]
    places = sorted(range(len(order)), key=order.__getitem__)
    return tensors[part[TENSOR]].to(part["device"]).permute(places)
