"""Time per frame against diffusers' own pipeline, and what each sampler makes of few steps.

    python benchmarks/diffusion.py speed                      the bundled painter
    python benchmarks/diffusion.py speed --sd15 --size 384    the Stable Diffusion 1.5 configuration, random weights
    python benchmarks/diffusion.py samplers PICTURE           distance to 50-step DDIM; with --sheet they are written

Both sides of `speed` run by turns in one process with the same weights, dtype, channels-last memory, threads and a
prompt encoded once; flow guidance is off. The best of the rounds counts, in CPU seconds too, since a shared machine
disturbs wall time; beside it stand the median of the rounds' own ratios and their quartiles.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import write_result

from flowguide.config import render_config
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.diffusion.image_to_image import ImageToImage, NoiseKey
from flowguide.diffusion.model_folders import BUNDLED
from flowguide.diffusion.published import LAYOUTS
from flowguide.diffusion.samplers import SAMPLERS
from flowguide.diffusion.single_file import write_layout
from flowguide.timing import StageClock

CPU = torch.device("cpu")
RESULTS = Path("benchmarks/results")
KEY = NoiseKey(shot=0, frame=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    questions = parser.add_subparsers(dest="question", required=True)
    speed = questions.add_parser("speed")
    speed.add_argument("--sd15", action="store_true", help="random weights of the Stable Diffusion 1.5 configuration")
    speed.add_argument("--size", type=int, default=512, help="side of the square picture")
    speed.add_argument("--steps", type=int, default=8)
    speed.add_argument("--rounds", type=int, default=5)
    speed.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    speed.set_defaults(run=speed_rows)
    samplers = questions.add_parser("samplers")
    samplers.add_argument("picture", type=Path)
    samplers.add_argument("--size", type=int, default=384, help="height of the picture")
    samplers.add_argument("--sheet", type=Path, default=None, help="picture file for all results side by side")
    samplers.set_defaults(run=sampler_rows)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")
    rows, name, settings = chosen.run(chosen)
    write_result(RESULTS / f"{name}.json", rows, settings=settings)


def speed_rows(chosen: argparse.Namespace) -> tuple[list[dict[str, Any]], str, dict[str, Any]]:
    settings = {"steps": chosen.steps, "strength": 0.5, "guidance_scale": 2.0, "size": chosen.size}
    settings["dtype"] = chosen.dtype
    with tempfile.TemporaryDirectory() as scratch:
        folder = random_sd15(Path(scratch)) if chosen.sd15 else BUNDLED["painter"]
        source = torch.rand(1, 3, chosen.size, chosen.size) * 2 - 1
        sides = {"flowguide": ours(folder, settings, source), "diffusers": theirs(folder, settings, source)}
    timed: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for frame in sides.values():
        frame()
    for _, (side, frame) in itertools.product(range(chosen.rounds), sides.items()):
        wall, cpu = time.perf_counter(), time.process_time()
        frame()
        timed[side].append((time.perf_counter() - wall, time.process_time() - cpu))
    rows: list[dict[str, Any]] = [
        {"side": side, "wall_seconds": min(wall for wall, _ in took), "cpu_seconds": min(cpu for _, cpu in took)}
        for side, took in timed.items()
    ]
    ratios = {f"{clock}_ratio": rows[0][f"{clock}_seconds"] / rows[1][f"{clock}_seconds"] for clock in ("wall", "cpu")}
    by_round = [mine[1] / other[1] for mine, other in zip(timed["flowguide"], timed["diffusers"], strict=True)]
    quartiles = dict(zip(("lower_quartile", "median", "upper_quartile"), statistics.quantiles(by_round), strict=True))
    rows.append({"side": "flowguide / diffusers", **ratios, "cpu_ratio_by_round": quartiles})
    for row in rows:
        print(row)
    name = f"diffusion-speed-{'sd15' if chosen.sd15 else 'painter'}-{chosen.dtype}"
    return rows, name, {**settings, "rounds": chosen.rounds}


def ours(folder: Path, settings: dict[str, Any], source: torch.Tensor) -> Callable[[], torch.Tensor]:
    checkpoint = load_checkpoint(str(folder), getattr(torch, settings["dtype"]), CPU)
    model = engine(checkpoint, **{key: settings[key] for key in ("steps", "strength", "guidance_scale")})
    return lambda: (model.decode(model.denoise(model.encode(source), KEY)) + 1) / 2


def engine(checkpoint: Checkpoint, **options: Any) -> ImageToImage:
    return ImageToImage(checkpoint, render_config(prompt="oil painting", **options), StageClock())


def theirs(folder: Path, settings: dict[str, Any], source: torch.Tensor) -> Callable[[], torch.Tensor]:
    from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline

    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
        folder, safety_checker=None, local_files_only=True, torch_dtype=getattr(torch, settings["dtype"])
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    for network in (pipeline.unet, pipeline.vae):
        network.to(memory_format=torch.channels_last)
    with torch.no_grad():
        cond, uncond = pipeline.encode_prompt("oil painting", "cpu", 1, True, "")

    def frame() -> torch.Tensor:
        result: torch.Tensor = pipeline(
            prompt_embeds=cond, negative_prompt_embeds=uncond, image=(source + 1) / 2, output_type="pt",
            num_inference_steps=settings["steps"], strength=settings["strength"],
            guidance_scale=settings["guidance_scale"],
        ).images  # fmt: skip
        return result

    return frame


def random_sd15(folder: Path) -> Path:
    """A checkpoint folder of full size with random weights."""
    import diffusers
    import transformers

    layout = LAYOUTS["Stable Diffusion 1"]
    write_layout("Stable Diffusion 1", folder)
    diffusers.UNet2DConditionModel.from_config(layout["unet"]).save_pretrained(folder / "unet")
    diffusers.AutoencoderKL.from_config(layout["vae"]).save_pretrained(folder / "vae")
    config = transformers.CLIPTextConfig(**layout["text_encoder"])
    transformers.CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    return folder


def sampler_rows(chosen: argparse.Namespace) -> tuple[list[dict[str, Any]], str, dict[str, Any]]:
    settings = {"strength": 0.6, "guidance_scale": 2.0, "seed": 0, "height": chosen.size}
    checkpoint = load_checkpoint("painter", torch.float32, CPU)
    source = read_picture(chosen.picture, chosen.size, checkpoint.grid)

    def painted(sampler: str, steps: int) -> torch.Tensor:
        model = engine(checkpoint, sampler=sampler, steps=steps, strength=0.6, guidance_scale=2.0)
        return model.decode(model.denoise(model.encode(source), KEY))[0]

    reference = painted("ddim", 50)
    rows, pictures = [], [source[0], reference]
    for sampler in (name for name in SAMPLERS if name != "flow-match-euler"):
        for steps in (4, 8, 20):
            picture = painted(sampler, steps)
            mean = float((picture - reference).abs().mean() * 127.5)
            rows.append({"sampler": sampler, "steps": steps, "mean_difference_of_255": mean})
            print(rows[-1])
            pictures.append(picture)
    if chosen.sheet is not None:
        write_sheet(pictures, chosen.sheet)
    return rows, "diffusion-samplers", settings


def read_picture(file: Path, height: int, grid: int) -> torch.Tensor:
    """[1, 3, H, W] in [-1, 1], sides multiples of `grid`."""
    from PIL import Image

    with Image.open(file) as opened:
        size = [max(1, round(side * height / opened.height / grid)) * grid for side in opened.size]
        picture = np.asarray(opened.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS))
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1.0


def write_sheet(pictures: list[torch.Tensor], file: Path) -> None:
    """Source and reference first, then one row per sampler."""
    from PIL import Image

    height, width = pictures[0].shape[1:]
    rows = -(-len(pictures[2:]) // 3) + 1
    sheet = Image.new("RGB", (3 * width, rows * height))
    for number, picture in enumerate([*pictures[:2], None, *pictures[2:]]):
        if picture is not None:
            eight_bit = ((picture.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
            sheet.paste(Image.fromarray(eight_bit), (number % 3 * width, number // 3 * height))
    sheet.save(file)


if __name__ == "__main__":
    main()
