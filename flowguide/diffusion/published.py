"""The published configurations of the families, for single files, which hold weights alone.

Values are those of the repositories' own config.json files, as far as they differ from the defaults of the classes.
"""

from __future__ import annotations

from typing import Any

_BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}

_VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}

_UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}

_CLIP_L = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}

# One layer fewer than OpenCLIP's 24: Stable Diffusion 2 uses the last but one.
_OPENCLIP_H = {**_CLIP_L, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
               "num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 512}  # fmt: skip
_OPENCLIP_G = {**_CLIP_L, "architectures": ["CLIPTextModelWithProjection"], "hidden_size": 1280,
               "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20, "hidden_act": "gelu",
               "projection_dim": 1280}  # fmt: skip

_SD1: dict[str, Any] = {
    "pipeline": "StableDiffusionImg2ImgPipeline",
    "unet": _UNET,
    "vae": _VAE,
    "text_encoder": _CLIP_L,
    "scheduler": {"_class_name": "DDIMScheduler", **_BETAS, "prediction_type": "epsilon"},
    "padding": {"tokenizer": "<|endoftext|>"},
}

_SD2: dict[str, Any] = {
    **_SD1,
    "unet": {**_UNET, "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
             "use_linear_projection": True, "upcast_attention": True},
    "vae": {**_VAE, "sample_size": 768},
    "text_encoder": _OPENCLIP_H,
    "scheduler": {"_class_name": "DDIMScheduler", **_BETAS, "prediction_type": "v_prediction"},
    "padding": {"tokenizer": "!"},
}  # fmt: skip

_SDXL: dict[str, Any] = {
    "pipeline": "StableDiffusionXLImg2ImgPipeline",
    "unet": {
        **_UNET,
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025},
    "text_encoder": _CLIP_L,
    "text_encoder_2": _OPENCLIP_G,
    "scheduler": {"_class_name": "EulerDiscreteScheduler", **_BETAS, "prediction_type": "epsilon",
                  "timestep_spacing": "leading"},
    "padding": {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"},
}  # fmt: skip


def _inpainting(base: dict[str, Any]) -> dict[str, Any]:
    return {**base, "unet": {**base["unet"], "in_channels": 9}}


LAYOUTS: dict[str, dict[str, Any]] = {
    "Stable Diffusion 1": _SD1,
    "Stable Diffusion 1 inpainting": _inpainting(_SD1),
    "Stable Diffusion 2": _SD2,
    "Stable Diffusion 2 inpainting": _inpainting(_SD2),
    "Stable Diffusion XL": _SDXL,
    "Stable Diffusion XL inpainting": _inpainting(_SDXL),
}
"""Family -> configuration of every part; `padding` is each tokenizer's padding token."""
