"""ONNX to a TensorRT engine: `python -m flowguide.engines.tensorrt_build LIBRARY ONNX PLAN PROFILES [8.6 8.9 …]`.

Every engine is built in a process of its own: a build that fails leaves the library unable to build the next one.
One source for TensorRT 10 and 11 and for TensorRT-RTX, which can build for cards that are not here.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowguide.errors import ModelError

if TYPE_CHECKING:
    from flowguide.engines.network import Network

Profiles = Mapping[str, Sequence[Sequence[int]]]
"""Input -> its least, best and most shape."""


def profiles_of(network: Network) -> Profiles:
    """Of every input; one size is a range of one."""
    return {
        name: [list(spec.least or spec.shape), list(spec.shape), list(spec.most or spec.shape)]
        for name, spec in network.inputs.items()
    }


def build_in_own_process(
    library: str, onnx: Path, plan: Path, capabilities: Sequence[str] = (), profiles: Profiles | None = None
) -> None:
    """Raises ModelError with what the builder said: the operator and the node, or the version that is too old."""
    told = json.dumps(profiles or {})
    command = [
        sys.executable, "-m", "flowguide.engines.tensorrt_build", library, str(onnx), str(plan), told, *capabilities
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not plan.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise ModelError(f"{library} cannot build {onnx.stem}: {said[-1] if said else f'exit {done.returncode}'}")


def build(library: str, onnx: Path, plan: Path, capabilities: Sequence[str], profiles: Profiles) -> None:
    """Raises RuntimeError that names the operator and the node."""
    trt = importlib.import_module(library)
    log = _log(trt)
    builder = trt.Builder(log)
    strongly = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # the only kind in 11 and in RTX
    network = builder.create_network(0 if strongly is None else 1 << int(strongly))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        raise RuntimeError("; ".join(_parse_error(parser.get_error(i)) for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    if capabilities and hasattr(config, "num_compute_capabilities"):
        config.num_compute_capabilities = len(capabilities)
        for place, name in enumerate(capabilities):
            config.set_compute_capability(_capability(trt, name), place)
    _add_profile(builder, network, config, profiles)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise RuntimeError(log.last or "the builder gave no engine and no reason")
    plan.write_bytes(bytes(serialized))


def _add_profile(builder: Any, network: Any, config: Any, profiles: Profiles) -> None:
    """Ranges of the inputs that the ONNX file leaves open."""
    inputs = [network.get_input(place) for place in range(network.num_inputs)]
    varying = [entry for entry in inputs if -1 in tuple(entry.shape)]
    if not varying:
        return
    profile = builder.create_optimization_profile()
    for entry in varying:
        if entry.name not in profiles:
            raise RuntimeError(f"the input {entry.name} has no fixed size, and none was given")
        profile.set_shape(entry.name, *(tuple(shape) for shape in profiles[entry.name]))
    config.add_optimization_profile(profile)


def _capability(trt: Any, name: str) -> Any:
    member = "SM" + name.replace(".", "")
    if not hasattr(trt.ComputeCapability, member):
        numbers = sorted(int(entry[2:]) for entry in dir(trt.ComputeCapability) if entry.startswith("SM"))
        known = ", ".join(f"{number // 10}.{number % 10}" for number in numbers)
        raise RuntimeError(f"it builds for {known}, not for {name}")
    return getattr(trt.ComputeCapability, member)


def _parse_error(error: Any) -> str:
    node = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    return f"operator {operator or 'unknown'}, node {node or error.node()}: {error.desc()}"


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps the last error."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.last = message.splitlines()[0]

    return Log()


def main(arguments: Sequence[str]) -> int:
    library, onnx, plan, profiles, *capabilities = arguments
    try:
        build(library, Path(onnx), Path(plan), capabilities, json.loads(profiles))
    except Exception as error:
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
