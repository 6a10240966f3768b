"""ONNX Runtime, on the CPU or a CUDA device, with inputs and outputs at torch's own addresses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from flowguide.engines.network import Network, Spec
from flowguide.engines.runtime import CannotOpen
from torch import Tensor

from flowguide.errors import BackendMissing

_ELEMENTS = {torch.float32: 1, torch.int64: 7, torch.float16: 10, torch.float64: 11, torch.bfloat16: 16}
"""dtype -> number in ONNX's TensorProto."""


class OnnxRuntime:
    """An ONNX file at the sizes of its network."""

    def __init__(self, file: Path, network: Network):
        import onnxruntime

        device = network.device
        self._device_name, self._device_id = device.type, device.index or 0
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(str(file), options, providers=_providers(device))
        except Exception as error:
            raise CannotOpen(f"ONNX Runtime cannot load {file.name}: {str(error).splitlines()[0]}") from error
        self.inputs = network.inputs
        self._taken = [entry.name for entry in self._session.get_inputs()]
        made = self._shapes()
        self._results = {name: torch.empty(made[name], dtype=network.dtype, device=device) for name in network.outputs}
        self.outputs = {name: Spec.of(tensor) for name, tensor in self._results.items()}

    def _shapes(self) -> dict[str, Any]:
        """The shape of every output; of a file that leaves them open, what a run on zeros gives."""
        outputs = self._session.get_outputs()
        if all(isinstance(side, int) for output in outputs for side in output.shape):
            return {output.name: output.shape for output in outputs}
        zeros = {name: torch.zeros(self.inputs[name].shape, dtype=self.inputs[name].dtype) for name in self._taken}
        made = self._session.run(None, {name: value.numpy() for name, value in zeros.items()})
        return {output.name: value.shape for output, value in zip(outputs, made, strict=True)}

    def __enter__(self) -> OnnxRuntime:
        return self

    def __exit__(self, *unused: object) -> None:
        self._session = None

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        binding = self._session.io_binding()
        held = {name: given[name].contiguous() for name in self._taken}
        for name, tensor in held.items():
            binding.bind_input(name, *self._place(tensor))
        for name, tensor in self._results.items():
            binding.bind_output(name, *self._place(tensor))
        self._session.run_with_iobinding(binding)
        return self._results

    def _place(self, tensor: Tensor) -> tuple[Any, ...]:
        element = _ELEMENTS[tensor.dtype]
        return self._device_name, self._device_id, element, list(tensor.shape), tensor.data_ptr()


def _providers(device: torch.device) -> list[Any]:
    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    stream = str(torch.cuda.current_stream(device).cuda_stream)
    return [("CUDAExecutionProvider", {"device_id": device.index or 0, "user_compute_stream": stream})]


def check_usable(name: str, device: torch.device, precision: torch.dtype) -> None:
    """Raises BackendMissing where it cannot compute on `device` or in `precision`."""
    import onnxruntime

    if device.type == "cpu" and precision != torch.float32:
        raise BackendMissing(
            "The runtime onnx computes in float32 on a CPU; give --dtype float32, or --runtime openvino for bfloat16."
        )
    if device.type == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise BackendMissing("This ONNX Runtime has no CUDA provider; pip install onnxruntime-gpu, or use torch.")


def open_file(name: str, file: Path, network: Network, precision: torch.dtype) -> OnnxRuntime:
    """Raises CannotOpen for a file that cannot be loaded."""
    return OnnxRuntime(file, network)
