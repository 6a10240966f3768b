"""Where checkpoints come from: single files, shards, variants, other programs' folders, other autoencoders."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from original_layout import save_single_file
from tiny_checkpoint import save_family, tiny_unet, tiny_vae

from flowguide.config import render_config
from flowguide.diffusion import catalogue
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.diffusion.conditioning import Condition
from flowguide.diffusion.latents import Autoencoder
from flowguide.diffusion.model_folders import find_model
from flowguide.diffusion.published import LAYOUTS
from flowguide.diffusion.single_file import family_of, shapes, write_layout
from flowguide.diffusion.taesd import load_taesd
from flowguide.errors import BackendMissing, ModelError, UnknownName, UsageError

CPU = torch.device("cpu")

needs_vocabulary = pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is None, reason="the extra single-file is not installed"
)


def load(model: Path | str, dtype: torch.dtype = torch.float32, **options: Any) -> Checkpoint:
    return load_checkpoint(str(model), dtype, CPU, render_config(**options))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in a.state_dict().items())


@pytest.mark.parametrize("family", ["sd1", "sd2-v", "sdxl", "sd1-inpainting"])
def test_a_single_file_is_the_folder_it_came_from(tmp_path: Path, family: str) -> None:
    folder = save_family(tmp_path / "model", family)
    file = save_single_file(folder, tmp_path / "model.safetensors")
    from_folder, from_file = load(folder), load(file, model_layout=str(folder))
    assert same(from_folder.unet, from_file.unet)
    assert same(from_folder.autoencoder.network, from_file.autoencoder.network)
    assert torch.equal(from_folder.prompts("a boat").text, from_file.prompts("a boat").text)
    assert from_folder.scheduler_config == from_file.scheduler_config
    assert from_file.digest() != from_folder.digest()


PARAMETERS = {
    "Stable Diffusion 1": (859_520_964, 83_653_863, 123_060_480),
    "Stable Diffusion 2": (865_910_724, 83_653_863, 340_387_840),
    "Stable Diffusion XL": (2_567_463_684, 83_653_863, 123_060_480, 694_659_840),
}


@pytest.mark.parametrize("family", PARAMETERS)
def test_published_layouts_have_the_published_sizes(family: str) -> None:
    import diffusers
    import transformers

    layout = LAYOUTS[family]
    with torch.device("meta"):
        networks = [
            diffusers.UNet2DConditionModel.from_config(layout["unet"]),
            diffusers.AutoencoderKL.from_config(layout["vae"]),
            *(
                getattr(transformers, layout[part]["architectures"][0])(transformers.CLIPTextConfig(**layout[part]))
                for part in ("text_encoder", "text_encoder_2")
                if part in layout
            ),
        ]
    counted = tuple(sum(p.numel() for p in network.parameters()) for network in networks)
    assert counted == PARAMETERS[family]


@needs_vocabulary
def test_the_vocabulary_of_a_single_file_is_clips_own(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    layout = write_layout("Stable Diffusion XL", tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(layout / "tokenizer")
    assert len(tokenizer) == 49408
    ids = tokenizer("a photo of a cat", padding="max_length").input_ids
    assert ids[:7] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert ids[7:] == [49407] * 70
    second = CLIPTokenizer.from_pretrained(layout / "tokenizer_2")
    assert second("a", padding="max_length").input_ids[3:] == [0] * 74


def test_without_a_vocabulary_a_single_file_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendMissing, match=r"flowguide\[single-file\].*--model-layout"):
        write_layout("Stable Diffusion 1", tmp_path)


@pytest.mark.parametrize(("width", "channels", "family"), [
    (768, 4, "Stable Diffusion 1"), (1024, 9, "Stable Diffusion 2 inpainting"), (2048, 4, "Stable Diffusion XL"),
])  # fmt: skip
def test_the_family_of_a_file_is_told_by_its_shapes(width: int, channels: int, family: str) -> None:
    block = 4 if width == 2048 else 1
    names = {
        "model.diffusion_model.input_blocks.0.0.weight": (320, channels, 3, 3),
        f"model.diffusion_model.input_blocks.{block}.1.transformer_blocks.0.attn2.to_k.weight": (320, width),
    }
    assert family_of(names, Path("x")) == family


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"not weights")
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.ckpt")
    (tmp_path / "picture.png").write_bytes(b"")
    for name, says in (
        ("other.safetensors", "not a Stable Diffusion"), ("torn.safetensors", "not a whole safetensors file"),
        ("old.ckpt", "pickle, which can run any code.*--allow-pickle"),
        ("picture.png", "should be a .safetensors file"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=says) as caught:
            load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_shards_and_half_precision_variants_load(tmp_path: Path) -> None:
    folder = save_family(tmp_path / "model", "sd1")
    whole = load(folder).unet
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    whole.save_pretrained(folder / "unet", max_shard_size="40KB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    assert same(whole, load(folder).unet)
    next(iter(sorted((folder / "unet").glob("*-00002-of-*")))).unlink()
    with pytest.raises(ModelError, match=r"lacks 1 of \d+ shards"):
        load(folder)
    half = save_family(tmp_path / "half", "sd1")
    unet = load(half).unet.half()
    (half / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet.save_pretrained(half / "unet", variant="fp16")
    assert same(unet.float(), load(half).unet)
    (half / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    unet.half().save_pretrained(half / "unet", variant="fp16", max_shard_size="20KB")
    assert same(unet.float(), load(half).unet)
    next(iter(sorted((half / "unet").glob("*-00002-of-*")))).unlink()
    for read in (load, lambda folder: catalogue.check(str(folder))):
        with pytest.raises(ModelError, match=r"lacks 1 of \d+ shards, the first is .*fp16-00002-of"):
            read(half)


def test_pickled_parts_are_opened_only_when_asked(tmp_path: Path) -> None:
    folder = save_family(tmp_path / "model", "sd1")
    unet = load(folder).unet
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet.save_pretrained(folder / "unet", safe_serialization=False)
    with pytest.raises(ModelError, match="pickle"):
        load(folder)
    assert same(unet, load(folder, allow_pickle=True).unet)


def test_a_pickled_single_file_is_opened_only_when_asked(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = save_family(tmp_path / "model", "sd1")
    weights = load_file(save_single_file(folder, tmp_path / "model.safetensors"))
    torch.save({"state_dict": weights}, tmp_path / "model.ckpt")
    with pytest.raises(ModelError, match="pickle"):
        load(tmp_path / "model.ckpt", model_layout=str(folder))
    opened = load(tmp_path / "model.ckpt", model_layout=str(folder), allow_pickle=True)
    assert same(opened.unet, load(folder).unet)
    assert shapes(tmp_path / "model.ckpt") == shapes(tmp_path / "model.safetensors")


def test_another_autoencoder_by_choice(tmp_path: Path) -> None:
    folder = save_family(tmp_path / "model", "sd1")
    tiny = tiny_vae(kl=False)
    tiny.save_pretrained(tmp_path / "taesd")
    assert same(load(folder, vae=str(tmp_path / "taesd")).autoencoder.network, tiny)
    file = save_single_file(folder, tmp_path / "model.safetensors")
    assert same(load(folder, vae=str(file)).autoencoder.network, load(folder).autoencoder.network)
    tiny_vae(kl=False, latent_channels=8).save_pretrained(tmp_path / "wide")
    with pytest.raises(ModelError, match="takes 4 channels and its autoencoder gives 8"):
        load(folder, vae=str(tmp_path / "wide"))


def test_a_tiny_autoencoder_in_its_authors_files_is_diffusers_own(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = save_family(tmp_path / "model", "sd1")
    theirs = tiny_vae(kl=False).eval()
    (tmp_path / "taesd").mkdir()
    for side, shift in (("encoder", 0), ("decoder", 1)):
        layers = getattr(theirs, side).layers.state_dict()
        named = {f"{int(n.split('.')[0]) + shift}.{n.split('.', 1)[1]}": value for n, value in layers.items()}
        save_file(named, tmp_path / "taesd" / f"taesd_{side}.safetensors")
    autoencoder = load(folder, vae=str(tmp_path / "taesd")).autoencoder
    picture, latents = torch.rand(1, 3, 32, 48) * 2 - 1, torch.randn(1, 4, 4, 6)
    with torch.inference_mode():
        torch.testing.assert_close(autoencoder.encode(picture), theirs.encode(picture).latents)
        torch.testing.assert_close(autoencoder.decode(latents), theirs.decode(latents)[0].clamp(-1, 1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="neither a config"):
        load(folder, vae=str(tmp_path / "empty"))


@pytest.mark.real
def test_a_real_tiny_autoencoder_gives_a_photograph_back(data: Path) -> None:
    import numpy as np
    from PIL import Image

    with pytest.raises(ModelError, match="pickle"):
        load_taesd(data / "weights" / "taef2", torch.float32)
    network = load_taesd(data / "weights" / "taef2", torch.float32, allow_pickle=True)
    autoencoder = Autoencoder(network, cell=8)
    photo = Image.open(sorted((data / "photos").glob("*.jpg"))[0]).convert("RGB").resize((256, 192))
    picture = torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    latents = autoencoder.encode(picture)
    assert latents.shape == (1, 32, 24, 32)
    error = (autoencoder.decode(latents) - picture).square().mean()
    assert float(10 * torch.log10(4 / error)) > 24, "PSNR in dB"


def test_stable_diffusion_1_needs_no_prediction_type(tmp_path: Path) -> None:
    """Its published scheduler config was written before the field existed."""
    folder = save_family(tmp_path / "model", "sd1")
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    del config["prediction_type"]
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="--prediction-type"):
        load(folder)
    assert load(folder, prediction_type="v_prediction").scheduler_config["prediction_type"] == "v_prediction"
    unet = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**unet, "cross_attention_dim": 768}))
    tiny_unet(cross_attention_dim=768).save_pretrained(folder / "unet")
    with pytest.raises(ModelError, match="expects prompt embeddings 768 wide"):
        load(folder)


def test_models_are_found_in_the_folders_of_other_programs(tmp_path: Path) -> None:
    comfy, a1111 = tmp_path / "ComfyUI", tmp_path / "webui"
    for file in (comfy / "models/checkpoints/sub/paint.safetensors", comfy / "models/loras/ink.safetensors",
                 a1111 / "models/Stable-diffusion/old.ckpt", a1111 / "models/Lora/oil.safetensors",
                 a1111 / "embeddings/brush.pt", tmp_path / "shared/vae/fine.safetensors"):  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    (tmp_path / "extra_model_paths.yaml").write_text("shared:\n  base_path: shared\n  vae: |\n    vae\n")
    folders = [str(comfy), str(a1111), str(tmp_path / "extra_model_paths.yaml")]
    assert find_model("checkpoint", "paint", folders).name == "paint.safetensors"
    assert find_model("checkpoint", "old.ckpt", folders).name == "old.ckpt"
    assert find_model("lora", "ink", folders) == comfy / "models/loras/ink.safetensors"
    assert find_model("lora", "oil", folders).name == "oil.safetensors"
    assert find_model("embedding", "brush", folders).name == "brush.pt"
    assert find_model("vae", "fine", folders).name == "fine.safetensors"
    assert find_model("checkpoint", "sub/paint", folders).name == "paint.safetensors"
    with pytest.raises(UnknownName, match="Did you mean 'ink'"):
        find_model("lora", "inc", folders)
    (comfy / "models/loras/wet").mkdir()
    (comfy / "models/loras/wet/ink.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="2 files are the lora 'ink'"):
        find_model("lora", "ink", folders)
    assert find_model("lora", "wet/ink", folders).parent.name == "wet"
    assert find_model("lora", "loras/ink.safetensors", folders).parent.name == "loras"
    with pytest.raises(UsageError, match="does not exist"):
        find_model("lora", "ink", [str(tmp_path / "nowhere")])


@needs_vocabulary
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif("FLOWGUIDE_TEST_FULL_SIZE" not in os.environ, reason="FLOWGUIDE_TEST_FULL_SIZE asks for 8 GiB")
@pytest.mark.parametrize("family", ["Stable Diffusion 1", "Stable Diffusion XL"])
def test_full_size_networks_load_from_a_single_file(tmp_path: Path, family: str) -> None:
    """Random weights in bfloat16: about 2 GiB on disk for 1, 7 GiB for XL, and twice that in memory."""
    import diffusers
    import transformers

    folder = write_layout(family, tmp_path / "layout") if (tmp_path / "layout").mkdir() is None else tmp_path
    layout = LAYOUTS[family]
    torch.set_default_dtype(torch.bfloat16)
    try:
        diffusers.UNet2DConditionModel.from_config(layout["unet"]).save_pretrained(folder / "unet")
        diffusers.AutoencoderKL.from_config(layout["vae"]).save_pretrained(folder / "vae")
        for part in ("text_encoder", "text_encoder_2"):
            if part in layout:
                network = getattr(transformers, layout[part]["architectures"][0])
                network(transformers.CLIPTextConfig(**layout[part])).save_pretrained(folder / part)
    finally:
        torch.set_default_dtype(torch.float32)
    file = save_single_file(folder, tmp_path / "whole.safetensors", dtype=torch.bfloat16)
    checkpoint = load(file, torch.bfloat16)
    prompt = checkpoint.prompts("a boat")
    size = None if prompt.pooled is None else torch.zeros(1, 6, dtype=torch.bfloat16)
    output = checkpoint.denoiser(torch.zeros(1, 4, 8, 8).bfloat16(), 500.0, Condition(prompt.text, prompt.pooled, size))
    assert output.shape == (1, 4, 8, 8)


def test_the_bundled_model_says_which_styles_it_knows(caplog: pytest.LogCaptureFixture) -> None:
    def told(prompt: str) -> str:
        caplog.clear()
        load_checkpoint("painter", torch.float32, torch.device("cpu"), render_config(prompt=prompt))
        return caplog.text

    assert told("a watercolor of a boat") == ""
    assert told("photograph of a cat") == told("0:(mosaic) 8:(ink sketch)") == ""
    said = told("moasic")
    assert "knows no style in the prompt 'moasic'" in said
    assert "Did you mean 'mosaic'?" in said
