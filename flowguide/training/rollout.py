"""The few-step stage: the painter is trained on what it makes of a photograph in four evaluations with guidance.

The earlier evaluations run without gradients, the last one is trained. Where a stroke or tile lies is not certain from
a noisy photograph, so squared error alone averages layouts to a blur. How much texture lies in a window is certain, and
is matched to that of the painted twin (texture.py).
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .paths import PathSampler, build_scheduler
from .texture import PATCH, LatentTexture, PictureTexture

LOW_CELLS = 4  # wider than a tile
DEFAULT_SHARE = 0.6  # of the rollouts at strength .5, 8 steps
SCALES = (1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0)
ERROR_WEIGHT, LOW_WEIGHT, LATENT_WEIGHT = 0.1, 1.0, 1.0
# by kind; a watercolour's rims are its hardest part, and a photograph has no layout to invent
PICTURE_WEIGHTS = (0.0, 4.0, 4.0, 4.0, 12.0)


def rollout_times(generator: np.random.Generator) -> list[int]:
    """Timesteps that image-to-image sampling visits: mostly strength .5 with 8 steps, else .4 to .6 with 6 to 10."""
    steps, strength = 8, 0.5
    if generator.random() > DEFAULT_SHARE:
        steps, strength = int(generator.integers(6, 11)), float(generator.uniform(0.4, 0.6))
    scheduler = build_scheduler()
    scheduler.set_timesteps(steps)
    times: list[int] = scheduler.timesteps.tolist()[steps - int(steps * strength) :]
    return times


class Rollout:
    """Draws photographs with their painted twins, samples up to the last evaluation and returns its losses."""

    def __init__(
        self, sampler: PathSampler, latent_texture: LatentTexture, picture_texture: PictureTexture, unprompted: Tensor
    ):
        self.sampler, self.unprompted = sampler, unprompted
        self.latent_texture, self.picture_texture = latent_texture, picture_texture

    def losses(self, painter: nn.Module, tokens: Tensor, drawn: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Mean losses of n samples. drawn: start, wanted, noise (n, 8, h, w), weight and kind (n,); tokens (n, 77)."""
        generator = np.random.default_rng((self.sampler.seed, 4, step))
        times, scale = rollout_times(generator), SCALES[generator.integers(len(SCALES))]
        both = torch.cat([tokens, self.unprompted.to(tokens.device).expand(len(tokens), -1)])
        alpha, sigma = (values.to(tokens.device) for values in (self.sampler.alpha, self.sampler.sigma))
        noisy = alpha[times[0]] * drawn["start"] + sigma[times[0]] * drawn["noise"]
        with torch.no_grad():
            for now, following in itertools.pairwise(times):
                velocity = guided_velocity(painter, noisy, now, both, scale)
                clean = alpha[now] * noisy - sigma[now] * velocity
                noise = alpha[now] * velocity + sigma[now] * noisy
                noisy = alpha[following] * clean + sigma[following] * noise
        last = times[-1]
        answer = alpha[last] * noisy - sigma[last] * guided_velocity(painter, noisy, last, both, scale)
        errors = (answer - drawn["wanted"]).pow(2).mean((1, 2, 3))
        low = F.avg_pool2d(answer - drawn["wanted"], LOW_CELLS).pow(2).mean((1, 2, 3))
        corner = tuple(int(at) for at in generator.integers(self.sampler.crop - PATCH + 1, size=2))
        in_latents = self.latent_texture(answer, drawn["wanted"])
        in_pictures = self.picture_texture(answer, drawn["wanted"], (corner[0], corner[1]))
        sharpness = in_pictures.new_tensor(PICTURE_WEIGHTS)[drawn["kind"]]
        loss = ERROR_WEIGHT * errors + LOW_WEIGHT * low + LATENT_WEIGHT * in_latents + sharpness * in_pictures
        loss = torch.where(drawn["kind"] == 0, errors, loss)
        return {
            "loss": (drawn["weight"] * loss).mean(),
            "rollout_error": errors.mean().detach(),
            "rollout_texture": in_latents.mean().detach(),
            "rollout_sharpness": in_pictures.mean().detach(),
        }

    def draw(self, step: int, count: int) -> tuple[dict[str, np.ndarray], list[str]]:
        """Arrays start, wanted, noise (count, 8, n, n), weight and kind (count,), and the prompts."""
        drawn = [self.sampler.draw_pair(step, number) for number in range(count)]
        arrays = {name: np.stack([getattr(s, name) for s in drawn]) for name in ("start", "wanted", "noise")}
        arrays["weight"] = np.array([sample.weight for sample in drawn], np.float32)
        arrays["kind"] = np.array([sample.kind for sample in drawn])
        return arrays, [sample.prompt for sample in drawn]


def guided_velocity(painter: nn.Module, noisy: Tensor, time: int, both: Tensor, scale: float) -> Tensor:
    """v with classifier-free guidance, float32; both holds the prompts' tokens, then the empty prompt's. Gradients go
    through the prompted half alone: the other half would learn to be worse."""
    twice = torch.cat([noisy, noisy]).contiguous(memory_format=torch.channels_last)
    times = torch.full((len(twice),), time, device=noisy.device)
    with torch.autocast(noisy.device.type, torch.bfloat16):
        prompted, unprompted = painter(twice, times, both).float().chunk(2)
    unprompted = unprompted.detach()
    velocity: Tensor = unprompted + scale * (prompted - unprompted)
    return velocity
