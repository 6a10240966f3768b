"""A checkpoint small enough for tests: the real classes at the smallest width, random weights, published layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch


def _tokenizer_files(folder: Path) -> None:
    """A byte-level vocabulary without merges, in CLIP's format."""
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def save_tiny_checkpoint(
    folder: Path, *, prediction_type: str = "epsilon", kl: bool = False, latent_channels: int = 4
) -> Path:
    """Write it to `folder` and return that. Weights depend on nothing but the arguments."""
    from diffusers import (
        AutoencoderKL,
        AutoencoderTiny,
        DDIMScheduler,
        StableDiffusionImg2ImgPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        _tokenizer_files(folder.with_name(folder.name + "-tokenizer"))
        tokenizer = CLIPTokenizer.from_pretrained(folder.with_name(folder.name + "-tokenizer"), model_max_length=77)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                num_attention_heads=2, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            )
        )  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=latent_channels, out_channels=latent_channels, block_out_channels=(8, 16),
            layers_per_block=1, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, attention_head_dim=4,
            norm_num_groups=4,
        )  # fmt: skip
        if kl:
            vae = AutoencoderKL(
                block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=latent_channels, norm_num_groups=4,
            )  # fmt: skip
        else:
            vae = AutoencoderTiny(
                latent_channels=latent_channels, encoder_block_out_channels=(8,) * 4, num_encoder_blocks=(0, 0, 0, 0),
                decoder_block_out_channels=(8,) * 4, num_decoder_blocks=(1, 1, 1, 0),
            )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
        set_alpha_to_one=False, prediction_type=prediction_type,
    )  # fmt: skip
    StableDiffusionImg2ImgPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder
