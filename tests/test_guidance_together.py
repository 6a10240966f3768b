"""Frames that are denoised together: the pull is one step down the smoothness energy."""

from __future__ import annotations

import torch
from torch import Tensor

from flowguide import ops
from flowguide.diffusion.conditioning import Condition
from flowguide.diffusion.samplers import step_table
from flowguide.diffusion.sampling import LatentGuide, sample
from flowguide.guidance.paths import Path
from flowguide.guidance.together import Mutual, seen_cells

FRAMES, SIZE = 5, (12, 16)
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
             "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "epsilon",
             "_class_name": "DDIMScheduler"}  # fmt: skip


def still(trust: float = 1.0, steps: int = 1, fixed: int = 0) -> Mutual:
    """Frames between which nothing moves, all trusted alike."""
    trusts = torch.full((FRAMES, FRAMES + fixed, *SIZE), trust)
    trusts[range(FRAMES), range(FRAMES)] = 0.0
    flows = torch.zeros(FRAMES, FRAMES + fixed, 2, *SIZE)
    return Mutual(flows, trusts, torch.ones(steps, FRAMES, *SIZE), torch.zeros(fixed, 4, *SIZE))


def pulled(mutual: Mutual, x0: Tensor) -> Tensor:
    k0, weight = mutual(0, x0)
    return x0 + weight[:, None] * (k0 - x0)


def test_frames_that_agree_stay() -> None:
    x0 = torch.rand(1, 4, *SIZE).expand(FRAMES, -1, -1, -1).contiguous()
    torch.testing.assert_close(pulled(still(), x0), x0)


def test_what_is_even_is_agreed_upon_in_one_step() -> None:
    """A full pull to the mean of the others would overshoot, and two frames would change places for ever."""
    x0 = torch.arange(float(FRAMES)).view(-1, 1, 1, 1).expand(-1, 4, *SIZE).contiguous()
    torch.testing.assert_close(pulled(still(), x0), torch.full_like(x0, 2.0))
    two = Mutual(
        torch.zeros(2, 2, 2, *SIZE), 1.0 - torch.eye(2)[..., None, None].expand(-1, -1, *SIZE), torch.ones(1, 2, *SIZE),
        torch.zeros(0, 4, *SIZE),
    )  # fmt: skip
    torch.testing.assert_close(pulled(two, x0[:2]), torch.full_like(x0[:2], 0.5))


def test_the_energy_falls_and_detail_stays() -> None:
    x0 = torch.randn(FRAMES, 4, *SIZE)
    after = pulled(still(), x0)

    def energy(x: Tensor) -> float:
        return float((x[:, None] - x[None]).square().sum() / 2 + (x - x0).square().sum())

    assert energy(after) < 0.85 * energy(x0)
    lost = after.var() / x0.var()
    assert 0.6 < float(lost) < 1.0, "the finest detail of each frame is its own"


def test_doubt_is_no_pull() -> None:
    x0 = torch.randn(FRAMES, 4, *SIZE)
    _, weight = still(trust=0.0)(0, x0)
    assert not weight.any()


def test_finished_frames_pull_and_are_not_pulled() -> None:
    mutual = still(fixed=2)
    x0 = torch.ones(FRAMES, 4, *SIZE)
    torch.testing.assert_close(pulled(mutual, x0), torch.full_like(x0, 5 / 7))


def test_a_known_motion_is_followed_by_whole_cells() -> None:
    """Content moves by 8 px, one cell, a frame: after the pull the frames agree along the motion."""
    height, width = (side * 8 for side in SIZE)
    wide = torch.nn.functional.avg_pool2d(torch.randn(1, 4, SIZE[0], SIZE[1] + FRAMES), 5, 1, 2)[0]
    picture = torch.rand(3, height, width + 8 * FRAMES) * 2 - 1
    sources = [picture[:, :, 8 * i : 8 * i + width] for i in range(FRAMES)]
    x0 = torch.stack([wide[:, :, i : i + SIZE[1]] + 0.3 * (i - 2) for i in range(FRAMES)])
    flows, trusts = torch.zeros(FRAMES, FRAMES, 2, *SIZE), torch.zeros(FRAMES, FRAMES, *SIZE)
    for i in range(FRAMES):
        for j in range(FRAMES):
            if i != j:
                uv = torch.zeros(2, height, width)
                uv[0] = 8.0 * (i - j)
                inside = (torch.arange(width) + uv[0] >= 0) & (torch.arange(width) + uv[0] < width)
                path = Path(uv, inside.float())
                flows[i, j], trusts[i, j] = seen_cells(path, sources[i], sources[j], 8)
    assert torch.equal(trusts[0, 2][:, :2], torch.zeros(SIZE[0], 2)), "what is out of the frame pulls nothing"
    after = pulled(Mutual(flows, trusts, torch.ones(1, FRAMES, *SIZE), torch.zeros(0, 4, *SIZE)), x0)
    inner = [after[i][:, 2:-2, 8 - i : 12 - i] for i in range(FRAMES)]
    before = [x0[i][:, 2:-2, 8 - i : 12 - i] for i in range(FRAMES)]
    assert float(torch.stack(inner).std(0).mean()) < 0.1 * float(torch.stack(before).std(0).mean())


def exact(spread: float):
    """The exact ε-denoiser of data drawn from N(0, spread²), for a table's σ = σ/α."""

    def predict(latents: Tensor, timestep: float, condition: Condition) -> Tensor:
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alpha_bar = float(torch.cumprod(1 - betas, 0)[int(timestep)])
        sigma = (1 - alpha_bar) ** 0.5
        return latents * sigma / (alpha_bar * spread**2 + sigma**2)

    return predict


def test_an_exact_denoiser_paints_frames_that_agree() -> None:
    """Frames of one still scene under other noise each: together they end nearer to each other, as spread as alone."""
    table = step_table("ddim", SCHEDULER, 20, 0.9, 0.0)
    start = torch.zeros(FRAMES, 4, *SIZE)
    noise = torch.randn(FRAMES, 4, *SIZE)
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1, 1) * 3.0
    told = {"noise": lambda number: smooth, "cond": Condition(torch.zeros(1, 1, 1))}
    mutual = still(steps=len(table))
    base = torch.tensor(table.share, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, FRAMES, *SIZE)
    mutual = Mutual(mutual.flows, mutual.trusts, base, mutual.fixed)
    alone = sample(exact(1.0), table, start, **told)
    together = sample(exact(1.0), table, start, **told, guide=mutual)
    assert float(together.std(0).mean()) < 0.6 * float(alone.std(0).mean())
    torch.testing.assert_close(together.mean(0), alone.mean(0), atol=0.25, rtol=0.1)


def test_a_pull_by_step_is_the_guide_it_returns() -> None:
    table = step_table("ddim", SCHEDULER, 8, 0.5, 0.0)
    start, k0, weights = torch.randn(2, 4, *SIZE), torch.randn(2, 4, *SIZE), torch.rand(len(table), 2, *SIZE)
    noise = torch.randn(2, 4, *SIZE)
    told = {"noise": lambda number: noise, "cond": Condition(torch.zeros(1, 1, 1))}
    seen = []

    def pull(step: int, x0: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(x0)
        return k0, weights[step]

    ours = sample(exact(1.0), table, start, **told, guide=pull)
    theirs = sample(exact(1.0), table, start, **told, guide=LatentGuide(k0, weights, erode=False))
    assert torch.equal(ours, theirs)
    assert len(seen) == len(table)
    first = ops.guided_step(
        table.s_z * start + table.s_n * noise,
        exact(1.0)(table.s_z * start + table.s_n * noise, table.timestep[0], told["cond"]),
        table.row(0, 1.0),
    )[1]
    torch.testing.assert_close(seen[0], first, atol=1e-5, rtol=0)
