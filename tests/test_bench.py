"""The bench: what it counts, what it leaves unsaid, and one whole run of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flowguide.bench.arithmetic import matmul_tflops, unet_flop
from flowguide.bench.flows import flow_rows
from flowguide.bench.sides import Ran, measured, told
from flowguide.bench.streaming import StreamBatch
from flowguide.bench.table import NOT, table
from flowguide.cli import main
from flowguide.types import Frame

CPU = torch.device("cpu")


def linear(latents: torch.Tensor, timesteps: torch.Tensor, with_prompt: bool) -> torch.Tensor:
    """A network whose rows know nothing of each other."""
    share = timesteps.view(-1, 1, 1, 1).float() / 1000
    return share * latents + (0.3 if with_prompt else 0.1)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_streaming_batch_is_the_sequential_loop_late(scale: float) -> None:
    timesteps, shape = [750, 500, 250, 1], (1, 4, 3, 5)
    kept = torch.linspace(0.999, 0.01, 1000)
    made = StreamBatch(linear, kept, timesteps, shape=shape, guidance_scale=scale, device=CPU, dtype=torch.float32)
    frames = [torch.full(shape, float(value)) for value in range(9)]
    streamed = [made(frame) for frame in frames]
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(shape, generator=generator) for _ in timesteps]

    def painted(latent: torch.Tensor) -> torch.Tensor:
        clean, negative = latent, None
        for number, (step, drawn) in enumerate(zip(timesteps, noise, strict=True)):
            x = kept[step].sqrt() * clean + (1 - kept[step]).sqrt() * drawn
            predicted = linear(x, torch.tensor([step]), True)
            if scale > 1:
                negative = linear(x, torch.tensor([step]), False) if number == 0 else negative
                predicted = negative + scale * (predicted - negative)
            clean = (x - (1 - kept[step]).sqrt() * predicted) / kept[step].sqrt()
        return clean

    delay = len(timesteps) - 1
    for index in range(len(frames) - delay):
        torch.testing.assert_close(streamed[index + delay], painted(frames[index]), rtol=1e-4, atol=1e-4)


def test_rates_are_of_the_frames_after_the_first() -> None:
    ran = Ran(10.0, 16.5, [12.0, 13.0, 14.0, 16.0], {"unet": 2.0, "flow": 0.4, "write": 0.4})
    found = told(ran, flop_per_frame=3e12)
    assert found["frames"] == 4
    assert found["fps"] == pytest.approx(3 / 4.5)
    assert found["first_frame_seconds"] == pytest.approx(2.0)
    assert found["p50_ms"] == pytest.approx(1000)
    assert found["p99_ms"] == pytest.approx(2000)
    assert found["outside_model"] == pytest.approx(1 - 0.5 / 1.5)
    assert found["outside_model_flow_codec"] == pytest.approx(1 - 0.7 / 1.5)
    assert found["unet_tflops"] == pytest.approx(6.0)
    assert told(Ran(0.0, 1.0, [1.0], {}), 1.0)["fps"] is None


def test_operations_of_a_known_network_are_counted() -> None:
    config = {"in_channels": 4, "out_channels": 4, "block_out_channels": (32,), "down_block_types": ("DownBlock2D",),
              "up_block_types": ("UpBlock2D",), "layers_per_block": 1, "cross_attention_dim": 8,
              "norm_num_groups": 8}  # fmt: skip
    one = unet_flop(config, 1, (8, 8), (4, 8))
    assert unet_flop(config, 2, (8, 8), (4, 8)) == pytest.approx(2 * one, rel=0.01)
    assert one > 2 * 64 * 9 * 4 * 32, "the first convolution alone"


def test_a_matrix_product_has_a_rate() -> None:
    assert 0 < matmul_tflops(CPU, torch.float32, seconds=0.05) < 1000


def test_flow_that_cannot_be_measured_says_why() -> None:
    frames = [Frame(torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8), index) for index in range(2)]
    rows = {row["flow"]: row for row in flow_rows(frames, CPU, 3)}
    assert rows["dis"]["ms"] > 0
    low, high = rows["dis"]["ms_range"]
    assert low <= rows["dis"]["ms"] <= high
    for row in rows.values():
        assert ("ms" in row) != bool(row.get("reason"))


def test_a_side_that_fails_leaves_its_reason(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from flowguide.errors import FlowguideError

    request = {"side": "diffusers loop", "clip": str(tmp_path / "absent.mp4"), "output": str(tmp_path / "out.mp4"),
               "settings": {"model": str(tiny_checkpoint), "device": "cpu", "steps": 2}}  # fmt: skip
    with pytest.raises(FlowguideError, match=r"absent\.mp4"):
        measured(request)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_run_of_the_bench(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("FLOWGUIDE_HOME", str(home))
    out = tmp_path / "bench.json"
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--quick", "--size", "64", "--model", str(tiny_checkpoint), "--steps", "2", "--runtimes",
              "torch", "--output", str(out), "--out-dir", str(tmp_path / "kept")])  # fmt: skip
    assert not ended.value.code
    result = json.loads(out.read_text())
    assert result["size"][0] == 64
    sides = {row["side"]: row for row in result["sides"]}
    for name in ("flowguide", "flowguide, unguided", "diffusers loop"):
        row = sides[name]
        assert row["fps"] > 0, row
        assert row["p99_ms"] >= row["p50_ms"] > 0
        assert row["memory_bytes"] > 1e8
        assert row["unet_tflops"] > 0
        assert 0 < row["outside_model"] < 1
        assert row["e_warp_1"] > 0
        assert row["stage_ms"]["unet"] > 0
    assert sides["diffusers loop"]["times_diffusers"] == 1.0
    assert "by --quick" in sides["diffusers loop, torch.compile"]["reason"]
    assert "GPU" in sides["streaming batch"]["reason"]
    printed = capsys.readouterr().out
    assert printed.strip() == table(result).strip()
    assert f"streaming batch                {NOT}" in printed
    stored = json.loads((home / "profiles.json").read_text())["profiles"]
    assert any(json.loads(key)["size"] == result["size"] for key in stored), "dry runs estimate from it"
    assert (tmp_path / "kept" / "flowguide.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["absent.mp4"], "absent.mp4 does not exist"),
        (["--runtimes", "nonsense"], "Unknown runtime 'nonsense'"),
        (["--frames", "0"], "at least 2 frames in at least 1 round, got 0 in 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--quick", *arguments])
    assert ended.value.code
    errors = capsys.readouterr().err
    assert says in errors
    assert errors.count("\n") == 1
