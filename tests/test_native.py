"""The compiled module: instruction sets, threads, bad memory, and an installation without a compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from allocations import allocations, counts_allocations

from flowguide import dispatch, ops

ROOT = Path(__file__).resolve().parent.parent
native = pytest.mark.skipif(dispatch.missing("warp", "cpu") is not None, reason="flowguide._C is not here")


@native
def test_the_environment_forces_an_instruction_set() -> None:
    report = "import flowguide._C as c; print(c.isa())"
    command = [sys.executable, "-c", report]
    forced = subprocess.run(command, env=os.environ | {"FLOWGUIDE_ISA": "base"}, capture_output=True, text=True)
    assert forced.stdout.strip() == "base"
    wrong = subprocess.run(command, env=os.environ | {"FLOWGUIDE_ISA": "mmx"}, capture_output=True, text=True)
    assert "FLOWGUIDE_ISA should be avx512, avx2 or base" in wrong.stderr


@native
def test_threads_change_no_bit_and_several_callers_may_work_at_once() -> None:
    image, flow = torch.rand(2, 3, 120, 200), torch.randn(2, 2, 120, 200) * 5
    torch.set_num_threads(1)
    alone = ops.predict(image, flow, -flow, implementation="cpu")
    torch.set_num_threads(3)
    results: list[ops.Prediction] = []

    def work() -> None:
        for _ in range(10):
            results.append(ops.predict(image, flow, -flow, implementation="cpu"))

    callers = [threading.Thread(target=work) for _ in range(3)]
    try:
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        torch.set_num_threads(1)
    assert len(results) == 30
    assert all(torch.equal(a, b) for made in results for a, b in zip(alone, made, strict=True))


@native
def test_a_forked_child_works_too() -> None:
    program = """
import os, torch
from flowguide import ops
torch.set_num_threads(2)
image, flow = torch.rand(1, 3, 64, 64), torch.zeros(1, 2, 64, 64)
ops.warp(image, flow, implementation="cpu")
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(ops.warp(image, flow, implementation="cpu"), image) else 1)
print(os.waitpid(child, 0)[1])
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "0"


STEADY = """
import ops as benchmark
from flowguide import ops

for case, arguments in benchmark.cases(128, 192, 1, "cpu", torch.float32).items():
    operation = getattr(ops, arguments.pop("name"))
    out = operation(**arguments, implementation="cpu")
    count(f"{operation.__name__}: {case}", lambda: operation(**arguments, out=out, implementation="cpu"))
"""


@native
@counts_allocations
def test_no_operation_allocates_in_steady_state(tmp_path: Path) -> None:
    counted = allocations(STEADY, tmp_path, PYTHONPATH=str(ROOT / "benchmarks"))
    assert {name.split(":")[0] for name in counted} == set(ops.OPERATIONS)
    assert {name: number for name, number in counted.items() if number} == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_sanitizers_find_nothing() -> None:
    done = subprocess.run([sys.executable, "tests/sanitize.py", "--quick"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 100


@pytest.mark.parametrize("lacking", ["cmake", "c++"])
def test_without_a_compiler_the_build_warns_and_goes_on(lacking: str, tmp_path: Path) -> None:
    folders = ["--build-lib", tmp_path, "--build-temp", tmp_path / "build"]
    settings = os.environ | {"CXX": str(tmp_path / "no-compiler"), "FG_CUDA": "OFF"}
    if lacking == "cmake":  # nor beside this Python, where setup.py looks first
        settings["PATH"] = str(tmp_path)
        (tmp_path / "python").symlink_to(sys.executable)
        settings["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
    python = tmp_path / "python" if lacking == "cmake" else sys.executable
    command = [python, "setup.py", "-q", "build_ext", *folders]
    built = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert built.returncode == 0
    assert "WARNING: flowguide._C was not built" in built.stderr
    assert "flowguide works without it, slower on the CPU" in built.stderr
    assert not list(tmp_path.glob("flowguide/_C*"))
    required = subprocess.run(
        command, cwd=ROOT, env=settings | {"FLOWGUIDE_BUILD": "required"}, capture_output=True, text=True
    )
    assert required.returncode != 0


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no CUDA compiler")
@pytest.mark.parametrize("source", sorted(path.name for path in (ROOT / "csrc").glob("*.cu")))
def test_cuda_code_compiles_without_a_warning_or_a_spill(source: str, tmp_path: Path) -> None:
    flags = ["-O3", "-std=c++17", "-DFG_ISA=cuda_code", "--Werror=all-warnings", "-Xptxas=-v", "-cubin", "-arch=sm_75"]
    command = ["nvcc", *flags, ROOT / "csrc" / source, "-o", tmp_path / "code.cubin"]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill", compiled.stderr)
    assert frames
    assert all(frame == ("0", "0") for frame in frames)
