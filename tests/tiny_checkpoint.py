"""Checkpoints small enough for tests: the real classes at the smallest width, random weights, published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

FAMILIES = (
    "sd1", "sd2-v", "sd2-zero-snr", "sd-turbo", "lcm", "sdxl", "sdxl-turbo", "sd1-inpainting", "sd2-inpainting",
    "sdxl-inpainting", "painter"
)  # fmt: skip
"""What `save_family` makes, each after the published configuration at the smallest width."""

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _tokenizer_files(folder: Path) -> None:
    """A byte-level vocabulary without merges, in CLIP's format."""
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def tiny_tokenizer(folder: Path, **options: Any) -> Any:
    from transformers import CLIPTokenizer

    if not folder.exists():
        _tokenizer_files(folder)
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77, **options)


def tiny_text_encoder(tokenizer: Any, *, projection: bool = False, width: int = 16) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=2 if projection else 1,
        num_attention_heads=2, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        projection_dim=width if projection else 12,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def tiny_unet(**changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    settings = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 16, "attention_head_dim": 4,
        "norm_num_groups": 4,
    }  # fmt: skip
    return UNet2DConditionModel(**{**settings, **changes})


def tiny_vae(*, kl: bool, latent_channels: int = 4) -> Any:
    from diffusers import AutoencoderKL, AutoencoderTiny

    if kl:
        return AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=latent_channels, norm_num_groups=4,
        )  # fmt: skip
    return AutoencoderTiny(
        latent_channels=latent_channels, encoder_block_out_channels=(8,) * 4, num_encoder_blocks=(0, 0, 0, 0),
        decoder_block_out_channels=(8,) * 4, num_decoder_blocks=(1, 1, 1, 0),
    )  # fmt: skip


def save_tiny_checkpoint(
    folder: Path, *, prediction_type: str = "epsilon", kl: bool = False, latent_channels: int = 4
) -> Path:
    """Write it to `folder` and return that. Weights depend on nothing but the arguments."""
    from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        tokenizer = tiny_tokenizer(folder.with_name(folder.name + "-tokenizer"))
        text = tiny_text_encoder(tokenizer)
        unet = tiny_unet(in_channels=latent_channels, out_channels=latent_channels)
        vae = tiny_vae(kl=kl, latent_channels=latent_channels)
    scheduler = DDIMScheduler(
        **BETAS, clip_sample=False, steps_offset=1, set_alpha_to_one=False, prediction_type=prediction_type
    )
    StableDiffusionImg2ImgPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_family(folder: Path, family: str) -> Path:
    """A checkpoint of one of FAMILIES in diffusers layout."""
    import diffusers

    schedulers = {
        "sd2-v": diffusers.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                                         prediction_type="v_prediction"),
        "sd2-zero-snr": diffusers.DDIMScheduler(**BETAS, clip_sample=False, prediction_type="v_prediction",
                                                rescale_betas_zero_snr=True, timestep_spacing="trailing",
                                                steps_offset=1),
        "sd-turbo": diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing", steps_offset=1),
        "sdxl": diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
        "sdxl-turbo": diffusers.EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing", steps_offset=1),
        "lcm": diffusers.LCMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=True, steps_offset=1),
        "painter": diffusers.DDIMScheduler(**BETAS, clip_sample=False, prediction_type="v_prediction",
                                           steps_offset=1, timestep_spacing="trailing"),
    }  # fmt: skip
    plain = diffusers.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    changes: dict[str, Any] = {
        "sd2-v": {"use_linear_projection": True, "attention_head_dim": (2, 4)},
        "sd2-zero-snr": {"use_linear_projection": True, "attention_head_dim": (2, 4)},
        "sd-turbo": {"use_linear_projection": True, "attention_head_dim": (2, 4)},
        "lcm": {"time_cond_proj_dim": 8},
        "sd1-inpainting": {"in_channels": 9},
        "sd2-inpainting": {"in_channels": 9, "use_linear_projection": True, "attention_head_dim": (2, 4)},
        "painter": {"in_channels": 8, "out_channels": 8, "addition_embed_type": "text",
                    "addition_embed_type_num_heads": 4, "resnet_time_scale_shift": "scale_shift"},
    }.get(family, {})  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        if family.startswith("sdxl"):
            return _save_sdxl(folder, schedulers[family.removesuffix("-inpainting")], 9 if "inp" in family else 4)
        tokenizer = tiny_tokenizer(folder.with_name(folder.name + "-tokenizer"))
        parts = {
            "text_encoder": tiny_text_encoder(tokenizer), "tokenizer": tokenizer, "unet": tiny_unet(**changes),
            "vae": tiny_vae(kl=family != "painter", latent_channels=8 if family == "painter" else 4),
            "scheduler": schedulers.get(family, plain),
        }  # fmt: skip
    diffusers.StableDiffusionImg2ImgPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    ).save_pretrained(folder)
    return folder


def _save_sdxl(folder: Path, scheduler: Any, channels: int) -> Path:
    import diffusers

    files = folder.with_name(folder.name + "-tokenizer")
    tokenizer, tokenizer_2 = tiny_tokenizer(files), tiny_tokenizer(files, pad_token="!")
    unet = tiny_unet(
        in_channels=channels, cross_attention_dim=36, attention_head_dim=(2, 4), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 20,
        transformer_layers_per_block=(1, 2),
    )  # fmt: skip
    diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=tiny_vae(kl=True), unet=unet, scheduler=scheduler, tokenizer=tokenizer, tokenizer_2=tokenizer_2,
        text_encoder=tiny_text_encoder(tokenizer, projection=False),
        text_encoder_2=tiny_text_encoder(tokenizer, projection=True, width=20),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_controlnet(folder: Path, unet: Any) -> Path:
    """A ControlNet for `unet` whose outputs are not zero."""
    from diffusers import ControlNetModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(13)
        network = ControlNetModel.from_unet(unet)
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    network.save_pretrained(folder)
    return folder
