"""On a machine with an NVIDIA GPU: build the CUDA code, run every test of the operations on the device, measure.

    python benchmarks/gpu_check.py

Writes benchmarks/results/gpu.json: the build, the tests, compute-sanitizer's verdict where it is installed, and where
the measurements are (benchmarks/results/ops-cuda.json). Uses no network. The exit code is 0 if all of it passed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from results import write_result

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
TESTS = ["tests/test_ops.py", "tests/test_ops_arguments.py", "tests/test_reference.py"]


def step(name: str, command: list[str | Path], **environment: str) -> dict[str, Any]:
    """Runs a command; its row says whether it passed, how long it took and how it ended."""
    print(f"== {name}", flush=True)
    began = time.perf_counter()
    settings = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    print("\n".join(lines[-25:] if done.returncode else lines[-3:]), flush=True)
    seconds = time.perf_counter() - began
    return {"step": name, "passed": done.returncode == 0, "seconds": seconds, "end": lines[-3:]}


def main() -> int:
    if not torch.cuda.is_available():
        print("gpu-check needs an NVIDIA GPU and a torch with CUDA; torch finds no CUDA device here.")
        return 1
    major, minor = torch.cuda.get_device_capability()
    built_for = {"FG_CUDA": "ON", "FG_CUDA_ARCHS": f"{major}{minor}-real", "FLOWGUIDE_BUILD": "required"}
    pytest = shutil.which("pytest", path=str(Path(sys.executable).parent)) or "pytest"
    rows = [
        step("build", [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], **built_for),
        step("tests", [pytest, "-q", *TESTS], FLOWGUIDE_REQUIRE="cpu,triton,cuda"),
    ]
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer:
        checked = [sanitizer, "--error-exitcode", "9", pytest, "-q", "tests/test_ops.py", "-k", "cuda and float32"]
        rows.append(step("compute-sanitizer", checked))
    rows.append(step("measurements", [sys.executable, "benchmarks/ops.py", "--device", "cuda", "--seconds", "2"]))
    write_result(RESULTS / "gpu.json", rows, measurements="ops-cuda.json", sanitizer=bool(sanitizer))
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
