"""On a machine with an NVIDIA GPU: build the CUDA code, run every test that wants a GPU, measure everything.

    python benchmarks/gpu_check.py                  all steps
    python benchmarks/gpu_check.py build tests      some of them

| step | what it does |
|---|---|
| build | the native module with CUDA, for this card, into build/gpu-check |
| tests | operations against their reference: C++, Triton, CUDA |
| sanitizer | a part of them under compute-sanitizer |
| measurements | operations against peers and against a copy |
| engine | the tests of the painting itself that want a GPU: graphs, memory, host synchronisation |
| video | NVDEC and NVENC against the CPU |
| runtimes | flowguide under every runtime (graphs, ONNX, TensorRT, TensorRT-RTX) and its peers, from file to file |

What is missing (a package, a tool, a driver) is recorded with its reason and stops nothing but its own step. Nothing is
downloaded, and nothing is installed outside build/gpu-check. Writes benchmarks/results/gpu.json: machine, driver, each
step with its verdict and its numbers. The exit code is 0 if no step that could run failed.
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
INSTALLED = ROOT / "build" / "gpu-check"
NEEDED = {
    "build": ("setuptools", "pybind11"),
    "tests": ("pytest", "hypothesis", "triton"),
    "sanitizer": ("pytest", "hypothesis", "triton"),
    "measurements": ("triton",),
    "engine": ("pytest", "hypothesis", "diffusers", "transformers", "av", "cv2"),
    "video": ("av", "cv2", "pydantic"),
    "runtimes": ("diffusers", "transformers", "av", "cv2", "cyclopts"),
}
"""Step -> packages that it does not run without, beside torch and numpy."""
TOOLS = {"build": ("nvcc", "cmake"), "sanitizer": ("compute-sanitizer",)}
RUNTIMES = ("torch", "torch-compiled", "torch-graphed", "onnx", "tensorrt", "tensorrt-rtx")
TESTS = ["tests/test_ops.py", "tests/test_ops_arguments.py", "tests/test_ops_gpu.py", "tests/test_reference.py"]
PYTEST = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"]  # -P: the package, not this folder
LONGEST_SECONDS = 3600


def environment() -> dict[str, str]:
    """With what `build` installed before everything, CUDA's usual folder, and no interpreter for Triton."""
    path = [os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin", str(Path(sys.executable).parent)]
    settings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return settings | {"PATH": os.pathsep.join(path), "PYTHONPATH": str(INSTALLED)}


def step(name: str, command: list[str | Path], **settings: str) -> dict[str, Any]:
    """Runs a command; its row says whether it passed, how long it took and how it ended."""
    print(f"== {name}", flush=True)
    began = time.perf_counter()
    asked = dict(cwd=ROOT, env=environment() | settings, capture_output=True, text=True, timeout=LONGEST_SECONDS)
    try:
        done = subprocess.run(command, **asked)  # type: ignore[call-overload]
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"step": name, "passed": False, "seconds": time.perf_counter() - began, "end": [str(error)]}
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
    chosen = "as_good_as_the_reference and float32 and (cuda or triton)"
    checked = ["compute-sanitizer", "--error-exitcode", "9", "--target-processes", "all", *PYTEST]
    return step("sanitizer", [*checked, "tests/test_ops.py", "-k", chosen], PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def measured(name: str, command: list[str | Path], file: Path) -> dict[str, Any]:
    """A step whose command leaves its numbers in `file`, which become part of the row."""
    file.unlink(missing_ok=True)
    row = step(name, command)
    if file.is_file():
        row["measured"] = json.loads(file.read_text(encoding="utf-8"))
        file.unlink()
    return row


def measurements() -> dict[str, Any]:
    file = RESULTS / "ops-cuda.json"
    command = [sys.executable, "benchmarks/ops.py", "--device", "cuda", "--seconds", "1", "--out", file]
    return measured("measurements", command, file)


def engine() -> dict[str, Any]:
    return step("engine", [*PYTEST, "-m", "gpu", "tests", *(f"--ignore={name}" for name in TESTS)])


def video() -> dict[str, Any]:
    file = RESULTS / "card-video.json"
    return measured("video", [sys.executable, "benchmarks/card_video.py", "--out", file], file)


def runtimes() -> dict[str, Any]:
    file = RESULTS / "bench-cuda.json"
    command = [sys.executable, "-m", "flowguide", "bench", "--device", "cuda", "--size", "512x512"]
    return measured("runtimes", [*command, "--runtimes", *RUNTIMES, "--output", file], file)


STEPS = {row.__name__: row for row in (build, tests, sanitizer, measurements, engine, video, runtimes)}


def obstacle(chosen: list[str]) -> str | None:
    """Why nothing can be checked here."""
    if unknown := [name for name in chosen if name not in STEPS]:
        return f"a step should be one of {', '.join(STEPS)}, got {', '.join(unknown)}."
    if missing := [name for name in ("torch", "numpy") if importlib.util.find_spec(name) is None]:
        return f"gpu-check needs these Python packages as well: {', '.join(missing)}."
    import torch

    if not torch.cuda.is_available():
        return "gpu-check needs an NVIDIA GPU and a torch with CUDA; torch finds no CUDA device here."
    return None


def absent(name: str) -> str | None:
    """What the step `name` lacks."""
    packages = [package for package in NEEDED[name] if importlib.util.find_spec(package) is None]
    tools = [tool for tool in TOOLS.get(name, ()) if shutil.which(tool, path=environment()["PATH"]) is None]
    return ", ".join([*(f"the package {package}" for package in packages), *tools]) or None


def driver() -> str:
    """Card, driver and power limit, as nvidia-smi tells them."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm", "--format=csv"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not told ({error})"


def main(chosen: list[str]) -> int:
    why_not = obstacle(chosen)
    if why_not is not None:
        print(why_not)
        return 1
    rows: list[dict[str, Any]] = []
    for name in [name for name in STEPS if name in (chosen or STEPS)]:
        lacks = absent(name)
        rows.append(
            STEPS[name]() if lacks is None else {"step": name, "passed": None, "end": [f"not run, without {lacks}"]}
        )
        if lacks is not None:
            print(f"== {name}: not run, without {lacks}", flush=True)
    sys.path.insert(0, str(INSTALLED))  # what `build` left there
    sys.path.append(str(ROOT))
    from results import write_result

    write_result(RESULTS / "gpu.json", rows, driver=driver())
    print("Please send benchmarks/results/gpu.json with an issue: it is what this project knows of your card.")
    return 0 if all(row["passed"] in (True, None) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
