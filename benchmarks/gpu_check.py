"""On a machine with an NVIDIA GPU: build the CUDA code, run every test that wants a GPU, measure.

    python benchmarks/gpu_check.py                  all steps
    python benchmarks/gpu_check.py build tests      some of them: build, tests, sanitizer, measurements

Needs nvcc, CMake, and of Python packages torch with CUDA, triton, numpy, setuptools, pybind11, pytest and hypothesis,
all as they are: nothing is downloaded, and nothing is installed outside build/gpu-check. Writes
benchmarks/results/gpu.json: the machine, each step with its verdict (compute-sanitizer's where it is installed), and
the measurements. The exit code is 0 if every step passed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MEASUREMENTS = RESULTS / "ops-cuda.json"
INSTALLED = ROOT / "build" / "gpu-check"
NEEDED = ("torch", "triton", "numpy", "setuptools", "pybind11", "pytest", "hypothesis")
STEPS = ("build", "tests", "sanitizer", "measurements")
TESTS = ["tests/test_ops.py", "tests/test_ops_arguments.py", "tests/test_ops_gpu.py", "tests/test_reference.py"]
PYTEST = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"]  # -P: the package, not this folder


def environment() -> dict[str, str]:
    """With what `build` installed before everything, CUDA's usual folder, and no interpreter for Triton."""
    path = [os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin", str(Path(sys.executable).parent)]
    settings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return settings | {"PATH": os.pathsep.join(path), "PYTHONPATH": str(INSTALLED)}


def step(name: str, command: list[str | Path], **settings: str) -> dict[str, Any]:
    """Runs a command; its row says whether it passed, how long it took and how it ended."""
    print(f"== {name}", flush=True)
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment() | settings, capture_output=True, text=True)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    print("\n".join(lines[-40:] if done.returncode else lines[-3:]), flush=True)
    return {
        **{"step": name, "passed": done.returncode == 0, "seconds": time.perf_counter() - began},
        "end": lines[-3:],
    }


def build() -> dict[str, Any]:
    import torch

    major, minor = torch.cuda.get_device_capability()
    settings = {"FG_CUDA": "ON", "FG_CUDA_ARCHS": f"{major}{minor}-real", "FLOWGUIDE_BUILD": "required"}
    shutil.rmtree(INSTALLED, ignore_errors=True)
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", INSTALLED]
    return step("build", [sys.executable, "-m", "pip", "install", "--quiet", *offline, ROOT], **settings)


def tests() -> dict[str, Any]:
    return step("tests", [*PYTEST, *TESTS], FLOWGUIDE_REQUIRE="cpu,triton,cuda")


def sanitizer() -> dict[str, Any]:
    """Every allocation by itself, else the sanitizer sees torch's large ones alone."""
    tool = shutil.which("compute-sanitizer", path=environment()["PATH"])
    if tool is None:
        return {"step": "sanitizer", "passed": True, "end": ["not run: compute-sanitizer is not installed"]}
    chosen = "as_good_as_the_reference and float32 and (cuda or triton)"
    checked = [tool, "--error-exitcode", "9", "--target-processes", "all", *PYTEST, "tests/test_ops.py", "-k", chosen]
    return step("sanitizer", checked, PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def measurements() -> dict[str, Any]:
    command = [sys.executable, "benchmarks/ops.py", "--device", "cuda", "--seconds", "1", "--out", MEASUREMENTS]
    MEASUREMENTS.unlink(missing_ok=True)
    row = step("measurements", command)
    if row["passed"]:
        row["measured"] = json.loads(MEASUREMENTS.read_text(encoding="utf-8"))
        MEASUREMENTS.unlink()
    return row


def obstacle(chosen: list[str]) -> str | None:
    """Why the check cannot run here."""
    if unknown := [name for name in chosen if name not in STEPS]:
        return f"a step should be one of {', '.join(STEPS)}, got {', '.join(unknown)}."
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        return f"gpu-check needs these Python packages as well: {', '.join(missing)}."
    import torch

    if not torch.cuda.is_available():
        return "gpu-check needs an NVIDIA GPU and a torch with CUDA; torch finds no CUDA device here."
    return None


def main(chosen: list[str]) -> int:
    why_not = obstacle(chosen)
    if why_not is not None:
        print(why_not)
        return 1
    steps = {"build": build, "tests": tests, "sanitizer": sanitizer, "measurements": measurements}
    rows = [steps[name]() for name in STEPS if name in (chosen or STEPS)]
    sys.path.insert(0, str(INSTALLED))  # what `build` left there
    from results import write_result

    write_result(RESULTS / "gpu.json", rows)
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
