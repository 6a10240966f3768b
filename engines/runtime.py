"""What runs a network, by name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import torch
from flowguide.engines.network import FileNetwork, Network, Spec
from torch import Tensor

from flowguide.errors import BackendMissing, ModelError, UnknownName


class CannotOpen(ModelError):
    """An engine file that its own runtime refuses although its hash is right; it is built once more."""


class Runtime(Protocol):
    """A network that is ready to run at one size.

    Tensors go in and out without a copy, on the caller's device and stream; outputs are borrowed until the next call.
    """

    inputs: Mapping[str, Spec]
    outputs: Mapping[str, Spec]

    def __enter__(self) -> Runtime: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None: ...

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Kind:
    """One entry of RUNTIMES."""

    module: str
    """Module of this package; it has `open_network(network, precision)` or `open_file(file, network, precision)`."""
    engine: str | None
    """Suffix of the engine file that it runs; None where it runs the network itself."""
    package: str | None = None
    """What has to be installed."""
    extra: str | None = None
    """The extra of flowguide that installs it."""
    mode: str = ""


RUNTIMES = {
    "torch": Kind("torch_runtime", None, mode="eager"),
    "torch-compiled": Kind("torch_runtime", None, mode="compiled"),
    "torch-graphed": Kind("torch_runtime", None, mode="graphed"),
    "onnx": Kind("onnx_runtime", ".onnx", "onnxruntime", "onnx"),
    "openvino": Kind("openvino_runtime", ".onnx", "openvino", "openvino"),
    "tensorrt": Kind("tensorrt_runtime", ".plan", "tensorrt"),
    "tensorrt-rtx": Kind("tensorrt_runtime", ".plan", "tensorrt_rtx", "tensorrt-rtx"),
}


def kind_of(name: str) -> Kind:
    """Raises UnknownName for a runtime that is not in the table, BackendMissing where its package is not here."""
    if name not in RUNTIMES:
        raise UnknownName("runtime", name, RUNTIMES)
    kind = RUNTIMES[name]
    if kind.package == "openvino":
        # Its import would tell the vendor's server of itself; where this module is absent, it has a stub.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    if kind.package is not None:
        try:
            importlib.import_module(kind.package)
        except Exception as error:
            cure = f"pip install 'flowguide[{kind.extra}]'" if kind.extra else "install NVIDIA TensorRT"
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BackendMissing(f"The runtime {name} needs {kind.package}: {first}. {cure}.") from error
    return kind


def check_usable(name: str, device: torch.device, precision: torch.dtype) -> None:
    """Raises UnknownName, or BackendMissing with the reason why `name` cannot be used here."""
    kind = kind_of(name)
    importlib.import_module(f"flowguide.engines.{kind.module}").check_usable(name, device, precision)


def version_of(name: str) -> str:
    """The version of what the runtime `name` runs on."""
    kind = kind_of(name)
    return str(importlib.import_module(kind.package or "torch").__version__)


def open_runtime(name: str, network: Network, precision: torch.dtype) -> Runtime:
    """`network` under the runtime `name`; its engine is built where there is none that is fresh.

    precision: the arithmetic, for a runtime that can compute in another than the weights have.
    Raises UnknownName, BackendMissing with the reason why it cannot be used here, ModelError where building fails.
    """
    check_usable(name, network.device, precision)
    kind = kind_of(name)
    if kind.engine is None and isinstance(network, FileNetwork):
        raise BackendMissing(
            f"The runtime {name} cannot run an ONNX file; use onnx, openvino, tensorrt or tensorrt-rtx."
        )
    room = importlib.import_module(f"flowguide.engines.{kind.module}")
    opened: Runtime
    if kind.engine is None:
        opened = room.open_network(network, kind.mode)
        return opened
    build = importlib.import_module("flowguide.engines.build")
    if network.device.type == "cpu":
        network = build.in_float32(network)
    file: Path = build.engine_file(network, name)
    try:
        opened = room.open_file(name, file, network, precision)
    except CannotOpen:
        file = build.engine_file(network, name, anew=True)
        opened = room.open_file(name, file, network, precision)
    return opened
