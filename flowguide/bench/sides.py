"""One side of the comparison: a clip from file to file by flowguide or by a peer, in a process of its own.

    python -m flowguide.bench.sides < request.json

Every side reads and writes with the same reader, writer and codec, has the same model, dtype, threads and steps, its
memory laid out channels-last and its prompt encoded once. What it prints last is its result as one line of JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..config import RenderConfig, render_config
from ..diffusion.checkpoint import load_checkpoint
from ..diffusion.model_folders import find_model
from ..errors import FlowguideError, UsageError
from ..machine import choose_device, choose_dtype, choose_threads, keep_freed_memory
from ..pictures import padded
from ..runs.clip import render
from ..runs.opened import open_clip, output_codec
from ..runs.request import Request
from ..runs.used import memory_bytes
from ..timing import MODEL_STAGES, StageClock
from ..types import Frame
from ..video import ClipWriter
from .arithmetic import matmul_tflops, unet_flop

WARM_FRAMES = 3
OURS = ("flowguide", "flowguide, unguided")
DIFFUSERS, COMPILED, STREAMING = "diffusers loop", "diffusers loop, torch.compile", "streaming batch"
CODEC_STAGES = ("read", "write", "journal")
FLOW_STAGES = ("flow", "cuts")


class Ran(NamedTuple):
    """What a side did of one clip."""

    began: float
    ended: float
    stamps: list[float]
    """When each frame was finished."""
    stages: dict[str, float]


def main() -> None:
    request = json.load(sys.stdin)
    try:
        result = measured(request)
    except (FlowguideError, RuntimeError, ImportError, MemoryError) as error:
        result = {"reason": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    print(json.dumps(result))


def measured(request: dict[str, Any]) -> dict[str, Any]:
    """Run the side that `request` names: clip, output, settings, side."""
    config = render_config(request["settings"])
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, device)
    torch.set_num_threads(choose_threads(config.threads))
    name, clip, output = request["side"], Path(request["clip"]), Path(request["output"])
    keep_freed_memory()
    side = ours(name, config, device, dtype) if name in OURS else peer(name, config, device, dtype)
    with tempfile.TemporaryDirectory() as folder:
        side.paint(clip, Path(folder) / output.name, min(WARM_FRAMES, config.max_frames or WARM_FRAMES))
    ran = side.paint(clip, output, config.max_frames)
    memory = memory_bytes(device)  # before anything that only counts
    return {
        **told(ran, _flop(side, config, clip)),
        "memory_bytes": memory,
        "dtype": str(dtype).removeprefix("torch."),
        "matmul_tflops": matmul_tflops(device, dtype),
        "threads": torch.get_num_threads(),
    }


def told(ran: Ran, flop_per_frame: float) -> dict[str, Any]:
    """Rates and shares of what ran; the first frame, which opens engines, has a number of its own."""
    frames = len(ran.stamps)
    took = [after - before for before, after in zip(ran.stamps, ran.stamps[1:], strict=False)]
    further = ran.ended - ran.stamps[0]
    ordered = sorted(took)
    per_frame = {stage: seconds / frames for stage, seconds in ran.stages.items()}
    model = sum(per_frame.get(stage, 0.0) for stage in MODEL_STAGES)
    whole = further / max(1, frames - 1)
    unet = per_frame.get("unet", 0.0)
    return {
        "frames": frames,
        "fps": (frames - 1) / further if took else None,
        "p50_ms": 1000 * statistics.median(ordered) if ordered else None,
        "p99_ms": 1000 * ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))] if ordered else None,
        "first_frame_seconds": ran.stamps[0] - ran.began,
        "seconds": ran.ended - ran.began,
        "stage_ms": {stage: 1000 * seconds for stage, seconds in sorted(per_frame.items())},
        "outside_model": 1 - model / whole if model and took else None,
        "outside_model_flow_codec": 1 - sum(
            per_frame.get(stage, 0.0) for stage in (*MODEL_STAGES, *FLOW_STAGES, *CODEC_STAGES)
        ) / whole if model and took else None,
        "unet_tflops": flop_per_frame / unet / 1e12 if unet else None,
    }  # fmt: skip


class Side(NamedTuple):
    """Something that paints clips, and what its UNet is."""

    paint: Callable[[Path, Path, int | None], Ran]
    """(clip, output, most frames) -> what was done."""
    unet: Mapping[str, Any]
    """Its configuration."""
    cell: int
    """Pixels along a latent cell."""
    text: tuple[int, int]
    """(tokens, width) of the prompt."""


def ours(name: str, config: RenderConfig, device: torch.device, dtype: torch.dtype) -> Side:
    """flowguide's own `render`, journal and all; the model stays loaded between two calls."""
    checkpoint = load_checkpoint(config.model, dtype, device, config)

    def paint(clip: Path, output: Path, frames: int | None) -> Ran:
        stamps: list[float] = []
        began = [0.0]

        def start(_: object) -> None:
            began[0] = time.perf_counter()

        report = render(
            clip, output, config=config, checkpoint=checkpoint, request=Request(overwrite=True),
            max_frames=frames, guidance=config.guidance and name == OURS[0], audio=False, on_start=start,
            on_frame=lambda _: stamps.append(time.perf_counter()),
        )  # fmt: skip
        return Ran(began[0], time.perf_counter(), stamps, report.stage_seconds)

    tokens, width = checkpoint.prompts(config.prompt, 1).text.shape[1:]
    return Side(paint, checkpoint.unet.config, checkpoint.autoencoder.cell, (tokens, width))


def peer(name: str, config: RenderConfig, device: torch.device, dtype: torch.dtype) -> Side:
    """The plain loop over frames that a user of diffusers writes."""
    from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline

    folder = find_model("checkpoint", config.model, config.model_folders)
    if not folder.is_dir():
        raise UsageError("diffusers' loop is measured with models in folders of its layout.")
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(
        folder, safety_checker=None, local_files_only=True, torch_dtype=dtype
    ).to(device)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    for network in (pipeline.unet, pipeline.vae):
        network.to(memory_format=torch.channels_last)
    clock = StageClock()
    if name == COMPILED:
        pipeline.unet.forward = torch.compile(pipeline.unet.forward, dynamic=False)
        pipeline.vae.decoder.forward = torch.compile(pipeline.vae.decoder.forward, dynamic=False)
    if device.type == "cpu":  # a GPU's calls return before they are done, so their time stands in the whole alone
        pipeline.unet.forward = _timed(pipeline.unet.forward, clock, "unet")
        pipeline.vae.encode = _timed(pipeline.vae.encode, clock, "encode")
        pipeline.vae.decode = _timed(pipeline.vae.decode, clock, "decode")
    with torch.no_grad():
        cond, uncond = pipeline.encode_prompt(config.prompt, device, 1, config.guidance_scale > 1, "")
    one = _streamed(pipeline, config, cond, uncond, device, dtype) if name == STREAMING else None

    def picture(source: Tensor) -> Tensor:
        if one is not None:
            return one(source)
        made: Tensor = pipeline(
            prompt_embeds=cond, negative_prompt_embeds=uncond, image=(source + 1) / 2, output_type="pt",
            num_inference_steps=config.steps, strength=config.strength, guidance_scale=config.guidance_scale,
        ).images  # fmt: skip
        return made.float() * 2 - 1

    def paint(clip: Path, output: Path, frames: int | None) -> Ran:
        clock.seconds.clear()
        return _looped(picture, clock, config, clip, output, frames, device)

    return Side(paint, pipeline.unet.config, pipeline.vae_scale_factor, (cond.shape[1], cond.shape[2]))


def _looped(
    picture: Callable[[Tensor], Tensor],
    clock: StageClock,
    config: RenderConfig,
    clip: Path,
    output: Path,
    frames: int | None,
    device: torch.device,
) -> Ran:
    stamps: list[float] = []
    part = config.model_copy(update={"max_frames": frames})
    began = time.perf_counter()
    with open_clip(clip, part) as reader:
        info = reader.info
        codec = output_codec(output, config)
        with ClipWriter(
            output, size=info.size, time_base=info.time_base, frame_rate=info.frame_rate, codec=codec
        ) as writer:
            for frame in _read(reader, clock):
                height, width = frame.size
                source = ops.to_model(padded(frame, 8).rgb[None].to(device))
                made = picture(source)[:, :, :height, :width].contiguous()
                with clock("write"):
                    rgb = ops.from_model(made)
                    assert isinstance(rgb, Tensor)
                    writer.write(Frame(rgb[0], frame.index, frame.pts, frame.time_base))
                stamps.append(time.perf_counter())
    return Ran(began, time.perf_counter(), stamps, dict(clock.seconds))


def _read(reader: Any, clock: StageClock) -> Iterator[Frame]:
    while True:
        with clock("read"):
            frame = next(reader, None)
        if frame is None:
            return
        yield frame


def _streamed(
    pipeline: Any, config: RenderConfig, cond: Tensor, uncond: Tensor | None, device: torch.device, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    from .streaming import StreamBatch

    pipeline.scheduler.set_timesteps(config.steps)
    kept = max(1, int(config.steps * config.strength))
    steps = [int(step) for step in pipeline.scheduler.timesteps[-kept:]]
    scale = pipeline.vae.config.scaling_factor
    batch: list[StreamBatch] = []

    def network(latents: Tensor, timesteps: Tensor, with_prompt: bool) -> Tensor:
        text = cond if with_prompt or uncond is None else uncond
        rows = text.expand(len(latents), -1, -1)
        made: Tensor = pipeline.unet(latents, timesteps, encoder_hidden_states=rows, return_dict=False)[0]
        return made

    @torch.inference_mode()
    def picture(source: Tensor) -> Tensor:
        coded = pipeline.vae.encode(source.to(dtype))
        latent = (coded.latents if hasattr(coded, "latents") else coded.latent_dist.mode()) * scale
        if not batch:
            batch.append(StreamBatch(network, pipeline.scheduler.alphas_cumprod, steps, shape=tuple(latent.shape),
                                     guidance_scale=config.guidance_scale, device=device, dtype=dtype))  # fmt: skip
        made: Tensor = pipeline.vae.decode(batch[0](latent) / scale, return_dict=False)[0]
        return made.float().clamp(-1, 1)

    return picture


def _timed(function: Callable[..., Any], clock: StageClock, stage: str) -> Callable[..., Any]:
    def timed(*given: Any, **named: Any) -> Any:
        with clock(stage):
            return function(*given, **named)

    return timed


def _flop(side: Side, config: RenderConfig, clip: Path) -> float:
    """Operations of the UNet for one frame: as many rows and steps as the settings say."""
    with open_clip(clip, config) as reader:
        height, width = (-(-extent // side.cell) for extent in reader.info.size)
    rows = 2 if config.guidance_scale > 1 else 1
    steps = max(1, min(config.steps, int(config.steps * config.strength)))
    return steps * unet_flop(side.unet, rows, (height, width), side.text)


if __name__ == "__main__":
    main()
