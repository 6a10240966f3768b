"""The painter through every runtime of a CPU against eager PyTorch in float32.

    python benchmarks/runtimes.py [--size 512] [--rounds 7] [--threads 1]

A frame is encode, 4 evaluations under classifier-free guidance (8 steps at strength 0.5) and decode; flow guidance is
off, the prompt encoded once. All sides run by turns in one process; CPU seconds count, since a shared machine disturbs
wall time. `eager` calls diffusers' own modules; `torch` is the default runtime, with layers laid out for this CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from results import write_result

from flowguide.config import render_config
from flowguide.diffusion.checkpoint import load_checkpoint
from flowguide.diffusion.image_to_image import ImageToImage, NoiseKey
from flowguide.diffusion.runtimes import Runtimes
from flowguide.timing import StageClock

CPU = torch.device("cpu")
SIDES = [
    ("eager", torch.float32), ("eager", torch.bfloat16), ("torch", torch.float32), ("torch", torch.bfloat16),
    ("onnx", torch.float32), ("openvino", torch.float32), ("openvino", torch.bfloat16),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    source = torch.nn.functional.interpolate(torch.rand(1, 3, 24, 24), (chosen.size, chosen.size), mode="bicubic")
    source = source.clamp(0, 1) * 2 - 1
    frames = {side: painter(*side, source) for side in SIDES}
    pictures = {side: frame() for side, frame in frames.items()}
    took: dict[tuple[str, torch.dtype], list[float]] = {side: [] for side in SIDES}
    for _ in range(chosen.rounds):
        for side, frame in frames.items():
            began = time.process_time()
            frame()
            took[side].append(time.process_time() - began)
    rows = []
    for side, seconds in took.items():
        ratios = [base / own for base, own in zip(took[SIDES[0]], seconds, strict=True)]
        quartiles = statistics.quantiles(ratios)
        away = float((pictures[side] - pictures[SIDES[0]]).abs().mean() * 127.5)
        rows.append({
            "runtime": side[0], "dtype": str(side[1]).removeprefix("torch."), "best_cpu_seconds": min(seconds),
            "speed_over_eager_float32": quartiles[1], "spread": [quartiles[0], quartiles[2]],
            "mean_difference_of_255": away,
        })  # fmt: skip
        print(rows[-1])
    write_result(Path("benchmarks/results/runtimes-cpu.json"), rows, size=chosen.size, rounds=chosen.rounds)


def painter(runtime: str, dtype: torch.dtype, source: torch.Tensor) -> Callable[[], torch.Tensor]:
    settings: dict[str, Any] = {"steps": 8, "strength": 0.5, "guidance_scale": 2.0}
    config = render_config(runtime="torch" if runtime == "eager" else runtime, **settings)
    checkpoint = load_checkpoint("painter", dtype, CPU, config)
    if runtime == "eager":
        checkpoint.use(Runtimes("torch", CPU, dtype))
    model = ImageToImage(checkpoint, config, StageClock())
    return lambda: model.decode(model.denoise(model.encode(source), NoiseKey(0, 0))).clone()


if __name__ == "__main__":
    main()
