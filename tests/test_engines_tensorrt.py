"""The TensorRT runtime against a fake of its interface: no card was at hand. Real builds are in test_engines.py."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flowguide.engines import tensorrt_runtime
from flowguide.engines.network import Network, Spec
from flowguide.engines.tensorrt_runtime import check_usable, open_file
from torch import nn

from flowguide.errors import BackendMissing, ModelError

SHAPES = {"x": (2, 3), "unused": (1,), "y": (2, 3)}


class Context:
    """Doubles what lies at the address of x into the address of y, when it is run."""

    def __init__(self, works: bool = True):
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.streams: list[int] = []
        self.works = works

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes.get("x", SHAPES[name])

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def execute_async_v3(self, stream: int) -> bool:
        import ctypes

        self.streams.append(stream)
        source, target = ((ctypes.c_float * 6).from_address(self.addresses[name]) for name in ("x", "y"))
        for place in range(6):
            target[place] = 2 * source[place]
        return self.works


def tensorrt(engine: Any) -> SimpleNamespace:
    class Runtime:
        def __init__(self, log: Any):
            pass

        def deserialize_cuda_engine(self, content: bytes) -> Any:
            assert content == b"plan"
            return engine

    class Logger:
        ERROR = 1

        def __init__(self, level: int):
            pass

    return SimpleNamespace(Logger=Logger, Runtime=Runtime, __version__="10.13.2")


def engine_with(context: Context | None) -> SimpleNamespace:
    names = ["x", "y"]  # TensorRT drops an input that nothing depends on
    return SimpleNamespace(
        create_execution_context=lambda: context, num_io_tensors=2, get_tensor_name=lambda place: names[place],
        get_tensor_shape=lambda name: SHAPES[name], device_memory_size_v2=3 << 30,
    )  # fmt: skip


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=77))
    specs = {name: Spec(SHAPES[name], torch.float32) for name in ("x", "unused")}
    return Network("doubled", nn.Linear(1, 1), specs, ("y",))


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    file = tmp_path / "doubled.plan"
    file.write_bytes(b"plan")
    return file


def test_it_runs_on_the_callers_stream_at_fixed_addresses(
    network: Network, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context()
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(engine_with(context)))
    with open_file("tensorrt", plan, network, torch.float32) as runtime:
        before = dict(context.addresses)
        assert set(before) == {"x", "y"}
        for seed in range(2):
            x = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed))
            made = runtime({"x": x, "unused": torch.zeros(1)})["y"]
            assert torch.equal(made, 2 * x)
            assert made.data_ptr() == before["y"]
        assert context.addresses == before
        assert context.streams == [77, 77]
        assert runtime.outputs["y"].shape == (2, 3)


@pytest.mark.parametrize(("engine", "says"), [
    (None, r"tensorrt 10\.13\.2 cannot open doubled\.plan on this card and driver"),
    (engine_with(None), r"does not fit: it needs 3072 MiB .*\(0 MiB\), and .* --dtype float16 halves it, .* most 97%"),
])  # fmt: skip
def test_what_cannot_be_opened_is_one_sentence(
    network: Network, plan: Path, monkeypatch: pytest.MonkeyPatch, engine: Any, says: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(engine))
    with pytest.raises(ModelError, match=says):
        open_file("tensorrt", plan, network, torch.float32)


def test_an_engine_that_does_not_fit_says_what_would(
    network: Network, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(engine_with(Context())))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (768 << 20, 8 << 30))
    with pytest.raises(
        ModelError, match=r"needs 3072 MiB .* and 768 MiB are free.* --size of at most 50% of this one's"
    ):
        open_file("tensorrt", plan, network, torch.float32)


def test_an_engine_for_a_range_is_told_the_size(network: Network, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context()
    engine = engine_with(context)
    engine.get_tensor_shape = lambda name: (-1, 3)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(engine))
    with open_file("tensorrt", plan, network, torch.float32) as runtime:
        assert context.shapes == {"x": (2, 3)}
        assert runtime.outputs["y"].shape == (2, 3)
        x = torch.randn(2, 3)
        assert torch.equal(runtime({"x": x, "unused": torch.zeros(1)})["y"], 2 * x)


@pytest.mark.parametrize(("driver", "refused"), [(12, True), (13, False), (0, False)])
def test_a_driver_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch, driver: int, refused: bool) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.0"))
    monkeypatch.setattr(tensorrt_runtime, "driver_cuda", lambda: driver)
    packages = [SimpleNamespace(metadata={"Name": name}) for name in ("tensorrt_cu13", "numpy", "tensorrt-cu12")]
    monkeypatch.setattr("importlib.metadata.distributions", lambda: packages)
    card = torch.device("cuda")
    if refused:
        with pytest.raises(
            BackendMissing, match=r"11\.0 needs a driver for CUDA 13, and this one is for CUDA 12: update"
        ):
            check_usable("tensorrt", card, torch.float16)
    else:
        check_usable("tensorrt", card, torch.float16)


def test_a_failing_run_is_one_sentence(network: Network, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(engine_with(Context(works=False))))
    runtime = open_file("tensorrt", plan, network, torch.float32)
    with pytest.raises(ModelError, match="use --runtime torch"):
        runtime({"x": torch.zeros(2, 3), "unused": torch.zeros(1)})
