"""Networks to files to runtimes: every runtime gives what the network gives; no engine is trusted that is not fresh."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from flowguide.engines import build, export, store, tensorrt_build
from flowguide.engines.key import EngineKey, key_of
from flowguide.engines.network import Network, Spec, ranged
from flowguide.engines.runtime import RUNTIMES, Kind, check_usable, kind_of, open_runtime
from torch import nn

from flowguide.errors import BackendMissing, ModelError, UnknownName

CPU = torch.device("cpu")


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


needs_onnx = pytest.mark.skipif(
    not (has("onnxscript") and has("onnxruntime")), reason="the extra onnx is not installed"
)
needs_rtx = pytest.mark.skipif(not has("tensorrt_rtx"), reason="the extra tensorrt-rtx is not installed")
ON_THE_CPU = [
    "torch", "torch-compiled", pytest.param("onnx", marks=needs_onnx),
    pytest.param("openvino", marks=pytest.mark.skipif(not has("openvino"), reason="the extra openvino is missing")),
]  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWGUIDE_HOME", str(tmp_path))
    return tmp_path / "engines"


class Pair(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.linear = nn.Linear(4, 8)

    def forward(self, picture: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        told = self.linear((timestep / 1000)[:, None].expand(-1, 4))[:, :, None, None]
        h = torch.nn.functional.silu(self.conv(picture)) + told
        return h, h.mean((2, 3))


def network(rows: int = 1) -> Network:
    torch.manual_seed(2)
    inputs = {"picture": Spec((rows, 3, 10, 12), torch.float32), "timestep": Spec((rows,), torch.float32)}
    return Network("pair", Pair().eval(), inputs, ("hidden", "mean"))


def written(what: str, file: Path) -> list[Path]:
    """An export that costs nothing."""
    file.write_text(what)
    return [file]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Builds that only write a file; the names of what was built."""
    built: list[str] = []

    def exported(network: Network, file: Path) -> list[Path]:
        built.append(file.stem)
        return written("engine", file)

    monkeypatch.setattr(build, "export_onnx", exported)
    return built


@pytest.mark.parametrize("name", ON_THE_CPU)
def test_a_runtime_gives_what_the_network_gives(name: str) -> None:
    if name == "torch-compiled" and not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    taken = network()
    with torch.inference_mode(), open_runtime(name, taken, torch.float32) as runtime:
        assert dict(runtime.inputs) == dict(taken.inputs)
        assert {key: spec.shape for key, spec in runtime.outputs.items()} == {"hidden": (1, 8, 10, 12), "mean": (1, 8)}
        for seed in range(2):
            torch.manual_seed(seed)
            given = {"picture": torch.randn(1, 3, 10, 12), "timestep": torch.tensor([400.0])}
            for key, made in runtime(given).items():
                torch.testing.assert_close(made, taken.call(given)[key], rtol=1e-4, atol=1e-5)


@needs_onnx
def test_results_stay_at_their_address_and_channels_last_is_taken() -> None:
    taken = network()
    runtime = open_runtime("onnx", taken, torch.float32)
    picture = torch.randn(1, 3, 10, 12).contiguous(memory_format=torch.channels_last)
    given = {"picture": picture, "timestep": torch.tensor([1.0])}
    first = runtime(given)["hidden"].data_ptr()
    assert runtime(given)["hidden"].data_ptr() == first
    with torch.inference_mode():
        torch.testing.assert_close(runtime(given)["hidden"], taken.call(given)["hidden"], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_used_here_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'openvino'"):
        kind_of("openvin")
    with pytest.raises(BackendMissing, match="needs an NVIDIA GPU; use torch"):
        check_usable("torch-graphed", CPU, torch.float32)
    monkeypatch.setitem(RUNTIMES, "absent", Kind("onnx_runtime", ".onnx", "no_such_package", "onnx"))
    with pytest.raises(BackendMissing, match=r"pip install 'flowguide\[onnx\]'"):
        check_usable("absent", CPU, torch.float32)
    if has("onnxruntime"):
        with pytest.raises(BackendMissing, match="--runtime openvino for bfloat16"):
            check_usable("onnx", CPU, torch.bfloat16)
    if has("tensorrt_rtx"):
        with pytest.raises(BackendMissing, match="needs an NVIDIA GPU and its driver"):
            check_usable("tensorrt-rtx", CPU, torch.float16)


def test_an_old_tensorrt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.6.1"))
    with pytest.raises(BackendMissing, match=r"needs TensorRT 10 or later, got 8\.6\.1"):
        check_usable("tensorrt", torch.device("cuda"), torch.float16)


@needs_onnx
def test_a_fresh_engine_is_taken_and_its_key_can_be_read(quick: list[str]) -> None:
    first = build.engine_file(network(), "onnx")
    assert build.engine_file(network(), "onnx") == first
    assert len(quick) == 1
    note = json.loads(store.note_path(first).read_text())
    assert EngineKey.from_dict(note["key"]) == key_of(network(), "onnx")
    assert note["key"]["inputs"]["picture"] == [[1, 3, 10, 12], "float32"]
    assert len(note["files"][first.name]) == 64
    other_size, other_weights = network(rows=2), network()
    other_weights.module.conv.weight.data[0] += 1  # type: ignore[union-attr, operator]
    assert len({first, build.engine_file(other_size, "onnx"), build.engine_file(other_weights, "onnx")}) == 3


@needs_onnx
@pytest.mark.parametrize("harm", ["version", "damage", "no note", "torn note", "another's note"])
def test_what_is_stale_is_built_anew(quick: list[str], harm: str) -> None:
    file = build.engine_file(network(), "onnx")
    note = store.note_path(file)
    content = json.loads(note.read_text())
    if harm == "version":
        content["key"]["runtime_version"] = "0.1"
        note.write_text(json.dumps(content))
    elif harm == "damage":
        file.write_text("engino")
    elif harm == "no note":
        note.unlink()
    elif harm == "torn note":
        note.write_text(note.read_text()[:40])
    else:
        content["key"]["weights"] = "0" * 32
        note.write_text(json.dumps(content))
    why = store.why_stale(file, key_of(network(), "onnx"))
    says = {"version": "runtime_version: 0.1, now", "damage": "damaged", "another's note": "weights"}
    assert why is not None
    assert says.get(harm, "no readable key") in why
    assert build.engine_file(network(), "onnx") == file
    assert len(quick) == 2
    assert store.why_stale(file, key_of(network(), "onnx")) is None


@needs_onnx
def test_stale_engines_are_pruned_and_fresh_ones_stay(quick: list[str], home: Path) -> None:
    kept, stale = build.engine_file(network(), "onnx"), build.engine_file(network(rows=2), "onnx")
    stale.write_text("torn")
    gone, size = store.prune()
    assert gone == [stale.name]
    assert size > 0
    assert store.engines() == [kept]
    assert store.prune(everything=True)[0] == [kept.name]
    assert list(home.iterdir()) == []


@needs_onnx
def test_two_that_want_the_same_engine_build_it_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    built = []

    def slow(network: Network, file: Path) -> list[Path]:
        built.append(file.stem)
        time.sleep(0.4)
        return written("engine", file)

    monkeypatch.setattr(build, "export_onnx", slow)
    wants = [Thread(target=build.engine_file, args=(network(), "onnx")) for _ in range(3)]
    for want in wants:
        want.start()
    for want in wants:
        want.join()
    assert len(built) == 1
    assert "Another process builds" in caplog.text


@needs_onnx
def test_a_full_disk_is_one_sentence_and_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    with pytest.raises(ModelError, match=r"1 MiB are free. Run 'flowguide engines prune'"):
        build.engine_file(network(), "onnx")
    monkeypatch.undo()
    monkeypatch.setenv("FLOWGUIDE_HOME", str(home.parent))

    def full(network: Network, file: Path) -> list[Path]:
        file.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build, "export_onnx", full)
    with pytest.raises(ModelError, match="The disk became full"):
        build.engine_file(network(), "onnx")
    assert [path.suffix for path in home.iterdir()] == [".lock"]


@needs_onnx
def test_an_engine_that_does_not_open_is_built_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash is right and yet the runtime refuses it."""
    real, calls = export.export_onnx, []

    def damaged_at_first(network: Network, file: Path) -> list[Path]:
        calls.append(file)
        return real(network, file) if len(calls) > 1 else written("no ONNX at all", file)

    monkeypatch.setattr(build, "export_onnx", damaged_at_first)
    runtime = open_runtime("onnx", network(), torch.float32)
    assert len(calls) == 2
    assert runtime({"picture": torch.zeros(1, 3, 10, 12), "timestep": torch.zeros(1)})["mean"].shape == (1, 8)


class Eigen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x @ self.weight).real


@needs_onnx
def test_an_operator_that_onnx_does_not_know_is_named(tmp_path: Path) -> None:
    odd = Network("odd", Eigen(), {"x": Spec((3, 3), torch.float32)}, ("y",))
    with pytest.raises(ModelError, match=r"odd cannot be written as ONNX: unsupported operator .*eig.*node"):
        export.export_onnx(odd, tmp_path / "odd.onnx")


@needs_rtx
def test_an_operator_that_tensorrt_does_not_know_is_named_with_its_node(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    node = helper.make_node("Unheard", ["x"], ["y"], name="the_node", domain="far.away")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("far.away", 1)]
    save(
        helper.make_model(helper.make_graph([node], "g", value[:1], value[1:]), opset_imports=opsets),
        tmp_path / "n.onnx",
    )
    with pytest.raises(ModelError, match=r"operator Unheard, node the_node"):
        tensorrt_build.build_in_own_process("tensorrt_rtx", tmp_path / "n.onnx", tmp_path / "n.plan", ["8.9"])
    (tmp_path / "torn.onnx").write_bytes(b"\x08\x07torn")
    with pytest.raises(ModelError, match="tensorrt_rtx cannot build torn"):
        tensorrt_build.build_in_own_process("tensorrt_rtx", tmp_path / "torn.onnx", tmp_path / "n.plan", ["8.9"])


@needs_rtx
@needs_onnx
def test_engines_are_built_for_cards_that_are_not_here() -> None:
    file = build.engine_file(network(), "tensorrt-rtx", ("8.6", "8.9"))
    assert file.stat().st_size > 1000
    assert store.read_entry(file).key.compute_capability == ["8.6", "8.9"]
    assert build.engine_file(network(), "tensorrt-rtx", ("8.9",)) == file, "one of its cards asks for nothing new"
    again = build.engine_file(network(), "tensorrt-rtx", ("12.0",))
    assert again == file
    assert store.read_entry(file).key.compute_capability == ["8.6", "8.9", "12.0"]
    with pytest.raises(ModelError, match=r"it builds for 7\.5, 8\.0, .* not for 9\.0"):
        build.engine_file(network(rows=2), "tensorrt-rtx", ("9.0",))


def for_a_range() -> Network:
    small, best, large = (
        Network("picture", Halved().eval(), {"picture": Spec((1, 3, side, side), torch.float32)}, ("hidden",))
        for side in (16, 32, 64)
    )
    return ranged([small], [best], [large])[0]


class Halved(nn.Module):
    """Works at any even size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.conv(picture).relu()


@needs_onnx
@pytest.mark.parametrize("name", ["onnx", ON_THE_CPU[-1]])
def test_one_engine_for_a_range_of_sizes(name: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(3)
    whole = for_a_range()
    file = build.engine_file(whole, name)
    assert store.read_entry(file).key.ranges == {"picture": [[1, 3, 16, 16], [1, 3, 64, 64]]}
    caplog.clear()
    for side in (16, 40, 64):
        picture = torch.randn(1, 3, side, side)
        network = dataclasses.replace(whole, inputs={"picture": Spec.of(picture)})
        with torch.inference_mode(), open_runtime(name, network, torch.float32) as runtime:
            expected = network.call({"picture": picture})["hidden"]
            torch.testing.assert_close(runtime({"picture": picture})["hidden"], expected, rtol=1e-4, atol=1e-5)
            assert runtime.outputs["hidden"].shape == expected.shape
    assert store.engines() == [file], "none was built for a single size"
    outside = dataclasses.replace(whole, inputs={"picture": Spec((1, 3, 80, 80), torch.float32)})
    assert build.engine_file(outside, name) != file


@needs_rtx
@needs_onnx
def test_a_range_becomes_a_profile_of_tensorrt_rtx() -> None:
    file = build.engine_file(for_a_range(), "tensorrt-rtx", ("8.9",))
    assert file.stat().st_size > 1000
    assert store.read_entry(file).key.ranges["picture"][1] == [1, 3, 64, 64]


@needs_onnx
def test_why_an_engine_of_another_version_card_or_size_is_not_taken(quick: list[str]) -> None:
    file = build.engine_file(network(), "onnx")
    own = key_of(network(), "onnx")
    others = {
        "runtime_version: .*, now 0.1": dataclasses.replace(own, runtime_version="0.1"),
        r'compute_capability: \[\], now \["8.9"\]': dataclasses.replace(own, compute_capability=["8.9"]),
        "inputs: .*10, 12.*, now .*20, 24": dataclasses.replace(
            own, inputs={"picture": ([1, 3, 20, 24], "float32"), "timestep": ([1], "float32")}
        ),
        "weights: ": dataclasses.replace(own, weights="0" * 32),
    }
    for says, key in others.items():
        why = store.why_stale(file, key)
        assert why is not None
        assert re.search(says, why), why


WANTS_AN_ENGINE = """
import sys, time, logging
sys.path.insert(0, "tests")
logging.basicConfig()
import test_engines as t
from flowguide.engines import build

def slow(network, file):
    print("builds", flush=True)
    time.sleep(1.0)
    return t.written("engine", file)

build.export_onnx = slow
print("wants", flush=True)
build.engine_file(t.network(), "onnx")
print("has", flush=True)
"""


@needs_onnx
def test_two_processes_that_want_the_same_engine_build_it_once() -> None:
    command = [sys.executable, "-c", WANTS_AN_ENGINE]
    root = Path(__file__).parent.parent
    started = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert sum(out.count("builds") for out, _ in said) == 1
    assert all("has" in out for out, _ in said)


@pytest.mark.skipif(not has("openvino"), reason="the extra openvino is missing")
def test_openvino_sends_nothing_home(tmp_path: Path) -> None:
    """Its import sends an event where the package openvino-telemetry is there, which its wheel asks for."""
    package = tmp_path / "openvino_telemetry"
    package.mkdir()
    (package / "backend.py").write_text("class backend_ga4: pass\n")
    told = tmp_path / "told"
    (package / "__init__.py").write_text(
        "class Telemetry:\n    def __init__(self, *a, **k): pass\n"
        f"    def send_event(self, *a, **k): open({str(told)!r}, 'a').write('event')\n"
        "    def start_session(self, *a, **k): pass\n"
        "    def end_session(self, *a, **k): pass\n"
    )
    settings = os.environ | {"PYTHONPATH": str(tmp_path)}
    ours = "from flowguide.engines.runtime import kind_of; kind_of('openvino'); import openvino; openvino.Core()"
    audit = "import sys; sys.addaudithook(lambda event, _: event.startswith('socket.connect') and sys.exit(event)); "
    done = subprocess.run([sys.executable, "-c", audit + ours], env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not told.exists()
    subprocess.run([sys.executable, "-c", "import openvino"], env=settings, check=True)
    assert told.read_text() == "event", "this is what its own import does"
