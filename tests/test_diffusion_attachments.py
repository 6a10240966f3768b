"""LoRAs, textual inversions, ControlNet hints and files, IP-Adapter: plugged in as diffusers does it, or refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoint import save_controlnet, save_family, tiny_unet

from flowguide.config import render_config
from flowguide.diffusion.attachments import scaled
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.diffusion.hints import HINTS, Depth
from flowguide.diffusion.image_to_image import ImageToImage, NoiseKey
from flowguide.diffusion.noise import keyed_noise
from flowguide.errors import BackendMissing, ModelError, UnknownName, UsageError
from flowguide.timing import StageClock

CPU = torch.device("cpu")


def load(model: Path, **options: Any) -> Checkpoint:
    return load_checkpoint(str(model), torch.float32, CPU, render_config(**options))


def painted(model: Path, **options: Any) -> torch.Tensor:
    config = render_config(prompt="a boat", steps=4, **options)
    image_to_image = ImageToImage(load(model, **options), config, StageClock())
    return image_to_image.denoise(image_to_image.encode(picture()), NoiseKey(0, 0), picture=picture())


def picture() -> torch.Tensor:
    return torch.linspace(-1, 1, 48 * 64).view(1, 1, 48, 64).expand(1, 3, 48, 64)


def save_lora(
    file: Path, unet: torch.nn.Module, *, seed: int, rank: int = 2, kohya: bool = False, of: str = "to_q"
) -> dict[str, Any]:
    """A LoRA of every layer of `unet` whose name ends with `of`; returns name -> (down, up)."""
    generator = torch.Generator().manual_seed(seed)
    pairs, tensors = {}, {}
    for name, module in unet.named_modules():
        if name.endswith(of):
            down = torch.randn(rank, module.in_features, generator=generator)
            up = torch.randn(module.out_features, rank, generator=generator)
            pairs[name] = (down, up)
            stem = "lora_unet_" + name.replace(".", "_") if kohya else f"unet.{name}"
            parts = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
            tensors[f"{stem}.{parts[0]}.weight"], tensors[f"{stem}.{parts[1]}.weight"] = down, up
            if kohya:
                tensors[f"{stem}.alpha"] = torch.tensor(float(rank))
    save_file(tensors, file)
    return pairs


def test_loras_add_up_in_the_weights(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = save_family(tmp_path / "model", "sd1")
    plain = load(folder).unet
    one = save_lora(tmp_path / "one.safetensors", plain, seed=1)
    two = save_lora(tmp_path / "two.safetensors", plain, seed=2)
    lora = (f"{tmp_path / 'one.safetensors'}@0.5", str(tmp_path / "two.safetensors"))
    unet = load(folder, lora=lora).unet
    for name, (down, up) in one.items():
        change = unet.get_submodule(name).weight - plain.get_submodule(name).weight
        torch.testing.assert_close(change, 0.5 * up @ down + two[name][1] @ two[name][0], rtol=1e-4, atol=1e-4)
    assert type(unet.get_submodule(name)).__name__ == "Linear", "fused: nothing is left to compute"


def test_a_lora_in_kohyas_format_and_from_a_models_folder(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = save_family(tmp_path / "model", "sdxl")
    (tmp_path / "ComfyUI/models/loras").mkdir(parents=True)
    plain = load(folder).unet
    pairs = save_lora(tmp_path / "ComfyUI/models/loras/ink.safetensors", plain, seed=1)
    unet = load(folder, lora=("ink@0.3",), model_folders=(str(tmp_path / "ComfyUI"),)).unet
    name, (down, up) = next(iter(pairs.items()))
    change = unet.get_submodule(name).weight - plain.get_submodule(name).weight
    torch.testing.assert_close(change, 0.3 * up @ down, rtol=1e-4, atol=1e-4)
    folder = save_family(tmp_path / "small", "sd1")
    plain = load(folder).unet
    pairs = save_lora(tmp_path / "kohya.safetensors", plain, seed=1, kohya=True)
    unet = load(folder, lora=(str(tmp_path / "kohya.safetensors"),)).unet
    name, (down, up) = next(iter(pairs.items()))
    change = unet.get_submodule(name).weight - plain.get_submodule(name).weight
    torch.testing.assert_close(change, up @ down, rtol=1e-4, atol=1e-4)


def test_loras_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    small, xl = save_family(tmp_path / "small", "sd1"), save_family(tmp_path / "xl", "sdxl")
    save_lora(tmp_path / "xl.safetensors", load(xl).unet, seed=1)
    save_lora(tmp_path / "two.safetensors", tiny_unet(cross_attention_dim=24), seed=1, of="attn2.to_k")
    save_file({"something": torch.zeros(2)}, tmp_path / "other.safetensors")
    torch.save({}, tmp_path / "old.pt")
    for name, says in (
        ("xl.safetensors", "does not fit the checkpoint"), ("two.safetensors", "takes 24 channels, the UNet's 16"),
        ("other.safetensors", "does not fit the checkpoint"),
        ("old.pt", "pickle"), ("absent.safetensors", "does not exist"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=says) as caught:
            load(small, lora=(str(tmp_path / name),))
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="number after @"):
        scaled("ink@strong")


def test_a_lora_without_peft_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_family(tmp_path / "model", "sd1")
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(BackendMissing, match=r"flowguide\[adapters\]"):
        load(folder, lora=("ink.safetensors",))


def test_textual_inversions_are_words(tmp_path: Path) -> None:
    folder = save_family(tmp_path / "model", "sd1")
    vectors = torch.randn(2, 16)
    save_file({"emb_params": vectors}, tmp_path / "brushy.safetensors")
    checkpoint = load(folder, embedding=(str(tmp_path / "brushy.safetensors"),))
    encoder = checkpoint.prompts._encoders[0][1]
    table = encoder.get_input_embeddings().weight
    torch.testing.assert_close(table[-2:], vectors)
    assert not torch.equal(checkpoint.prompts("a brushy boat").text, load(folder).prompts("a brushy boat").text)
    assert checkpoint.prompts.chunks("brushy " * 38) == 2, "two vectors a word"
    assert torch.equal(checkpoint.prompts("brushystrokes").text, load(folder).prompts("brushystrokes").text)
    for same in ("a (brushy:1.0) boat", "a Brushy boat", "a <brushy> boat"):
        assert torch.equal(checkpoint.prompts(same).text, checkpoint.prompts("a brushy boat").text), same
    save_file({"emb_params": torch.randn(1, 24)}, tmp_path / "wide.safetensors")
    with pytest.raises(ModelError, match="made for another text encoder"):
        load(folder, embedding=(str(tmp_path / "wide.safetensors"),))


def test_textual_inversions_of_sdxl(tmp_path: Path) -> None:
    folder = save_family(tmp_path / "model", "sdxl")
    save_file({"clip_l": torch.randn(1, 16), "clip_g": torch.randn(1, 20)}, tmp_path / "brushy.safetensors")
    checkpoint = load(folder, embedding=(str(tmp_path / "brushy.safetensors"),))
    assert not torch.equal(checkpoint.prompts("brushy").text, load(folder).prompts("brushy").text)
    save_file({"emb_params": torch.randn(1, 16)}, tmp_path / "one.safetensors")
    small = save_family(tmp_path / "small", "sd1")
    for model, name in ((folder, "one"), (small, "brushy")):
        with pytest.raises(ModelError, match=r"another text encoder.* XL alone has clip_g") as caught:
            load(model, embedding=(str(tmp_path / f"{name}.safetensors"),))
        assert "\n" not in str(caught.value)


def test_hints_need_no_network() -> None:
    picture = torch.full((1, 3, 48, 64), -1.0)
    picture[:, :, :, 32:] = 1.0
    for name, hint in HINTS.items():
        made = hint(picture)
        assert made.shape == picture.shape, name
        assert float(made.min()) >= 0.0, name
        assert float(made.max()) <= 1.0, name
    for name in ("canny", "softedge"):
        made = HINTS[name](picture)
        assert float(made[..., 28:36].amax()) == pytest.approx(1.0)
        assert float(made[..., :24].amax()) == 0.0
    assert torch.equal(HINTS["tile"](picture), (picture + 1) / 2)


def test_depth_comes_from_a_given_network(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        [node], "depth", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 28, 42])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 28, 42])], [axes],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "depth.onnx")
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 48, 64)
    made = Depth(tmp_path / "depth.onnx")(ramp)
    assert made.shape == (1, 3, 48, 64)
    assert float(made[..., 0].max()) < 0.05
    assert float(made[..., -1].min()) > 0.95
    (tmp_path / "torn.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="could not be loaded"):
        Depth(tmp_path / "torn.onnx")


def test_a_controlnet_in_one_file_is_the_folder(tmp_path: Path) -> None:
    folder = save_family(tmp_path / "model", "sd1")
    net = save_controlnet(tmp_path / "net", load(folder).unet)
    from_folder = painted(folder, control=(f"canny:{net}@0.8",))
    file = net / "diffusion_pytorch_model.safetensors"
    torch.testing.assert_close(painted(folder, control=(f"canny:{file}@0.8",)), from_folder)
    assert not torch.equal(from_folder, painted(folder, control=(f"softedge:{net}@0.8",)))
    inpainting = save_family(tmp_path / "inpainting", "sd1-inpainting")
    assert load(inpainting, control=(f"canny:{file}",)).denoiser.controls, "it sees 4 channels, the UNet 9"


def test_controlnets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    small, xl = save_family(tmp_path / "small", "sd1"), save_family(tmp_path / "xl", "sdxl")
    net = save_controlnet(tmp_path / "net", load(xl).unet)
    with pytest.raises(ModelError, match="another family of models: its cross_attention_dim is 36"):
        load(small, control=(f"tile:{net}",))
    with pytest.raises(ModelError, match="made for another family of models, or damaged"):
        load(small, control=(f"tile:{net / 'diffusion_pytorch_model.safetensors'}",))
    with pytest.raises(UnknownName, match="Did you mean 'canny'"):
        load(small, control=(f"cany:{net}",))
    own = save_controlnet(tmp_path / "own", load(small).unet)
    with pytest.raises(UsageError, match="--depth-model"):
        load(small, control=(f"depth:{own}",))


def save_ip_adapter(folder: Path, unet: Any) -> Path:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16,
                         patch_size=8, projection_dim=6)
    )  # fmt: skip
    encoder.save_pretrained(folder / "image_encoder")
    tensors = {
        "image_proj.proj.weight": torch.randn(4 * 16, 6), "image_proj.proj.bias": torch.randn(4 * 16),
        "image_proj.norm.weight": torch.ones(16), "image_proj.norm.bias": torch.zeros(16),
    }  # fmt: skip
    number = 1
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            for part in ("k", "v"):
                tensors[f"ip_adapter.{number}.to_{part}_ip.weight"] = torch.randn(module.inner_dim, 16)
            number += 2
    save_file(tensors, folder / "ip.safetensors")
    return folder / "ip.safetensors"


def test_an_image_prompt_changes_the_picture_as_in_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers
    import numpy as np
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as theirs
    from PIL import Image

    folder = save_family(tmp_path / "model", "sd1")
    file = save_ip_adapter(tmp_path, load(folder).unet)
    generator = np.random.default_rng(1)
    for name in ("one.png", "two.png"):
        Image.fromarray(generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(tmp_path / name)
    plain = painted(folder)
    one = painted(folder, ip_adapter=f"{file}@0.6", ip_image=str(tmp_path / "one.png"))
    two = painted(folder, ip_adapter=f"{file}@0.6", ip_image=str(tmp_path / "two.png"))
    off = painted(folder, ip_adapter=f"{file}@0", ip_image=str(tmp_path / "one.png"))
    assert not torch.equal(one, two)
    torch.testing.assert_close(off, plain, rtol=1e-4, atol=1e-4)

    pipeline = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.load_ip_adapter(str(tmp_path), subfolder="", weight_name=file.name, image_encoder_folder="image_encoder")
    pipeline.set_ip_adapter_scale(0.6)
    pipeline.set_progress_bar_config(disable=True)
    noise = keyed_noise("fixed", seed=0, shot=0, frame=0, step=0, shape=tuple(one.shape))
    monkeypatch.setattr(theirs, "randn_tensor", lambda *a, **k: noise)
    monkeypatch.setattr(theirs, "retrieve_latents", lambda coded, **k: coded.latent_dist.mode())
    expected = pipeline(
        prompt="a boat", image=(picture() + 1) / 2, ip_adapter_image=Image.open(tmp_path / "one.png").convert("RGB"),
        num_inference_steps=4, strength=0.5, guidance_scale=2.0, output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="--ip-image"):
        load(folder, ip_adapter=str(file))


def test_image_prompts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from PIL import Image
    from safetensors.torch import load_file

    folder, xl = save_family(tmp_path / "model", "sd1"), save_family(tmp_path / "xl", "sdxl")
    file = save_ip_adapter(tmp_path, load(folder).unet)
    Image.new("RGB", (20, 20)).save(tmp_path / "one.png")
    options: dict[str, Any] = {"ip_adapter": str(file), "ip_image": str(tmp_path / "one.png")}
    with pytest.raises(ModelError, match=r"made for another family.*torch.Size\(\[16, 16\]\)"):
        load(xl, **options)
    encoder = tmp_path / "image_encoder" / "model.safetensors"
    torch.save(load_file(encoder), encoder.with_name("pytorch_model.bin"))
    encoder.unlink()
    with pytest.raises(ModelError, match="pickle"):
        load(folder, **options)
    assert load(folder, **options, allow_pickle=True).image_prompt
    with pytest.raises(UsageError, match="cannot be read"):
        load(folder, **{**options, "ip_image": str(file)})


def test_an_lcm_lora_paints_as_in_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latent consistency as a LoRA changes every layer of the UNet; the checkpoint's own scheduler is another."""
    pytest.importorskip("peft")
    import diffusers
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as theirs

    folder = save_family(tmp_path / "model", "sd1")
    save_whole_lora(tmp_path / "lcm.safetensors", load(folder).unet)
    mine = painted(folder, lora=(str(tmp_path / "lcm.safetensors"),), sampler="lcm", guidance_scale=1.0)
    assert not torch.allclose(mine, painted(folder, sampler="lcm", guidance_scale=1.0), atol=1e-2)

    pipeline = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.scheduler = diffusers.LCMScheduler.from_config(pipeline.scheduler.config)
    pipeline.load_lora_weights(str(tmp_path), weight_name="lcm.safetensors")
    pipeline.set_progress_bar_config(disable=True)
    steps = itertools.count()

    def noise(*arguments: Any, **options: Any) -> torch.Tensor:
        return keyed_noise("fixed", seed=0, shot=0, frame=0, step=next(steps), shape=tuple(mine.shape))

    monkeypatch.setattr(theirs, "randn_tensor", noise)
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", noise)
    monkeypatch.setattr(theirs, "retrieve_latents", lambda coded, **k: coded.latent_dist.mode())
    pipeline.scheduler.set_timesteps(4, strength=0.5)
    timesteps = pipeline.scheduler.timesteps
    monkeypatch.setattr(pipeline, "get_timesteps", lambda count, strength, device: (timesteps, count))
    monkeypatch.setattr(theirs, "retrieve_timesteps", lambda *a, **k: (timesteps, 4))
    expected = pipeline(
        prompt="a boat", image=(picture() + 1) / 2, num_inference_steps=4, guidance_scale=1.0, output_type="latent"
    ).images
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def save_whole_lora(file: Path, unet: torch.nn.Module) -> None:
    """A LoRA in kohya's format of every linear layer and convolution but the first and the last."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, layer in unet.named_modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and name not in ("conv_in", "conv_out"):
            stem, (outputs, inputs, *window) = "lora_unet_" + name.replace(".", "_"), layer.weight.shape
            tensors[f"{stem}.lora_down.weight"] = 0.1 * torch.randn(2, inputs, *window, generator=generator)
            tensors[f"{stem}.lora_up.weight"] = 0.1 * torch.randn(outputs, 2, *[1 for _ in window], generator=generator)
            tensors[f"{stem}.alpha"] = torch.tensor(1.0)
    save_file(tensors, file)


def test_a_lora_of_the_text_encoder(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = save_family(tmp_path / "model", "sd1")
    generator, tensors = torch.Generator().manual_seed(1), {}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        stem = f"lora_te_text_model_encoder_layers_0_self_attn_{name}"
        tensors[f"{stem}.lora_down.weight"] = torch.randn(2, 16, generator=generator)
        tensors[f"{stem}.lora_up.weight"] = torch.randn(16, 2, generator=generator)
        tensors[f"{stem}.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "words.safetensors")
    own, changed = (load(folder, **o).prompts._encoders[0][1].state_dict() for o in (
        {}, {"lora": (f"{tmp_path / 'words.safetensors'}@0.5",)}))  # fmt: skip
    query = next(name for name in own if name.endswith("q_proj.weight"))
    stem = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    product = tensors[f"{stem}.lora_up.weight"] @ tensors[f"{stem}.lora_down.weight"]
    torch.testing.assert_close(changed[query] - own[query], 0.5 * product, rtol=1e-4, atol=1e-4)
