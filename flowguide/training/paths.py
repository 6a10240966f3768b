"""Training samples along the path that image-to-image sampling really takes, from a photograph to its painted twin.

Notation: x_t = alpha_t z + sigma_t eps (variance preserving), v = alpha_t eps - sigma_t z, r_t = sigma_t / alpha_t.
The sampler starts at t1 from the photograph's latent p. If the network answers with the painted latent q, a DDIM step
to t keeps the share r_t / r_t1 of the start:

    x_t = alpha_t ((1 - lam) q + lam p) + sigma_t eps,    lam = r_t / r_t1.

The network is asked for q everywhere on that path: v* = (alpha_t x_t - q) / sigma_t. With p = q this is the usual v.
Both twins were laid out by the same eps (see stylise), so a few steps are enough. Part of the samples takes
another eps, as far as the painting is visible in x_t: then the network follows what it sees, as it must when a warped
previous frame guides it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from .data import SHARD, SIZE, square_noise
from .stylise import CELL, STYLES
from .tokenizer import random_prompt, random_subject

KINDS = ("photo", *STYLES)
KIND_SHARES = (0.15, 0.18, 0.13, 0.19, 0.35)
# strokes and washes change the latents less than hatching and tiles do
KIND_WEIGHTS = (2.0, 2.5, 1.0, 1.5, 3.0)
FREE_NOISE_SHARE = 0.35
VISIBLE = 0.75  # largest lam at which the painting can be recognised under the noise


def build_scheduler() -> DDIMScheduler:
    """The painter's noise schedule, Stable Diffusion's, with v-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        # only the spacing "leading" looks at it; diffusers warns of 0
        steps_offset=1,
    )


def noise_levels() -> tuple[Tensor, Tensor]:
    """alpha_t and sigma_t for t = 0..999, float32."""
    cumulative = build_scheduler().alphas_cumprod.double()
    return cumulative.sqrt().float(), (1 - cumulative).sqrt().float()


def few_step_grid() -> list[tuple[int, int]]:
    """Pairs (first timestep, timestep) that 6 to 12 steps at strengths .4 to .6 visit, trailing and leading."""
    pairs = []
    for spacing in ("trailing", "leading"):
        scheduler = DDIMScheduler.from_config(build_scheduler().config, timestep_spacing=spacing)
        for steps in (6, 8, 10, 12):
            scheduler.set_timesteps(steps)
            times = scheduler.timesteps.tolist()
            for strength in (0.4, 0.5, 0.6):
                visited = times[steps - int(steps * strength) :]
                pairs += [(visited[0], time) for time in visited]
    return pairs


def target_velocity(noisy: Tensor, wanted: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """v* = (alpha x - q) / sigma: the velocity at x whose clean prediction is q; the shapes broadcast."""
    return (alpha * noisy - wanted) / sigma


@dataclass
class Sample:
    """What one training crop needs: latents (8, n, n) float32, the timestep, the share of the start, prompt, weight;
    and where it comes from."""

    start: np.ndarray
    wanted: np.ndarray
    noise: np.ndarray
    time: int
    share: float
    prompt: str
    weight: float
    index: int
    """Number of the square."""
    kind: int
    """Of the wanted picture, in KINDS."""
    window: tuple[slice, slice, slice]
    """Of the crop in the square's latents."""


class PathSampler:
    """Draws training samples; everything about sample i of step n comes from (seed, n, i).

    latents are memory maps, one per shard: float16 (128, 5, 8, 32, 32).
    """

    def __init__(
        self, latents: list[np.ndarray], seed: int, crop: int = 24, free_noise_share: float = FREE_NOISE_SHARE
    ):
        self.latents, self.seed, self.crop, self.free_noise_share = latents, seed, crop, free_noise_share
        self.alpha, self.sigma = noise_levels()
        self.ratio = (self.sigma / self.alpha).numpy()
        self.grid = few_step_grid()

    def draw(self, step: int, number: int, few_step_share: float) -> Sample:
        """Sample number of a step; few_step_share of the styled samples lie on the few-step grid."""
        generator = np.random.default_rng((self.seed, 2, step, number))
        index, kind, window = self.choose(generator)
        twins = self.latents[index // SHARD][index % SHARD]
        free = generator.standard_normal((8, self.crop, self.crop), dtype=np.float32)
        start, wanted = twins[0][window].astype(np.float32), twins[kind][window].astype(np.float32)
        if kind == 0:
            time = int(generator.integers(10, 1000) if generator.random() < 0.15 else generator.integers(10, 640))
            prompt = self.photo_prompt(generator)
            return Sample(start, wanted, free, time, 1.0, prompt, KIND_WEIGHTS[0], index, kind, window)
        time, share = self.place_on_path(generator, few_step_share)
        laid_out = share > VISIBLE or generator.random() > self.free_noise_share
        noise = square_noise(self.seed, index, kind - 1)[window] if laid_out else free
        unprompted = share <= VISIBLE and generator.random() < 0.15
        prompt = "" if unprompted else random_prompt(KINDS[kind], generator)
        return Sample(start, wanted, noise, time, share, prompt, KIND_WEIGHTS[kind], index, kind, window)

    def choose(self, generator: np.random.Generator) -> tuple[int, int, tuple[slice, slice, slice]]:
        """Number of a square, kind of picture, and the window of a crop in its latents."""
        index = int(generator.integers(len(self.latents) * SHARD))
        kind = int(generator.choice(len(KINDS), p=KIND_SHARES))
        top, left = generator.integers(SIZE // CELL - self.crop + 1, size=2)
        return index, kind, (slice(None), slice(top, top + self.crop), slice(left, left + self.crop))

    def draw_pair(self, step: int, number: int) -> Sample:
        """Sample number of a rollout step, at the start of a path: a photograph and what it should become."""
        generator = np.random.default_rng((self.seed, 3, step, number))
        index, kind, window = self.choose(generator)
        twins = self.latents[index // SHARD][index % SHARD]
        if kind:
            noise = square_noise(self.seed, index, kind - 1)[window]
        else:
            noise = generator.standard_normal((8, self.crop, self.crop), dtype=np.float32)
        start, wanted = (twins[k][window].astype(np.float32) for k in (0, kind))
        prompt = random_prompt(KINDS[kind], generator)
        return Sample(start, wanted, noise, 0, 1.0, prompt, KIND_WEIGHTS[kind], index, kind, window)

    def place_on_path(self, generator: np.random.Generator, few_step_share: float) -> tuple[int, float]:
        """A timestep and the share lam of the photograph that is left there."""
        if generator.random() < few_step_share:
            first, time = self.grid[generator.integers(len(self.grid))]
        elif generator.random() < 0.08:
            return int(generator.integers(10, 1000)), 0.0
        else:
            high = generator.random() < 0.12
            first = int(generator.integers(700, 1000) if high else generator.integers(250, 700))
            time = first if generator.random() < 0.4 else int(generator.integers(10, first + 1))
        share = float(self.ratio[time] / self.ratio[first])
        if share < 1 and generator.random() < 0.5:
            # classifier-free guidance overshoots: less of the start is left than the formula says
            share *= generator.uniform(0.3, 1.0)
        return time, share

    def photo_prompt(self, generator: np.random.Generator) -> str:
        """An empty prompt in 45 % of the cases, a photo prompt in 35 %, a bare subject in 20 %."""
        choice = generator.random()
        if choice < 0.45:
            return ""
        return random_prompt("photo", generator) if choice < 0.8 else random_subject(generator)


def collate(samples: list[Sample], alpha: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    """Batch of samples: noisy latents, target velocities (N, 8, n, n), timesteps, shares, sigmas and weights (N,)."""
    start, wanted, noise = (
        torch.from_numpy(np.stack([getattr(sample, name) for sample in samples]))
        for name in ("start", "wanted", "noise")
    )
    times = torch.tensor([sample.time for sample in samples])
    share = torch.tensor([sample.share for sample in samples])
    a, s, lam = (values[:, None, None, None] for values in (alpha[times], sigma[times], share))
    noisy = a * ((1 - lam) * wanted + lam * start) + s * noise
    return {
        "noisy": noisy,
        "target": target_velocity(noisy, wanted, a, s),
        "times": times,
        "share": share,
        "sigma": sigma[times],
        "weight": torch.tensor([sample.weight for sample in samples]),
    }
