"""The painter's inpainting sibling: the same UNet with 2C + 1 input channels, which paints holes and keeps the rest.

Input channels in diffusers' order: noisy latents (8), mask (1 where it paints), latents of the painted picture with
zeros in the holes (8). It begins as the painter, blind to the nine new channels, and is trained on the same paths; the
holes look as a moved picture leaves them: strips along edges of the picture content and of the frame, and blobs.
"""

import time
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from ..errors import UsageError
from .autoencoder import to_signal
from .data import SHARD, load_shard
from .denoiser import Painter, PathTask
from .export import export_inpainter, load_weights
from .loop import Schedule, TrainingLoop
from .paths import PathSampler, Sample, collate
from .stylise import CELL

INPUTS = 17
FREE_NOISE_SHARE = 0.5
WHOLE, NONE = 0.1, 0.08  # of the samples: all is hole, nothing is
HOLE_WEIGHT = 3.0  # of the error in holes, against 1 outside them


def build_inpainter(painter: Painter) -> Painter:
    """The painter with nine more input channels whose weights are zero: it answers as before."""
    inpainter = Painter(inputs=INPUTS)
    weights = painter.state_dict()
    first = weights["unet.conv_in.weight"]
    weights["unet.conv_in.weight"] = torch.cat([first, first.new_zeros(len(first), INPUTS - 8, 3, 3)], 1)
    inpainter.load_state_dict(weights)
    # the sibling shares the text encoder
    inpainter.text_encoder.requires_grad_(False)
    return inpainter


def holes(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A mask (H, W) for a picture uint8 (H, W, 3): float32, 1 in the holes."""
    height, width = picture.shape[:2]
    choice = generator.random()
    if choice < WHOLE + NONE:
        return np.full((height, width), float(choice < WHOLE), np.float32)
    mask = np.zeros((height, width), np.uint8)
    if generator.random() < 0.7:
        mask |= edge_strips(picture, generator)
    if generator.random() < 0.5:
        side, depth = generator.integers(4), int(generator.integers(4, 64))
        rows = (slice(None, depth), slice(-depth, None), slice(None), slice(None))[side]
        columns = (slice(None), slice(None), slice(None, depth), slice(-depth, None))[side]
        mask[rows, columns] = 1
    for _ in range(generator.integers(0, 3)):
        centre = (int(generator.integers(width)), int(generator.integers(height)))
        axes = (int(generator.integers(4, 48)), int(generator.integers(4, 48)))
        cv2.ellipse(mask, centre, axes, float(generator.uniform(0, 180)), 0, 360, 1, -1)
    return mask.astype(np.float32)


def edge_strips(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Strips beside strong edges on one side, as a moving foreground uncovers them; uint8 (H, W) of 0 and 1."""
    grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), 3)
    edges = cv2.Canny(grey, 20, 50) > 0
    reach = int(generator.integers(3, 20))
    angle = generator.uniform(0, 2 * np.pi)
    strip = np.zeros_like(edges)
    for step in range(reach):
        shift = np.array([[1, 0, step * np.cos(angle)], [0, 1, step * np.sin(angle)]], np.float32)
        moved = cv2.warpAffine(edges.astype(np.uint8), shift, edges.shape[::-1], flags=cv2.INTER_NEAREST)
        strip |= moved > 0
    # a few regions of the picture, not every edge of it
    regions = cv2.resize(generator.random((3, 3)).astype(np.float32), edges.shape[::-1], interpolation=cv2.INTER_CUBIC)
    chosen: np.ndarray = (strip & (regions > 0.5)).astype(np.uint8)
    return chosen


class HolesTask(PathTask):
    """loss_at for the training loop: the painter's paths with a mask and the painted picture around the holes."""

    def __init__(
        self,
        latents: list[np.ndarray],
        work: Path,
        autoencoder: AutoencoderTiny,
        seed: int,
        steps: int,
        batch: int,
        crop: int = 24,
    ):
        super().__init__(latents, autoencoder, seed, steps, batch, crop)
        self.sampler = PathSampler(latents, seed, crop, free_noise_share=FREE_NOISE_SHARE)
        self.squares = [load_shard(work, number) for number in range(len(latents))]
        self.autoencoder = autoencoder

    @torch.no_grad()
    def known(self, samples: list[Sample], step: int) -> Tensor:
        """Mask and masked latents (N, 9, n, n)."""
        masks, pictures = [], []
        for number, sample in enumerate(samples):
            generator = np.random.default_rng((self.sampler.seed, 5, step, number))
            _, rows, columns = (slice(CELL * (cells.start or 0), CELL * (cells.stop or 0)) for cells in sample.window)
            twins = self.squares[sample.index // SHARD][sample.index % SHARD, :, rows, columns]
            picture, mask = twins[sample.kind], holes(np.ascontiguousarray(twins[0]), generator)
            masks.append(mask[None])
            pictures.append(picture)
        mask_px = torch.from_numpy(np.stack(masks))
        latents = self.autoencoder.encoder(to_signal(np.stack(pictures)) * (1 - mask_px))
        cells = nn.functional.interpolate(mask_px, scale_factor=1 / CELL)
        return torch.cat([cells, latents * self.autoencoder.config.scaling_factor], 1)

    def __call__(self, painter: nn.Module, step: int) -> dict[str, Tensor]:
        samples = [self.sampler.draw(step, number, 0.6) for number in range(self.batch)]
        batch = collate(samples, self.sampler.alpha, self.sampler.sigma) | {"known": self.known(samples, step)}
        device = next(painter.parameters()).device
        batch = {name: value.to(device) for name, value in batch.items()}
        noisy = torch.cat([batch["noisy"], batch["known"]], 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            velocity = painter(noisy, batch["times"], self.tokens([sample.prompt for sample in samples]).to(device))
        squared = (velocity.float() - batch["target"]).pow(2)
        mask = batch["known"][:, :1]
        weight = (batch["weight"] * batch["sigma"])[:, None, None, None] * (1 + (HOLE_WEIGHT - 1) * mask)
        clean = (batch["sigma"].pow(2)[:, None, None, None] * squared).detach().mean(1, keepdim=True)
        return {
            "loss": (weight * squared).mean(),
            "clean_in_holes": (clean * mask).sum() / mask.sum().clamp(min=1),
            "clean_outside": (clean * (1 - mask)).sum() / (1 - mask).sum().clamp(min=1),
        }


def train_inpainter(
    painter: Path, work: Path, to: Path, minutes: float, *, steps: int, batch: int = 16, compiled: bool = False
) -> bool:
    """Train the sibling of an exported painter for some minutes and write its UNet; True when the training is complete.

    work: the folder of the painter's training, with squares and latents. Stops and goes on as that one does. Raises
    UsageError without latents.
    """
    deadline = time.monotonic() + 60 * minutes
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    latents = [np.load(path, mmap_mode="r") for path in sorted((work / "latents").glob("*.npy"))]
    if not latents:
        raise UsageError(f"{work} holds no latents; train the painter there first (flowguide training train).")
    parent = Painter()
    load_weights(parent, painter)
    inpainter = build_inpainter(parent).to(device)
    if compiled:
        inpainter.unet.compile(dynamic=False)
    autoencoder = AutoencoderTiny.from_pretrained(painter / "vae", dtype=torch.float32)
    task = HolesTask(latents, work, autoencoder, 1, steps, batch)
    schedule = Schedule(steps, 6e-4, warm_up=100, decay_share=0.5)
    loop = TrainingLoop(inpainter, task, schedule, work / "inpainter", betas=(0.9, 0.99), average=0.995)
    finished = loop.run(deadline)
    export_inpainter(loop.averaged_model().cpu().unet, to)
    return finished
