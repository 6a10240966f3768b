"""The TensorRT runtime against a fake of its interface: no card was at hand. Real builds are in test_engines.py."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flowguide.engines.network import Network, Spec
from flowguide.engines.tensorrt_runtime import open_file
from torch import nn

from flowguide.errors import ModelError

SHAPES = {"x": (2, 3), "unused": (1,), "y": (2, 3)}


class Context:
    """Doubles what lies at the address of x into the address of y, when it is run."""

    def __init__(self, works: bool = True):
        self.addresses: dict[str, int] = {}
        self.streams: list[int] = []
        self.works = works

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
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
    (engine_with(None), "does not fit: it needs 3072 MiB of GPU memory.*smaller --size"),
])  # fmt: skip
def test_what_cannot_be_opened_is_one_sentence(
    network: Network, plan: Path, monkeypatch: pytest.MonkeyPatch, engine: Any, says: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(engine))
    with pytest.raises(ModelError, match=says):
        open_file("tensorrt", plan, network, torch.float32)


def test_a_failing_run_is_one_sentence(network: Network, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(engine_with(Context(works=False))))
    runtime = open_file("tensorrt", plan, network, torch.float32)
    with pytest.raises(ModelError, match="use --runtime torch"):
        runtime({"x": torch.zeros(2, 3), "unused": torch.zeros(1)})
