"""A network as an ONNX file."""

from __future__ import annotations

import copy
import inspect
import io
import logging
import re
import shutil
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from flowguide.engines.key import OPSET
from flowguide.engines.network import FileNetwork, Network

from flowguide.errors import BackendMissing, ModelError

_ONE_AT_A_TIME = Lock()
"""The exporter's output is caught for the whole process, and its speed is bound by one thread."""
LARGE_BYTES = 1 << 30
"""Weights from which they go into a file of their own; protobuf ends at 2 GiB."""


def export_onnx(network: Network, file: Path) -> list[Path]:
    """Write `network` at its sizes; returns the files. Raises BackendMissing, or ModelError that names the operator."""
    if isinstance(network, FileNetwork):
        shutil.copyfile(network.file, file)
        return [file]
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BackendMissing("An export needs onnxscript: pip install 'flowguide[onnx]'.") from error
    with _ONE_AT_A_TIME:
        return _exported(network, file)


def _exported(network: Network, file: Path) -> list[Path]:
    large = network.weight_bytes() > LARGE_BYTES
    module: Any = copy.deepcopy(network.module).eval()
    module.to(memory_format=torch.contiguous_format)
    said = io.StringIO()
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, network.example(), str(file), input_names=list(network.inputs),
                output_names=list(network.outputs), opset_version=OPSET, dynamo=True, external_data=large,
                verbose=False, dynamic_shapes=_varying(network),
            )  # fmt: skip
    except OSError:
        raise
    except Exception as error:
        raise ModelError(f"The network {network.name} cannot be written as ONNX: {_reason(error)}") from error
    finally:
        quiet.setLevel(level)
    data = file.with_name(file.name + ".data")
    return [file, data] if data.is_file() else [file]


def _varying(network: Network) -> Any:
    """For each input the dimensions that the exporter shall leave open, nested as the module takes its arguments."""
    if not any(spec.varying for spec in network.inputs.values()):
        return None
    open_ones = tuple(
        {place: torch.export.Dim.AUTO for place in spec.varying} or None for spec in network.inputs.values()
    )
    arguments = inspect.signature(network.module.forward).parameters.values()
    together = any(argument.kind is inspect.Parameter.VAR_POSITIONAL for argument in arguments)
    return (open_ones,) if together else open_ones


def _reason(error: BaseException) -> str:
    """The operator and its node where the exporter names them, else the last thing that it says."""
    texts, cause = [], error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__ if cause.__cause__ is not None else None  # type: ignore[assignment]
    whole = "\n".join(texts)
    operator = re.search(
        r"(?:No ONNX function found for|Unsupported (?:FX nodes|operator)[^<\w]*)\s*([^\n.]+\S*)", whole
    )
    node = re.search(r"(%\S+ : [^\n]*?call_function\[target=[^\n]{0,120})", whole)
    if operator:
        return f"unsupported operator {operator.group(1).strip()}" + (f", node {node.group(1)}" if node else "")
    lines = [line for line in texts[-1].splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
