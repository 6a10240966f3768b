"""What only a GPU shows: where kernels are queued, how many are launched, planes beyond 2^31 elements."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowguide import dispatch, ops

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30


def prepared(operation: str, implementation: str) -> str:
    reason = dispatch.missing(operation, implementation)
    if reason is not None:
        pytest.skip(reason)
    return implementation


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["triton", "cuda"])
def test_an_operation_waits_for_what_its_own_stream_does_before(implementation: str) -> None:
    name = prepared("warp", implementation)
    image, flow = torch.zeros(1, 3, 64, 64, device="cuda"), torch.zeros(1, 2, 64, 64, device="cuda")
    out = ops.warp(image, flow, implementation=name)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        image.fill_(1)
        ops.warp(image, flow, out=out, implementation=name)
    stream.synchronize()
    assert torch.equal(out, torch.ones_like(out))


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["triton", "cuda"])
def test_tensors_may_live_on_another_device_than_the_current_one(implementation: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    name = prepared("warp", implementation)
    image, flow = torch.rand(1, 3, 64, 64, device="cuda:1"), torch.zeros(1, 2, 64, 64, device="cuda:1")
    with torch.cuda.device(0):
        assert torch.equal(ops.warp(image, flow, implementation=name), image)
        assert torch.cuda.current_device() == 0


def kernels(call: Any) -> list[str]:
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    call()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    names = [event.name for event in seen.events() if event.device_type == DeviceType.CUDA]
    if not names:
        pytest.skip("the driver lets nothing be profiled")
    return names


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["triton", "cuda"])
def test_warp_confidence_and_pooling_are_one_launch(implementation: str) -> None:
    name = prepared("predict", implementation)
    picture, flow = torch.rand(1, 3, 128, 128, device="cuda"), torch.randn(1, 2, 128, 128, device="cuda")
    out = ops.predict(picture, flow, -flow, picture, picture, implementation=name)
    launched = kernels(lambda: ops.predict(picture, flow, -flow, picture, picture, out=out, implementation=name))
    assert len([kernel for kernel in launched if "predict" in kernel]) == 1
    assert len(launched) == 2  # and the one of -flow


@pytest.mark.gpu
def test_a_guided_step_is_one_launch() -> None:
    name = prepared("guided_step", "triton")
    x = torch.randn(2, 4, 64, 64, device="cuda", dtype=torch.float16)
    weight = torch.rand(2, 64, 64, device="cuda", dtype=torch.float16)
    table = torch.tensor([[1.3, -0.8, 0.6, 0.4, 0.0, 0.0, 1.0, 2.0, 0.0]] * 2, device="cuda")
    out = ops.guided_step(x, x, table, k0=x, weight=weight, implementation=name)
    launched = kernels(lambda: ops.guided_step(x, x, table, k0=x, weight=weight, out=out, implementation=name))
    assert len(launched) == 1


@pytest.mark.gpu
def test_a_step_and_a_prediction_wait_for_nothing() -> None:
    name = prepared("predict", "triton")
    picture, flow = torch.rand(1, 3, 128, 128, device="cuda"), torch.randn(1, 2, 128, 128, device="cuda")
    ops.predict(picture, flow, flow, implementation=name)
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.predict(picture, flow, flow, implementation=name)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_pictures_beyond_two_to_the_31_elements() -> None:
    name = prepared("warp", "triton")
    if torch.cuda.mem_get_info()[0] < 24 * GIB:
        pytest.skip("needs 24 GiB of free GPU memory")
    side = 27_000  # 3 * side * side > 2^31
    image = torch.zeros(1, 3, side, side, dtype=torch.float16, device="cuda")
    image[0, :, -1, -1] = 1
    moved = ops.warp(image, torch.zeros(1, 2, side, side, dtype=torch.float16, device="cuda"), implementation=name)
    assert moved[0, :, -1, -1].tolist() == [1, 1, 1]
    assert moved.sum(dtype=torch.float64).item() == 3


def test_the_check_says_what_it_lacks() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    checked = [sys.executable, "benchmarks/gpu_check.py"]
    done = subprocess.run(checked, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "gpu-check needs" in done.stdout
    wrong = subprocess.run([*checked, "everything"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.stdout.startswith(
        "a step should be one of build, tests, sanitizer, measurements, engine, video, runti"
    )
    assert "got everything" in wrong.stdout


def test_what_the_check_lacks_stops_nothing_but_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specification = importlib.util.spec_from_file_location("gpu_check", ROOT / "benchmarks" / "gpu_check.py")
    assert specification is not None
    assert specification.loader is not None
    check = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(check)
    monkeypatch.setattr(check, "RESULTS", tmp_path)
    monkeypatch.setattr(check, "obstacle", lambda _: None)
    monkeypatch.setattr(check, "absent", lambda name: "the package av" if name == "video" else None)
    monkeypatch.setattr(check, "STEPS", {name: (lambda name=name: check.step(name, ["/absent"])) for name in
                                         ("build", "engine", "video", "runtimes")})  # fmt: skip
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    assert check.main([]) == 1
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["machine"]["cpu"]
    assert content["driver"]
    rows = {row["step"]: row for row in content["rows"]}
    assert set(rows) == {"build", "engine", "video", "runtimes"}
    assert rows["video"]["passed"] is None
    assert rows["video"]["end"] == ["not run, without the package av"]
    assert rows["runtimes"]["passed"] is False
    assert "No such file" in rows["runtimes"]["end"][0]
    assert set(check.NEEDED) == {"build", "tests", "sanitizer", "measurements", "engine", "video", "runtimes"}


def test_kernels_run_on_the_device_of_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: that the call is made under the tensors' device."""
    seen: list[Any] = []

    class Guard:
        def __init__(self, device: torch.device) -> None:
            seen.append(("enter", device))

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            seen.append("exit")

    image = torch.zeros(1, 3, 8, 8, device="meta")
    cuda = torch.device("cuda", 1)

    def function(*arguments: Any) -> None:
        seen.append("call")

    class Elsewhere:
        """A tensor as dispatch sees one."""

        dtype, requires_grad, device = torch.float32, False, cuda

    monkeypatch.setattr(dispatch, "choose", lambda *_: "triton")
    monkeypatch.setattr(dispatch, "find", lambda *_: function)
    monkeypatch.setattr(torch.cuda, "device", Guard)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: image)
    inputs: list[Tensor | None] = [Elsewhere()]  # type: ignore[list-item]
    dispatch.run("warp", "auto", inputs, (), [((1, 3, 8, 8), torch.float32)], None)
    assert seen == [("enter", cuda), "call", "exit"]
