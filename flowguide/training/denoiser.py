"""The painter's UNet and text encoder, trained together on the paths of paths.py.

Latents are (N, 8, h, w) on the autoencoder's scaled latents; the UNet predicts v.
"""

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from .data import SHARD
from .paths import PathSampler, collate
from .rollout import Rollout
from .texture import LatentTexture, PictureTexture
from .tokenizer import LENGTH, build_tokenizer

FEW_STEP_SHARES = (0.35, 0.85)  # before and in the last part of the training
LAST_PART = 0.7  # of the training: every second step is a rollout


class Painter(nn.Module):
    """UNet (5.1 M parameters) and text encoder (0.25 M) in one module."""

    def __init__(self, channels: tuple[int, int, int] = (64, 96, 112), text_width: int = 96, inputs: int = 8):
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=32,
            in_channels=inputs,
            out_channels=8,
            block_out_channels=channels,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DCrossAttn",
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=text_width,
            attention_head_dim=4,
            norm_num_groups=16,
            resnet_time_scale_shift="scale_shift",
            # pools the prompt into the time embedding, so that the style reaches every residual block
            addition_embed_type="text",
            addition_embed_type_num_heads=4,
        )
        tokenizer = build_tokenizer()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=text_width,
                intermediate_size=2 * text_width,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=LENGTH,
                projection_dim=text_width,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                attn_implementation="eager",
            )
        )
        # plain attention in both: torch's fused one takes a quarter of a CPU training step at these small sizes
        self.unet.set_attn_processor(AttnProcessor())
        nn.utils.convert_conv2d_weight_memory_format(self, torch.channels_last)

    def forward(self, noisy: Tensor, times: Tensor, tokens: Tensor) -> Tensor:
        """v for noisy latents (N, 8, h, w), timesteps (N,) and token numbers (N, 77)."""
        v: Tensor = self.unet(noisy, times, self.text_encoder(tokens)[0], return_dict=False)[0]
        return v


class PathTask:
    """loss_at for the training loop: mean squared error of v, weighted by sigma and by style.

    sigma |dv|^2 lies between the plain v loss and the loss of the clean prediction (sigma^2 |dv|^2): with a photograph
    as start, the plain one would be all about the lowest noise levels.
    """

    def __init__(
        self,
        latents: list[np.ndarray],
        autoencoder: AutoencoderTiny,
        seed: int,
        steps: int,
        batch: int,
        crop: int = 24,
    ):
        self.sampler = PathSampler(latents, seed, crop)
        self.tokenizer = build_tokenizer()
        self.steps, self.batch = steps, batch
        sampled = [np.asarray(shard[:: SHARD // 4], np.float32) for shard in latents[:8]]
        spread = torch.from_numpy(np.std(np.concatenate(sampled), axis=(0, 1, 3, 4)))
        sharpness = PictureTexture(autoencoder.decoder, autoencoder.config.scaling_factor)
        self.rollout = Rollout(self.sampler, LatentTexture(spread), sharpness, self.tokens([""]))

    def tokens(self, prompts: list[str]) -> Tensor:
        """Token numbers (N, 77)."""
        numbers: Tensor = self.tokenizer(
            prompts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
        ).input_ids
        return numbers

    def __call__(self, painter: nn.Module, step: int) -> dict[str, Tensor]:
        if step >= (1 - LAST_PART) * self.steps and step % 2:
            return self.rollout_losses(painter, step)
        return self.path_losses(painter, step)

    def rollout_losses(self, painter: nn.Module, step: int) -> dict[str, Tensor]:
        """Half a batch through all evaluations: with the empty prompt's half the UNet gets as many pictures."""
        device = next(painter.parameters()).device
        arrays, prompts = self.rollout.draw(step, self.batch // 2)
        drawn = {name: torch.from_numpy(value).to(device) for name, value in arrays.items()}
        losses = self.rollout.losses(painter, self.tokens(prompts).to(device), drawn, step)
        nothing = torch.tensor(torch.nan)
        return losses | {"clean_at_start": nothing, "clean_on_path": nothing}

    def path_losses(self, painter: nn.Module, step: int) -> dict[str, Tensor]:
        """The error of v on samples of paths.py."""
        few = FEW_STEP_SHARES[step >= (1 - LAST_PART) * self.steps]
        samples = [self.sampler.draw(step, number, few) for number in range(self.batch)]
        batch = collate(samples, self.sampler.alpha, self.sampler.sigma)
        device = next(painter.parameters()).device
        batch = {name: value.to(device) for name, value in batch.items()}
        noisy = batch["noisy"].contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            velocity = painter(noisy, batch["times"], self.tokens([sample.prompt for sample in samples]).to(device))
        errors = (velocity.float() - batch["target"]).pow(2).mean((1, 2, 3))
        first = batch["share"] == 1
        nothing = torch.tensor(torch.nan)
        clean = (batch["sigma"].pow(2) * errors).detach()
        return {
            "loss": (batch["weight"] * batch["sigma"] * errors).mean(),
            # squared error of the clean prediction: where only the photograph is seen, and further down the path
            "clean_at_start": clean[first].mean(),
            "clean_on_path": clean[~first].mean(),
            "rollout_error": nothing,
            "rollout_texture": nothing,
            "rollout_sharpness": nothing,
        }
