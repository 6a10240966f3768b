"""OpenVINO on the CPU: float32, or bfloat16 where the processor multiplies it, from the same ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from flowguide.engines.network import Network, Spec
from flowguide.engines.runtime import CannotOpen
from torch import Tensor

from flowguide.errors import BackendMissing

_PRECISION = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVinoRuntime:
    """An ONNX file compiled for this CPU."""

    def __init__(self, file: Path, network: Network, precision: torch.dtype):
        import openvino

        self._tensor: Any = openvino.Tensor
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISION[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            core = openvino.Core()
            model = core.read_model(str(file))
            if model.is_dynamic():
                taken = {name for entry in model.inputs for name in entry.get_names()}
                model.reshape({name: list(spec.shape) for name, spec in network.inputs.items() if name in taken})
            self._request: Any = core.compile_model(model, "CPU", settings).create_infer_request()
        except Exception as error:
            raise CannotOpen(f"OpenVINO cannot load {file.name}: {_last_line(error)}") from error
        self.inputs = network.inputs
        compiled = self._request.get_compiled_model()
        self._results = {
            name: torch.empty(tuple(compiled.output(name).shape), dtype=network.dtype) for name in network.outputs
        }
        for name, tensor in self._results.items():
            self._request.set_tensor(name, self._tensor(tensor.numpy(), shared_memory=True))
        self.outputs = {name: Spec.of(tensor) for name, tensor in self._results.items()}
        self._taken = [entry.get_any_name() for entry in compiled.inputs]

    def __enter__(self) -> OpenVinoRuntime:
        return self

    def __exit__(self, *unused: object) -> None:
        self._request = None

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        held = {name: given[name].contiguous().numpy() for name in self._taken}
        for name, array in held.items():
            self._request.set_tensor(name, self._tensor(array, shared_memory=True))
        self._request.infer()
        return self._results


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def check_usable(name: str, device: torch.device, precision: torch.dtype) -> None:
    """Raises BackendMissing where it cannot compute on `device` or in `precision`."""
    if device.type != "cpu":
        raise BackendMissing("The runtime openvino runs on the CPU; give --device cpu, or use torch.")
    if precision not in _PRECISION:
        raise BackendMissing("The runtime openvino computes in float32 or bfloat16; give --dtype.")


def open_file(name: str, file: Path, network: Network, precision: torch.dtype) -> OpenVinoRuntime:
    """Raises CannotOpen for a file that cannot be loaded."""
    return OpenVinoRuntime(file, network, precision)
