"""Every family of checkpoints against diffusers' own pipeline for it: the same latents for the same noise."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import save_controlnet, save_family

from flowguide.config import render_config
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.diffusion.image_to_image import ImageToImage, Known, NoiseKey
from flowguide.diffusion.noise import keyed_noise
from flowguide.timing import StageClock

CPU = torch.device("cpu")
KEY = NoiseKey(shot=0, frame=3)
PIPELINES = {
    "StableDiffusionImg2ImgPipeline": "stable_diffusion.pipeline_stable_diffusion_img2img",
    "StableDiffusionXLImg2ImgPipeline": "stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img",
    "StableDiffusionInpaintPipeline": "stable_diffusion.pipeline_stable_diffusion_inpaint",
    "StableDiffusionXLInpaintPipeline": "stable_diffusion_xl.pipeline_stable_diffusion_xl_inpaint",
    "StableDiffusionControlNetImg2ImgPipeline": "controlnet.pipeline_controlnet_img2img",
    "LatentConsistencyModelImg2ImgPipeline": "latent_consistency_models.pipeline_latent_consistency_img2img",
}

NO_CHECKER: dict[str, Any] = {"safety_checker": None}


def picture(height: int = 48, width: int = 64) -> torch.Tensor:
    rows, columns = torch.linspace(-1, 1, height).view(-1, 1), torch.linspace(-1, 1, width).view(1, -1)
    return torch.stack([rows.expand(height, width), columns.expand(height, width), rows * columns])[None]


def load(folder: Path, **options: Any) -> Checkpoint:
    return load_checkpoint(str(folder), torch.float32, CPU, render_config(**options))


def ours(folder: Path, known: Known | None = None, **options: Any) -> torch.Tensor:
    config = render_config(prompt="a boat", seed=5, **options)
    model = ImageToImage(load(folder, **options), config, StageClock())
    return model.denoise(model.encode(picture()), KEY, picture=picture(), known=known)


def theirs(
    folder: Path, name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, parts: dict[str, Any], **call: Any
) -> torch.Tensor:
    """Their pipeline's latents with our noise in the order it asks for noise."""
    import diffusers

    module = importlib.import_module("diffusers.pipelines." + PIPELINES[name])
    pipeline = getattr(diffusers, name).from_pretrained(folder, local_files_only=True, **parts)
    pipeline.set_progress_bar_config(disable=True)
    steps = itertools.count()

    def noise(*arguments: Any, **options: Any) -> torch.Tensor:
        return keyed_noise("fixed", seed=5, shot=0, frame=3, step=next(steps), shape=shape)

    def mode(coded: Any, **options: Any) -> torch.Tensor:
        return coded.latent_dist.mode() if hasattr(coded, "latent_dist") else coded.latents

    monkeypatch.setattr(module, "randn_tensor", noise)
    monkeypatch.setattr(module, "retrieve_latents", mode)
    scheduler = importlib.import_module(type(pipeline.scheduler).__module__)
    if hasattr(scheduler, "randn_tensor"):
        monkeypatch.setattr(scheduler, "randn_tensor", noise)
    return pipeline(prompt="a boat", output_type="latent", image=(picture() + 1) / 2, **call).images


CASES = {
    "sd1": ("StableDiffusionImg2ImgPipeline", "ddim", 10, 0.6, 3.0),
    "sd2-v": ("StableDiffusionImg2ImgPipeline", "ddim", 10, 0.6, 3.0),
    "sd2-zero-snr": ("StableDiffusionImg2ImgPipeline", "ddim", 6, 1.0, 2.0),
    "sd-turbo": ("StableDiffusionImg2ImgPipeline", "euler", 2, 0.5, 0.0),
    "lcm": ("LatentConsistencyModelImg2ImgPipeline", "lcm", 4, 0.8, 5.0),
    "sdxl": ("StableDiffusionXLImg2ImgPipeline", "euler", 8, 0.5, 4.0),
    "sdxl-turbo": ("StableDiffusionXLImg2ImgPipeline", "euler-a", 4, 0.5, 1.0),
    "painter": ("StableDiffusionImg2ImgPipeline", "ddim", 8, 0.5, 2.0),
}


@pytest.mark.parametrize("family", CASES)
def test_latents_equal_the_pipeline_of_diffusers(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, sampler, steps, strength, scale = CASES[family]
    folder = save_family(tmp_path / "model", family)
    mine = ours(folder, sampler=sampler, steps=steps, strength=strength, guidance_scale=scale)
    parts = {} if "XL" in name else {"safety_checker": None}
    expected = theirs(
        folder, name, tuple(mine.shape), monkeypatch, parts, strength=strength, num_inference_steps=steps,
        guidance_scale=scale,
    )  # fmt: skip
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_negative_prompts_of_sdxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_family(tmp_path / "model", "sdxl")
    options = {"negative_prompt": "fog", "guidance_scale": 4.0, "strength": 0.5}
    mine = ours(folder, sampler="euler", steps=6, **options)
    expected = theirs(
        folder, "StableDiffusionXLImg2ImgPipeline", tuple(mine.shape), monkeypatch, {}, num_inference_steps=6, **options
    )
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["sd1-inpainting", "sd2-inpainting", "sdxl-inpainting"])
def test_inpainting_equals_diffusers(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_family(tmp_path / "model", family)
    mask = torch.zeros(1, 1, 48, 64)
    mask[..., 10:33, 20:51] = 1.0
    options = {"guidance_scale": 3.0, "strength": 0.6}
    xl = family.startswith("sdxl")
    mine = ours(folder, Known(picture(), mask), sampler="euler" if xl else "ddim", steps=10, **options)
    name, parts = ("StableDiffusionXLInpaintPipeline", {}) if xl else ("StableDiffusionInpaintPipeline", NO_CHECKER)
    expected = theirs(
        folder, name, tuple(mine.shape), monkeypatch, parts,
        mask_image=mask, height=48, width=64, num_inference_steps=10, **options,
    )  # fmt: skip
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_inpainting_paints_everything_where_nothing_is_known(tmp_path: Path) -> None:
    folder = save_family(tmp_path / "model", "sd1-inpainting")
    everything = Known(torch.zeros(1, 3, 48, 64), torch.ones(1, 1, 48, 64))
    assert torch.equal(ours(folder), ours(folder, everything))


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_controlnets_equal_diffusers(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    folder = save_family(tmp_path / "model", family)
    unet = load(folder).unet
    nets = [save_controlnet(tmp_path / name, unet) for name in ("one", "two")]
    options = {"guidance_scale": 3.0, "strength": 0.6}
    sampler = "euler" if family == "sdxl" else "ddim"
    mine = ours(folder, sampler=sampler, steps=6, control=(f"tile:{nets[0]}@0.7", f"tile:{nets[1]}"), **options)
    plain = ours(folder, sampler=sampler, steps=6, **options)
    assert float((mine - plain).abs().max()) > 1e-2
    networks = [diffusers.ControlNetModel.from_pretrained(net) for net in nets]
    name = "StableDiffusionControlNetImg2ImgPipeline"
    parts: dict[str, Any] = {"safety_checker": None, "controlnet": networks}
    if family == "sdxl":
        name = "StableDiffusionXLControlNetImg2ImgPipeline"
        PIPELINES[name] = "controlnet.pipeline_controlnet_sd_xl_img2img"
        parts = {"controlnet": networks}
    hint = (picture() + 1) / 2
    expected = theirs(
        folder, name, tuple(mine.shape), monkeypatch, parts, control_image=[hint, hint], num_inference_steps=6,
        controlnet_conditioning_scale=[0.7, 1.0], **options,
    )  # fmt: skip
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_rows_of_a_batch_are_the_frames_alone(tmp_path: Path) -> None:
    folder = save_family(tmp_path / "model", "sdxl")
    config = render_config(prompt="0:(a boat) 4:(a house)", sampler="euler-a", steps=4, noise="per-frame", seed=2)
    model = ImageToImage(load(folder), config, StageClock())
    start = model.encode(torch.cat([picture(), picture().flip(-1)]))
    keys = [NoiseKey(0, 1), NoiseKey(0, 3)]
    together = model.denoise(start, keys)
    alone = torch.cat([model.denoise(start[row : row + 1], key) for row, key in enumerate(keys)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
