"""TensorRT and TensorRT-RTX: one engine at fixed addresses on the caller's stream."""

from __future__ import annotations

import importlib
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
        self._engine, self._context = engine, engine.create_execution_context()
        if self._context is None:
            need = getattr(engine, "device_memory_size_v2", 0) / 2**20
            raise ModelError(
                f"{file.name} does not fit: it needs {need:.0f} MiB of GPU memory to work in. "
                "Give a smaller --size, or --dtype float16."
            )
        self.inputs = network.inputs
        device = network.device
        self._held = {name: spec.empty(device) for name, spec in network.inputs.items() if self._has(name)}
        self._results = {}
        for name in network.outputs:
            shape = tuple(engine.get_tensor_shape(name))
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


def open_file(name: str, file: Path, network: Network, precision: torch.dtype) -> TensorRTRuntime:
    """Raises ModelError for an engine that this card or driver cannot open."""
    return TensorRTRuntime(str(RUNTIMES[name].package), file, network)
