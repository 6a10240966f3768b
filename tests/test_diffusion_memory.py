"""Memory: the ladder, half precision that overflows, tiles; and the list of models."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from coded_frames import make_clicking
from tiny_checkpoint import save_family

import flowguide
from flowguide.config import render_config
from flowguide.diffusion import catalogue, latents
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.diffusion.denoiser import Denoiser
from flowguide.diffusion.image_to_image import ImageToImage, NoiseKey
from flowguide.diffusion.latents import Autoencoder
from flowguide.diffusion.memory import MemoryLadder, Rung, is_out_of_memory
from flowguide.errors import FlowguideError, ModelError, UsageError
from flowguide.timing import StageClock

CPU = torch.device("cpu")


def engine(folder: Path, **options: Any) -> tuple[Checkpoint, ImageToImage]:
    checkpoint = load_checkpoint(str(folder), torch.float32, CPU)
    config = render_config(prompt="a boat", guidance_scale=3.0, steps=2, **options)
    return checkpoint, ImageToImage(checkpoint, config, StageClock())


def test_the_ladder_takes_one_rung_at_a_time_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[str] = []
    rungs = [Rung(name, lambda name=name: taken.append(name) is None and taken.count(name) == 1) for name in "ab"]
    ladder = MemoryLadder(rungs)

    def work() -> str:
        if len(taken) < 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    assert ladder(work) == "done"
    assert taken == ["a"]
    assert caplog.messages == ["Memory ran out; from now on: a."]
    assert ladder(lambda: "again") == "again"

    def never() -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="allocate"):
        ladder(never)
    assert caplog.messages[1:] == ["Memory ran out; from now on: b."]
    with pytest.raises(RuntimeError, match="shape"):
        ladder(lambda: torch.zeros(2).view(3))
    assert is_out_of_memory(MemoryError())


def test_a_batch_too_large_goes_row_by_row(tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint, model = engine(tiny_checkpoint)
    start = model.encode(torch.rand(1, 3, 32, 32))
    expected = model.denoise(start, NoiseKey(0, 0))
    whole, rows = checkpoint.denoiser, []

    class Small(Denoiser):
        def __call__(self, latents: torch.Tensor, *arguments: Any) -> torch.Tensor:
            rows.append(latents.shape[0])
            if latents.shape[0] > 1:
                raise MemoryError
            return whole(latents, *arguments)

    checkpoint.denoiser = Small(checkpoint.unet)
    torch.testing.assert_close(model.denoise(start, NoiseKey(0, 0)), expected, rtol=1e-4, atol=1e-5)
    assert rows == [2, 1, 1]
    assert "one row of the batch at a time" in caplog.text


def test_an_autoencoder_without_memory_works_in_tiles(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, model = engine(tiny_checkpoint)
    decode, sizes = type(checkpoint.autoencoder.network).decode, []

    def starved(self: Any, latents: torch.Tensor, **options: Any) -> Any:
        sizes.append(latents.shape[2:].numel())
        if sizes[-1] > 40:
            raise MemoryError
        return decode(self, latents, **options)

    monkeypatch.setattr(type(checkpoint.autoencoder.network), "decode", starved)
    monkeypatch.setattr(latents, "TILE", 4)
    monkeypatch.setattr(latents, "MARGIN", 1)
    assert model.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 64, 64)
    assert sizes == [64, 64, 25, 25, 25, 25]
    assert [message.rpartition(": ")[2] for message in caplog.messages] == [
        "one row of the batch at a time.", "the autoencoder works in tiles.",
    ]  # fmt: skip
    assert not checkpoint.autoencoder.use_tiles(), "this rung is taken"


def test_a_run_without_memory_takes_every_rung_and_ends_with_the_way_to_go_on(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clicking(tmp_path / "in.mp4", 0.36, [0.1])
    encode, encoded = Autoencoder._encode, []

    def growing(self: Autoencoder, pictures: torch.Tensor) -> torch.Tensor:
        encoded.append(pictures.shape)
        if len(encoded) > 6:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return encode(self, pictures)

    monkeypatch.setattr(Autoencoder, "_encode", growing)
    options = {"model": str(tiny_checkpoint), "dtype": "float32", "steps": 2, "segment_frames": 2}
    with pytest.raises(FlowguideError, match=r"Out of memory at .*frames are kept; go on with: flowguide resume"):
        flowguide.render(clip, tmp_path / "out.mp4", **options)
    assert [text.rpartition(": ")[2] for text in caplog.messages if text.startswith("Memory ran out")] == [
        "one row of the batch at a time.", "the autoencoder works in tiles.",
    ]  # fmt: skip


@pytest.mark.gpu
def test_an_offloaded_model_gives_the_same(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(save_family(tmp_path / "model", "sd1")), torch.float32, torch.device("cuda"))
    model = ImageToImage(checkpoint, render_config(prompt="a boat", steps=4), StageClock())
    start = model.encode(torch.zeros(1, 3, 32, 32))
    before = model.denoise(start, NoiseKey(0, 0))
    assert checkpoint.offload()
    assert {parameter.device.type for parameter in checkpoint.unet.parameters()} == {"cpu"}
    torch.testing.assert_close(model.denoise(start, NoiseKey(0, 0)), before, rtol=1e-3, atol=1e-3)
    assert not checkpoint.offload(), "this rung is taken"


def test_tiles_by_choice(tmp_path: Path) -> None:
    folder = save_family(tmp_path / "model", "sd1")
    checkpoint, _ = engine(folder, vae_tiles=True)
    assert checkpoint.autoencoder.network.use_tiling
    assert checkpoint.autoencoder.network.use_slicing


def test_tiles_of_the_painters_autoencoder_are_its_whole_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has 8 latent channels and is convolutions alone: a tile with its margin knows all that a cell depends on."""
    monkeypatch.setattr(latents, "TILE", 6)
    autoencoder = load_checkpoint("painter", torch.float32, CPU).autoencoder
    pictures = torch.rand(2, 3, 13 * autoencoder.cell, 50 * autoencoder.cell) * 2 - 1
    coded = autoencoder.encode(pictures)
    decoded = autoencoder.decode(coded)
    assert autoencoder.use_tiles()
    torch.testing.assert_close(autoencoder.encode(pictures), coded, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(autoencoder.decode(coded), decoded, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(latents, "MARGIN", 0)
    assert not torch.allclose(autoencoder.decode(coded), decoded, atol=1e-2), "without a margin tiles show"


class Overflowing(torch.nn.Module):
    """An autoencoder whose activations leave the range of float16."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(300.0, dtype=torch.float16))
        self.config = type("Config", (), {"latent_channels": 3, "scaling_factor": 1.0})
        self.device, self.calls = CPU, 0

    @property
    def dtype(self) -> torch.dtype:
        return self.gain.dtype

    def decode(self, latents: torch.Tensor, return_dict: bool = False) -> tuple[torch.Tensor]:
        self.calls += 1
        grown = latents * self.gain * self.gain
        return (grown / grown.abs().max(),)


def test_black_frames_of_half_precision_are_decoded_again_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    vae = Overflowing()
    autoencoder = Autoencoder(vae, cell=1)
    for _ in range(2):
        picture = autoencoder.decode(torch.ones(1, 3, 2, 2))
        assert torch.equal(picture, torch.ones(1, 3, 2, 2))
    assert vae.calls == 3, "once more for the first picture, never again after it"
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "float32 from now on" in caplog.text


def test_latents_that_are_no_numbers_are_not_stored_as_black_frames() -> None:
    with pytest.raises(ModelError, match=r"latents are not finite.*--dtype float32"):
        Autoencoder(Overflowing(), cell=1).decode(torch.full((1, 3, 2, 2), torch.nan))
    vae = Overflowing()
    vae.gain.data.fill_(torch.inf)
    with pytest.raises(ModelError, match="What the autoencoder makes is not finite"):
        Autoencoder(vae, cell=1).decode(torch.ones(1, 3, 2, 2))


def test_models_are_listed_with_family_licence_and_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWGUIDE_HOME", str(tmp_path))
    folder = save_family(tmp_path / "models" / "boats", "lcm")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Boats\n")
    (tmp_path / "models" / "torn.safetensors").write_bytes(b"12345678")
    here, complaints = catalogue.models()
    boats = next(model for model in here if model.name == "boats")
    assert (boats.licence, boats.family) == ("mit", "its own family, distilled guidance (LCM)")
    checkpoint = load_checkpoint(str(folder), torch.float32, CPU)
    encoder = checkpoint.prompts._encoders[0][1]
    networks = (checkpoint.unet, checkpoint.autoencoder.network, encoder)
    assert boats.parameters == sum(p.numel() for network in networks for p in network.parameters())
    assert boats.memory_bytes(2) * 2 == boats.memory_bytes(4)
    assert "MiB" in boats.line()
    assert len(complaints) == 1
    assert "torn.safetensors" in complaints[0]


def test_a_model_is_checked_file_by_file(tmp_path: Path) -> None:
    folder = save_family(tmp_path / "boats", "sd1")
    model, hashes = catalogue.check(str(folder))
    assert model.name == "boats"
    assert len(hashes["unet/diffusion_pytorch_model.safetensors"]) == 64
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(ModelError, match="damaged: it has"):
        catalogue.check(str(folder))
    file.write_bytes(whole)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match="vae holds no weights"):
        catalogue.check(str(folder))
    shutil.rmtree(folder / "vae")
    with pytest.raises(ModelError, match="lacks vae"):
        catalogue.check(str(folder))


def test_of_a_repository_what_is_needed_is_taken_and_nothing_else() -> None:
    files = [
        "model_index.json", "README.md", "v1.safetensors", "unet/config.json", "safety_checker/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin", "tokenizer/merges.txt",
    ]  # fmt: skip
    assert catalogue.wanted(files) == [
        "README.md", "model_index.json", "tokenizer/merges.txt", "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="OWNER/NAME"):
        catalogue.pull("boats")


def test_the_models_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flowguide.cli import main

    monkeypatch.setenv("FLOWGUIDE_HOME", str(tmp_path / "home"))
    save_family(tmp_path / "home" / "models" / "boats", "sd1")
    for arguments, says in (
        (["models", "list"], "boats: its own family"), (["models", "list", "--json"], '"name": "boats"'),
        (["models", "check", "boats"], "  unet/config.json"), (["models", "check", "boats", "--json"], '"sha256"'),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        assert says in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["models", "check", "boots"])
    assert ended.value.code == 2
    assert "Did you mean 'boats'" in capsys.readouterr().err
