"""The painter's autoencoder: diffusers' AutoencoderTiny, 8 latent channels, 8 x 8 pixels per cell, started from a PCA.

From the usual random start it stays at 17-18 dB for minutes; from the PCA of 8 x 8 patches it never gets stuck.
Pictures are float in -1..1, (N, 3, H, W); latents are (N, 8, H / 8, W / 8).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from .data import SHARD, SIZE, load_shard

CROP = 96
PHOTO_SHARE = 0.5
FINE_SHARE = 0.4  # last part of the training, in which photographs count by their PSNR
# diffusers clamps latents to 3 tanh(z / 3) in the decoder: stay well inside it
LATENT_SPREAD = 0.75
# std of the scaled latents against the noise; above 1 keeps more of the picture at a given strength
# ("input scaling", Chen 2023, arXiv:2301.10972)
SIGNAL_STD = 2.4


def build_autoencoder() -> AutoencoderTiny:
    """The architecture with random weights; 0.57 M parameters. The encoder is linear."""
    return AutoencoderTiny(
        latent_channels=8,
        encoder_block_out_channels=(48,) * 4,
        num_encoder_blocks=(0, 0, 0, 0),
        decoder_block_out_channels=(48,) * 4,
        num_decoder_blocks=(3, 2, 2, 0),
    )


def to_signal(pictures: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def initialise_from_pca(autoencoder: AutoencoderTiny, pictures: Tensor) -> None:
    """Set the encoder to the first 8 principal components of the pictures' 8 x 8 patches and a decoder that begins
    with the mean colour of each cell, smoothly enlarged. Pictures (N, 3, H, W) in -1..1, H and W multiples of 8."""
    generator = torch.Generator().manual_seed(0)
    convolutions = [layer for layer in autoencoder.encoder.layers if isinstance(layer, nn.Conv2d)]
    first, halve_1, halve_2, halve_3, last = convolutions
    for layer in convolutions:
        layer.weight.copy_(0.003 * torch.randn(layer.weight.shape, generator=generator))
        if layer.bias is not None:
            layer.bias.zero_()
    for channel in range(3):
        first.weight[channel, channel, 1, 1] = 1
    for layer, count in ((halve_1, 3), (halve_2, 12)):
        for tap in range(4):
            for channel in range(count):
                # a stride-2 3 x 3 kernel reads its own 2 x 2 block with its last two rows and columns
                layer.weight[tap * count + channel, channel, 1 + tap // 2, 1 + tap % 2] = 1
    features = halve_2(halve_1(first((pictures + 1) / 2)))
    patches = F.unfold(features, 2, stride=2).movedim(1, 2).reshape(-1, 4 * 48).double()
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    order = values.argsort(descending=True)[:48]
    halve_3.weight.zero_()
    halve_3.weight[:, :, 1:, 1:] = vectors[:, order].T.reshape(48, 48, 2, 2).float()
    spread = values[order][:8].sqrt().float()
    # flatter than the data, so that no channel drowns in the noise, but the mean colour stays strongest
    gains = 1.5 * LATENT_SPREAD * (spread / spread[0]) ** 0.3 / spread
    means = (patches.mean(0) @ vectors[:, order[:8]]).float()
    last.weight.mul_(0.1)
    last.weight[torch.arange(8), torch.arange(8), 1, 1] = gains
    assert last.bias is not None
    last.bias.copy_(-gains * means)
    _initialise_decoder(autoencoder, pictures, generator)


def _initialise_decoder(autoencoder: AutoencoderTiny, pictures: Tensor, generator: torch.Generator) -> None:
    latents = 3 * torch.tanh(autoencoder.encoder(pictures) / 3)
    columns = latents.movedim(1, 3).reshape(-1, 8)
    colours = F.avg_pool2d((pictures + 1) / 2, 8).movedim(1, 3).reshape(-1, 3)
    affine = torch.linalg.lstsq(torch.cat([columns, torch.ones(len(columns), 1)], 1), colours).solution
    layers = autoencoder.decoder.layers
    first = layers[0]
    first.weight.mul_(0.3)
    first.weight[:3] = 0
    first.weight[:3, :, 1, 1] = affine[:8].T
    first.bias[:3] = affine[8]
    for channel in range(8):
        # each latent twice, once negated: a ReLU follows
        for sign, row in ((1, 3 + channel), (-1, 11 + channel)):
            first.weight[row] = 0
            first.weight[row, channel, 1, 1] = sign
    tent = torch.tensor([1.0, 2.0, 1.0]) / 4
    for layer in layers[1:]:
        if isinstance(layer, nn.Conv2d):
            kernel = torch.outer(tent, tent) if layer.out_channels > 3 else torch.zeros(3, 3)
            kernel[1, 1] += layer.out_channels == 3
            layer.weight[:3].mul_(0.05)
            for channel in range(3):
                layer.weight[channel, channel] = kernel
        elif hasattr(layer, "conv"):
            layer.conv[-1].weight.mul_(0.05)
            layer.conv[-1].bias.mul_(0.05)


def reconstruction_losses(
    autoencoder: AutoencoderTiny, pictures: Tensor, noise: Tensor, by_psnr: Tensor
) -> dict[str, Tensor]:
    """L1 of pixels and of their differences; a weak pull to zero-mean latents of fixed spread.

    noise (N, 8, h, w) is added to the latents, so that small errors of the denoiser stay small in the picture. Pictures
    that by_psnr (N,) marks count mostly by the logarithm of their squared error, which is their PSNR: the squared error
    itself would be about the few hardest.
    """
    latents = autoencoder.encoder(pictures)
    restored = autoencoder.decoder(latents + noise)
    error = restored.float() - pictures
    pixels = error.abs().mean((1, 2, 3))
    gradients = error.diff(dim=2).abs().mean((1, 2, 3)) + error.diff(dim=3).abs().mean((1, 2, 3))
    means = F.avg_pool2d(error, 4).abs().mean((1, 2, 3))
    squared = error.pow(2).mean((1, 2, 3))
    plain = pixels + 0.5 * gradients + 0.5 * means
    latents = latents.float()
    drift = latents.mean((0, 2, 3)).pow(2).mean() + (latents.std() - LATENT_SPREAD).pow(2)
    losses = torch.where(by_psnr, 0.1 * plain + 0.03 * torch.log(squared + 1e-5), plain)
    return {
        "loss": losses.mean() + 0.02 * drift,
        "pixels": pixels.detach().mean(),
        "psnr": -10 * torch.log10(squared.detach().mean() / 4),
    }


class ReconstructionTask:
    """loss_at for the training loop: batches of random crops, half of them photographs, the rest stylised."""

    def __init__(self, work: Path, shards: int, seed: int, steps: int, batch: int = 8):
        self.shards = [load_shard(work, number) for number in range(shards)]
        self.seed, self.steps, self.batch = seed, steps, batch

    def __call__(self, autoencoder: nn.Module, step: int) -> dict[str, Tensor]:
        generator = np.random.default_rng((self.seed, 1, step))
        device = next(autoencoder.parameters()).device
        crops = [self.crop(generator) for _ in range(self.batch)]
        pictures = to_signal(np.stack([crop for crop, _ in crops])).to(device)
        fine = step >= (1 - FINE_SHARE) * self.steps
        by_psnr = torch.tensor([fine and kind == 0 for _, kind in crops], device=device)
        size = (self.batch, 8, CROP // 8, CROP // 8)
        noise = torch.from_numpy(0.03 * generator.standard_normal(size, dtype=np.float32)).to(device)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            return reconstruction_losses(autoencoder, pictures, noise, by_psnr)

    def crop(self, generator: np.random.Generator) -> tuple[np.ndarray, int]:
        """One uint8 crop (96, 96, 3) and its kind, 0 for a photograph."""
        shard = self.shards[generator.integers(len(self.shards))]
        kind = 0 if generator.random() < PHOTO_SHARE else int(generator.integers(1, shard.shape[1]))
        top, left = generator.integers(SIZE - CROP + 1, size=2)
        return shard[generator.integers(SHARD), kind, top : top + CROP, left : left + CROP], kind

    def pictures(self, count: int) -> Tensor:
        """A fixed mixed set for the PCA, (count, 3, 96, 96)."""
        generator = np.random.default_rng((self.seed, 0))
        return to_signal(np.stack([self.crop(generator)[0] for _ in range(count)]))


@torch.no_grad()
def encode_squares(autoencoder: AutoencoderTiny, squares: np.ndarray) -> np.ndarray:
    """Scaled latents of a shard: uint8 (N, 5, H, W, 3) to float16 (N, 5, 8, H / 8, W / 8)."""
    device = next(autoencoder.parameters()).device
    latents = [autoencoder.encoder(to_signal(group).to(device)) for group in squares]
    scaled: Tensor = torch.stack(latents) * autoencoder.config.scaling_factor
    return scaled.cpu().numpy().astype(np.float16)


@torch.no_grad()
def fix_scaling_factor(autoencoder: AutoencoderTiny, pictures: Tensor) -> float:
    """Set and return the factor that brings the latents of the pictures to SIGNAL_STD."""
    factor: float = round(SIGNAL_STD / autoencoder.encoder(pictures).std().item(), 4)
    autoencoder.register_to_config(scaling_factor=factor)
    autoencoder.scaling_factor = factor
    return factor
