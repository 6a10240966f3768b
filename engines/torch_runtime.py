"""PyTorch itself: as it is, compiled, or recorded as a CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from flowguide.engines.network import Network, Spec
from torch import Tensor

from flowguide.errors import BackendMissing


class TorchRuntime:
    """mode: 'eager', 'compiled' (torch.compile) or 'graphed' (a CUDA graph at fixed addresses)."""

    def __init__(self, network: Network, mode: str):
        self.inputs = network.inputs
        self._call = network.call
        if mode == "compiled":
            compiled: Any = torch.compile(network.module, dynamic=False)
            self._call = Network(network.name, compiled, network.inputs, network.outputs).call
        self._graph: torch.cuda.CUDAGraph | None = None
        with torch.inference_mode():
            held = dict(zip(network.inputs, network.example(), strict=True))
            self._held, self._results = held, self._warm(held, mode)
        self.outputs = {name: Spec.of(tensor) for name, tensor in self._results.items()}

    def _warm(self, held: dict[str, Tensor], mode: str) -> dict[str, Tensor]:
        if mode != "graphed":
            return self._call(held)
        beside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):
                self._call(held)
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        # Another thread may find flow on the same card meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            return self._call(held)

    def __enter__(self) -> TorchRuntime:
        return self

    def __exit__(self, *unused: object) -> None:
        self._graph = None

    @torch.inference_mode()
    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self._graph is None:
            return self._call(given)
        for name, tensor in self._held.items():
            tensor.copy_(given[name])
        self._graph.replay()
        return self._results


def check_usable(name: str, device: torch.device, precision: torch.dtype) -> None:
    """Raises BackendMissing for a CUDA graph without CUDA."""
    if name == "torch-graphed" and device.type != "cuda":
        raise BackendMissing("The runtime torch-graphed records a CUDA graph and needs an NVIDIA GPU; use torch.")


def open_network(network: Network, mode: str) -> TorchRuntime:
    """`network` in this mode."""
    return TorchRuntime(network, mode)
