"""Checkpoints under other runtimes: the same pictures, the engines that were built ahead, the command."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flowguide.engines import build, store
from test_renderer import pan
from tiny_checkpoint import save_controlnet, save_family

from flowguide.cli import main
from flowguide.config import render_config
from flowguide.diffusion.checkpoint import load_checkpoint
from flowguide.diffusion.image_to_image import ImageToImage, NoiseKey
from flowguide.diffusion.planned import planned_networks
from flowguide.diffusion.published import LAYOUTS
from flowguide.diffusion.runtimes import PlainUNet, Runtimes, network_of
from flowguide.errors import BackendMissing, UnknownName, UsageError
from flowguide.machine import choose_dtype
from flowguide.renderer import Renderer
from flowguide.timing import StageClock

CPU = torch.device("cpu")
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxscript", "onnxruntime")),
    reason="the extra onnx is not installed",
)
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the extra openvino is not installed"
)
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra tensorrt-rtx is not installed"
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWGUIDE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "engines"


def painted(model: ImageToImage) -> torch.Tensor:
    picture = torch.linspace(-1, 1, 3 * 48 * 64).reshape(1, 3, 48, 64)
    return model.decode(model.denoise(model.encode(picture), NoiseKey(0, 0), picture=picture))


@pytest.mark.parametrize("family", ["sd1", "sd1-inpainting", "lcm", "sdxl", "painter"])
def test_a_network_is_told_the_same_by_tensors_alone(tmp_path: Path, family: str) -> None:
    """Pooled prompt and sizes, a guidance embedding, nine channels; a ControlNet with sd1."""
    folder = save_family(tmp_path / "model", family)
    options: dict[str, Any] = {"prompt": "a boat", "steps": 2, "control": ()}
    options["sampler"] = {"sdxl": "euler", "lcm": "lcm"}.get(family, "ddim")
    if family == "sd1":
        net = save_controlnet(tmp_path / "net", load_checkpoint(str(folder), torch.float32, CPU).unet)
        options["control"] = (f"tile:{net}@0.7",)
    config = render_config(model=str(folder), **options)
    plain, named = (load_checkpoint(config.model, torch.float32, CPU, config) for _ in range(2))
    named.use(Runtimes("torch", CPU, torch.float32))
    expected, made = (painted(ImageToImage(checkpoint, config, StageClock())) for checkpoint in (plain, named))
    assert expected.std() > 0
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-4)


@needs_onnx
def test_a_checkpoint_gives_the_same_picture_under_onnx(tmp_path: Path) -> None:
    folder = save_family(tmp_path / "model", "sd1")
    net = save_controlnet(tmp_path / "net", load_checkpoint(str(folder), torch.float32, CPU).unet)
    results = []
    for runtime in ("torch", "onnx"):
        config = render_config(
            model=str(folder), prompt="a boat", steps=2, runtime=runtime, control=(f"tile:{net}@0.7",)
        )
        checkpoint = load_checkpoint(config.model, torch.float32, CPU, config)
        results.append(painted(ImageToImage(checkpoint, config, StageClock())))
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)
    assert {store.read_entry(file).key.network for file in store.engines()} == {
        "unet", "vae-encoder", "vae-decoder", "controlnet0",
    }  # fmt: skip


@needs_onnx
@needs_openvino
def test_the_painter_renders_under_openvino_with_engines_built_ahead(home: Path) -> None:
    """What `planned_networks` foretells is what a run opens: nothing is built a second time."""
    options = {"runtime": "openvino", "noise": "per-frame"}
    precision = choose_dtype("auto", CPU)
    height, width = pan(1)[0].shape[:2]
    for network in planned_networks(render_config(options), height, width, 1, precision, CPU):
        build.engine_file(build.in_float32(network), "openvino")
    before = {file: file.stat().st_mtime_ns for file in store.engines()}
    assert len(before) == 3
    frames = pan(3)
    engine, plain = Renderer(render_config(options)), Renderer(render_config({**options, "runtime": "torch"}))
    for frame in frames:
        difference = np.abs(np.asarray(engine.step(frame)).astype(float) - np.asarray(plain.step(frame)))
        assert difference.mean() < (0.05 if precision == torch.float32 else 1.0)
    assert {file: file.stat().st_mtime_ns for file in store.engines()} == before


def test_a_runtime_that_cannot_be_used_is_refused_before_a_frame_is_read(tiny_checkpoint: Path) -> None:
    for name, error in (("torch-graphed", BackendMissing), ("tensort", UnknownName)):
        with pytest.raises(error):
            load_checkpoint(str(tiny_checkpoint), torch.float32, CPU, render_config(runtime=name))
    with pytest.raises(UsageError, match="--vae-tiles works with --runtime torch alone"):
        load_checkpoint(
            str(tiny_checkpoint), torch.float32, CPU, render_config(runtime="torch-compiled", vae_tiles=True)
        )


def test_attention_is_not_shared_behind_another_runtime(tiny_checkpoint: Path) -> None:
    config = render_config(runtime="torch-compiled")
    model = ImageToImage(load_checkpoint(str(tiny_checkpoint), torch.float32, CPU, config), config, StageClock())
    with pytest.raises(UsageError, match="--runtime torch alone"), model.attention.together(2):
        pass


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["engines", *arguments])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@needs_onnx
def test_the_engines_command(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "export_onnx", lambda network, file: [file] if file.write_text(network.name) else [])
    code, out, err = command(capsys, "list")
    assert (code, "No engines yet" in out) == (0, True), err
    asked = ("build", str(tiny_checkpoint), "--runtime", "onnx", "--size", "64x48", "--json")
    code, out, err = command(capsys, *asked)
    assert code == 0, err
    built = json.loads(out)["engines"]
    assert [entry["key"]["network"] for entry in built] == ["vae-encoder", "unet", "vae-decoder"]
    assert json.loads(command(capsys, *asked)[1])["engines"] == built, "fresh ones are left alone"
    assert command(capsys, "check")[0] == 0
    Path(built[0]["file"]).write_bytes(b"torn")
    code, out, _ = command(capsys, "check")
    assert code == 1
    assert out.count("is damaged") == 1
    assert "1 engines deleted" in command(capsys, "prune")[1]
    for arguments, says in (
        (("build", "--runtime", "torch"), "nothing to build"),
        (("build", "--runtime", "onnx", "--size", "big"), "WIDTHx"),
        (("build", "--runtime", "onnx", "--compute-capability", "8.9"), "Only tensorrt-rtx"),
        (("build", "--runtime", "onnx", "--size", "64x64..32x96"), "none smaller than the one before"),
    ):
        code, _, err = command(capsys, *arguments)
        assert (code, says in err) == (2, True), err


@needs_onnx
def test_the_command_tells_of_padding_and_builds_for_a_range(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(build, "export_onnx", lambda network, file: [file] if file.write_text(network.name) else [])
    asked = ("build", str(tiny_checkpoint), "--runtime", "onnx", "--json", "--size")
    built = json.loads(command(capsys, *asked, "3x3")[1])["engines"]
    padded = built[0]["key"]["inputs"]["pictures"][0][2:]
    assert f"3x3 are padded to {padded[1]}x{padded[0]}" in caplog.text
    built = json.loads(command(capsys, *asked, "64x48..128x96")[1])["engines"]
    ranges = {entry["key"]["network"]: entry["key"]["ranges"] for entry in built}
    assert ranges["vae-encoder"] == {"pictures": [[1, 3, 48, 64], [1, 3, 96, 128]]}
    assert set(ranges["unet"]) == {"sample"}
    assert built[0]["key"]["inputs"]["pictures"][0] == [1, 3, 96, 128], "best at the largest where no other is said"


@needs_onnx
@needs_rtx
@pytest.mark.slow
def test_tensorrt_rtx_engines_of_the_painter_for_three_cards() -> None:
    """Float16, 256 px, without a GPU: its UNet, its tiny autoencoder, and a flow network."""
    began = time.monotonic()
    config, cards = render_config(), ("8.6", "8.9", "12.0")
    networks = [*planned_networks(config, 256, 256, 1, torch.float16, CPU), flow_network()]
    for network in networks:
        file = build.engine_file(network, "tensorrt-rtx", cards)
        assert store.read_entry(file).key.compute_capability == list(cards)
        # an autoencoder's bytes count both halves, of which an engine holds one
        share = 0.25 if network.name.startswith("vae") else 0.5
        assert file.stat().st_size > share * network.weight_bytes()
    # 60 s is the bar on a quiet machine; a loaded one gives this process a share of a core.
    load = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert time.monotonic() - began < 60 * load


@needs_onnx
@needs_rtx
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif("FLOWGUIDE_TEST_FULL_SIZE" not in os.environ, reason="FLOWGUIDE_TEST_FULL_SIZE asks for 8 GiB")
def test_the_full_size_unet_in_float16_for_tensorrt_rtx() -> None:
    """Stable Diffusion 1.5 with random weights, 512 px, for one card."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(LAYOUTS["Stable Diffusion 1"]["unet"]).half()
    unet.to_empty(device="cpu").eval()
    for parameter in unet.parameters():
        parameter.data.uniform_(-0.02, 0.02)
    given = {
        "sample": torch.zeros(2, 4, 64, 64).half(), "timestep": torch.zeros(1), "text": torch.zeros(2, 77, 768).half(),
    }  # fmt: skip
    network = network_of("unet", PlainUNet(unet, tuple(given)), given, ("output",))
    file = build.engine_file(network, "tensorrt-rtx", ("8.9",))
    assert file.stat().st_size > 0.95 * network.weight_bytes()
    assert store.why_stale(file) is None


def flow_network() -> Any:
    """flowguide's own flow network for two frames of 256 × 256, in float32."""
    from flowguide.flow.network import FlowNetwork

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = FlowNetwork()

        def forward(self, at: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
            return self.network(at, to).uv

    picture = torch.zeros(1, 3, 256, 256)
    return network_of("flow", Plain().eval(), {"at": picture, "to": picture}, ("uv",))
