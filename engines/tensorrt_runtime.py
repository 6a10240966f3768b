"""TensorRT and TensorRT-RTX: one engine at fixed addresses on the caller's stream."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from flowguide.engines.network import Network, Spec
from flowguide.engines.runtime import RUNTIMES, CannotOpen
from torch import Tensor

from flowguide.errors import BackendMissing, ModelError


class TensorRTRuntime:
    """An engine file; the two libraries have the same interface."""

    def __init__(self, library: str, file: Path, network: Network):
        trt: Any = importlib.import_module(library)
        log = trt.Logger(trt.Logger.ERROR)
        engine = trt.Runtime(log).deserialize_cuda_engine(file.read_bytes())
        if engine is None:
            raise CannotOpen(
                f"{library} {trt.__version__} cannot open {file.name} on this card and driver. "
                "Update the driver, or use --runtime torch."
            )
        self._engine = engine
        self._context = _context(engine, file, network)
        self.inputs = network.inputs
        for name, spec in network.inputs.items():
            if self._has(name) and -1 in tuple(engine.get_tensor_shape(name)):
                self._context.set_input_shape(name, spec.shape)
        device = network.device
        self._held = {name: spec.empty(device) for name, spec in network.inputs.items() if self._has(name)}
        self._results = {}
        for name in network.outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            self._results[name] = torch.empty(shape, dtype=network.dtype, device=device)
        for name, tensor in {**self._held, **self._results}.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        self.outputs = {name: Spec.of(tensor) for name, tensor in self._results.items()}

    def _has(self, name: str) -> bool:
        return any(self._engine.get_tensor_name(i) == name for i in range(self._engine.num_io_tensors))

    def __enter__(self) -> TensorRTRuntime:
        return self

    def __exit__(self, *unused: object) -> None:
        self._context = self._engine = None

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for name, tensor in self._held.items():
            tensor.copy_(given[name])  # fixed addresses: the same ones at every call
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise ModelError("The TensorRT engine failed; use --runtime torch.")
        return self._results


def _context(engine: Any, file: Path, network: Network) -> Any:
    """What the engine runs in. Raises ModelError with the estimate, where the card has no room for it."""
    needed = int(getattr(engine, "device_memory_size_v2", 0))
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else needed
    context = engine.create_execution_context() if needed <= free else None
    if context is None:
        side = (min(free, 0.95 * needed) / needed) ** 0.5 if needed else 0.5
        cure = "--dtype float16 halves it, or " if network.dtype == torch.float32 else ""
        raise ModelError(
            f"{file.name} does not fit: it needs {needed / 2**20:.0f} MiB of GPU memory to work in beside its weights "
            f"({network.weight_bytes() / 2**20:.0f} MiB), and {free / 2**20:.0f} MiB are free. {cure}"
            f"a --size of at most {side:.0%} of this one's width and height fits."
        )
    return context


def check_usable(name: str, device: torch.device, precision: torch.dtype) -> None:
    """Raises BackendMissing where there is no card for it, or a version before 10."""
    library = RUNTIMES[name].package
    version = str(importlib.import_module(str(library)).__version__)
    if library == "tensorrt" and int(version.split(".")[0]) < 10:
        raise BackendMissing(f"The runtime tensorrt needs TensorRT 10 or later, got {version}.")
    if device.type != "cuda":
        raise BackendMissing(
            f"The runtime {name} needs an NVIDIA GPU and its driver, got device {device}; use torch, onnx or openvino. "
            "Engines can be built here: flowguide engines build."
        )
    needs, has = _cuda_of(str(library)), driver_cuda()
    if needs and has and has < needs:
        raise BackendMissing(
            f"The runtime {name} {version} needs a driver for CUDA {needs}, and this one is for CUDA {has}: update the "
            "NVIDIA driver, or use torch."
        )


def driver_cuda() -> int:
    """The major version of CUDA that the driver serves; 0 where it does not tell."""
    asked = getattr(torch._C, "_cuda_getDriverVersion", None)
    return int(asked()) // 1000 if asked is not None else 0


def _cuda_of(library: str) -> int:
    """The major version of CUDA that the library was built for, as its package is called; 0 where it is not told."""
    from importlib.metadata import distributions

    told = (re.fullmatch(rf"{library}[_-]cu(\d+)", str(found.metadata["Name"] or "")) for found in distributions())
    return max((int(match[1]) for match in told if match), default=0)


def open_file(name: str, file: Path, network: Network, precision: torch.dtype) -> TensorRTRuntime:
    """Raises ModelError for an engine that this card or driver cannot open."""
    return TensorRTRuntime(str(RUNTIMES[name].package), file, network)
