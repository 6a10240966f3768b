"""Checkpoints, prompts, noise, latents and the sampling loop, against diffusers' own pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_checkpoint import save_tiny_checkpoint

from flowguide.config import render_config
from flowguide.diffusion.checkpoint import find_checkpoint, load_checkpoint
from flowguide.diffusion.conditioning import Condition
from flowguide.diffusion.image_to_image import ImageToImage, NoiseKey
from flowguide.diffusion.noise import keyed_noise, normal
from flowguide.diffusion.samplers import step_table
from flowguide.diffusion.sampling import LatentGuide, sample
from flowguide.errors import ModelError, UnknownName
from flowguide.timing import StageClock

CPU = torch.device("cpu")


def picture(height: int = 48, width: int = 64) -> torch.Tensor:
    rows, columns = torch.linspace(-1, 1, height).view(-1, 1), torch.linspace(-1, 1, width).view(1, -1)
    return torch.stack([rows.expand(height, width), columns.expand(height, width), rows * columns])[None]


@pytest.mark.parametrize(("kl", "prediction_type"), [(False, "epsilon"), (True, "v_prediction")])
def test_result_equals_the_diffusers_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kl: bool, prediction_type: str
) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as theirs

    folder = save_tiny_checkpoint(tmp_path / "model", prediction_type=prediction_type, kl=kl)
    config = render_config(prompt="a boat", negative_prompt="fog", strength=0.6, steps=10, guidance_scale=3.0, seed=5)
    model = ImageToImage(load_checkpoint(str(folder), torch.float32, CPU), config, StageClock())
    source = picture()
    key = NoiseKey(shot=0, frame=3)
    ours = model.denoise(model.encode(source), key)

    noise = keyed_noise("fixed", seed=5, shot=0, frame=3, step=0, shape=tuple(ours.shape))
    monkeypatch.setattr(theirs, "randn_tensor", lambda *a, **k: noise)
    monkeypatch.setattr(
        theirs, "retrieve_latents",
        lambda coded, **k: coded.latent_dist.mode() if hasattr(coded, "latent_dist") else coded.latents,
    )  # fmt: skip
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompt="a boat", negative_prompt="fog", image=(source + 1) / 2, strength=0.6, num_inference_steps=10,
        guidance_scale=3.0, output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_zero_weight_is_no_guidance_bit_for_bit(tiny_checkpoint: Path) -> None:
    model = ImageToImage(load_checkpoint(str(tiny_checkpoint), torch.float32, CPU), render_config(), StageClock())
    start = model.encode(picture())
    nothing = LatentGuide(
        k0=torch.full_like(start, float("nan")), weights=torch.zeros(len(model.table), 1, *start.shape[2:])
    )
    assert torch.equal(model.denoise(start, NoiseKey(0, 0)), model.denoise(start, NoiseKey(0, 0), nothing))


def test_full_weight_at_every_step_ends_at_the_guide() -> None:
    table = step_table("ddim", {"prediction_type": "epsilon", "set_alpha_to_one": True}, 8, 0.5)
    k0 = torch.randn(1, 4, 6, 7)
    result = sample(
        lambda x, t, e: torch.tanh(x), table, torch.randn_like(k0), lambda step: torch.randn_like(k0),
        cond=Condition(torch.zeros(1, 1, 1)), guide=LatentGuide(k0, torch.ones(len(table), 1, 6, 7)),
    )  # fmt: skip
    torch.testing.assert_close(result, k0, rtol=1e-5, atol=1e-5)


def test_guidance_acts_after_cfg_so_its_weight_is_not_scaled() -> None:
    """A lerp of weight w on the conditional branch alone would act as guidance_scale·w."""
    table = step_table("ddim", {"prediction_type": "sample", "set_alpha_to_one": True}, 1, 1.0)
    k0, weight = torch.ones(1, 1, 4, 4), 0.25
    predict = lambda x, t, e: torch.cat([torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.2)])  # noqa: E731
    result = sample(
        predict, table, torch.zeros(1, 1, 4, 4), lambda step: torch.zeros(1, 1, 4, 4),
        cond=Condition(torch.zeros(1, 1, 1)), uncond=Condition(torch.zeros(1, 1, 1)), guidance_scale=3.0,
        guide=LatentGuide(k0, torch.full((1, 1, 4, 4), weight)),
    )  # fmt: skip
    torch.testing.assert_close(result, torch.full_like(result, 0.6 + weight * (1.0 - 0.6)))


def test_noise_is_a_function_of_its_key_alone() -> None:
    shape = (1, 4, 16, 16)
    again = [normal(3, 1, 7, 2, shape) for _ in range(2)]
    assert torch.equal(again[0], again[1])
    others = [
        normal(4, 1, 7, 2, shape),
        normal(3, 2, 7, 2, shape),
        normal(3, 1, 8, 2, shape),
        normal(3, 1, 7, 3, shape),
    ]
    for other in others:
        assert abs(float((again[0] * other).mean())) < 0.1
    fixed = [keyed_noise("fixed", seed=1, shot=0, frame=f, step=0, shape=shape) for f in (0, 1)]
    fresh = [keyed_noise("per-frame", seed=1, shot=0, frame=f, step=0, shape=shape) for f in (0, 1)]
    assert torch.equal(*fixed)
    assert not torch.equal(*fresh)
    assert torch.equal(normal(3, 1, 7, 2, (4, 8))[:2], normal(3, 1, 7, 2, (2, 8))), "a cell's value has its own counter"


def test_noise_is_unit_gaussian_and_white() -> None:
    drawn = torch.stack([normal(11, 2, frame, 0, (4, 64, 64)) for frame in range(16)]).double()
    assert abs(float(drawn.mean())) < 0.01
    assert abs(float(drawn.var()) - 1.0) < 0.02
    assert abs(float((drawn**4).mean()) - 3.0) < 0.1
    for across in ((drawn[..., 1:] * drawn[..., :-1]), (drawn[..., 1:, :] * drawn[..., :-1, :])):
        assert abs(float(across.mean())) < 0.02


def remove(part: str) -> object:
    return lambda folder: shutil.rmtree(folder / part)


def without_prediction_type(folder: Path) -> None:
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    del config["prediction_type"]
    path.write_text(json.dumps(config))


def corrupt_weights(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")


def pickled_weights(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (remove("unet"), "lacks unet"),
        (remove("tokenizer"), "lacks tokenizer"),
        (lambda folder: (folder / "model_index.json").unlink(), "no model_index.json"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "could not be read"),
        (without_prediction_type, "no prediction_type"),
        (corrupt_weights, "unet .* could not be loaded"),
        (pickled_weights, "pickle, which can run any code"),
    ],
)
def test_damaged_checkpoints_say_what_is_wrong(tiny_checkpoint: Path, tmp_path: Path, damage, says: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, folder)
    damage(folder)
    with pytest.raises(ModelError, match=says) as caught:
        load_checkpoint(str(folder), torch.float32, CPU)
    assert "\n" not in str(caught.value)


def test_unknown_model_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'painter'"):
        find_checkpoint("paynter")
    with pytest.raises(ModelError, match="does not exist"):
        find_checkpoint(str(tmp_path / "absent"))
