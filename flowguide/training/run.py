"""The whole training of the painter: squares, autoencoder, latents, denoiser, export. Stops and goes on anywhere."""

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny

from .autoencoder import ReconstructionTask, build_autoencoder, encode_squares, fix_scaling_factor, initialise_from_pca
from .data import load_shard, prepare_squares
from .denoiser import Painter, PathTask
from .export import export_painter, load_weights
from .loop import Schedule, TrainingLoop

BUNDLED = Path(__file__).parents[1] / "assets" / "painter"


@dataclass(frozen=True)
class TrainingSettings:
    """Sizes of a run. The defaults suit one CPU core; for_this_machine() enlarges the batches on a GPU."""

    seed: int = 1
    shards: int = 40  # of 128 squares
    processes: int = 1  # that render squares
    autoencoder_steps: int = 8000
    autoencoder_shards: int = 8
    autoencoder_batch: int = 8
    denoiser_steps: int = 14000
    denoiser_batch: int = 16
    denoiser_rate: float = 1e-3
    crop: int = 24  # latent cells
    compiled: bool = False

    @classmethod
    def for_this_machine(cls, **changes: int) -> "TrainingSettings":
        """Settings for the GPU where there is one, else for the CPU; changes win."""
        large = cls(autoencoder_batch=64, denoiser_batch=256, crop=32, compiled=True, processes=8)
        return cls(**(asdict(large if torch.cuda.is_available() else cls()) | changes))


def train_painter(
    data: Path,
    work: Path,
    minutes: float = float("inf"),
    *,
    resume: bool = False,
    settings: TrainingSettings | None = None,
) -> bool:
    """Train for some minutes, or to the end; the same call goes on from the last checkpoint in the work folder.

    data holds photos/, paintings/ and clips/; held-out names in it are ignored. work gets squares (5 GB), latents,
    checkpoints, logs (JSON lines) and the exported model (work/painter). With resume, a work folder that has no
    checkpoint yet begins from the bundled weights instead of from noise, with fresh optimiser moments and a warm-up.
    On a CPU it uses one thread and is bit-reproducible from the seed. Returns True when the training is complete.
    Raises UsageError where data lacks a kind of picture.
    """
    deadline = time.monotonic() + 60 * minutes
    settings = settings or TrainingSettings.for_this_machine()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepare_squares(data, work, settings.seed, settings.shards, settings.processes)
    autoencoder = train_autoencoder(work, settings, device, deadline, BUNDLED if resume else None)
    if autoencoder is None:
        return False
    latents = prepare_latents(autoencoder, work, settings)
    loop = denoiser_loop(latents, autoencoder, work, settings, device, BUNDLED if resume else None)
    finished = loop.run(deadline)
    export_painter(autoencoder.cpu(), loop.averaged_model().cpu(), work / "painter")
    return finished


def train_autoencoder(
    work: Path, settings: TrainingSettings, device: torch.device, deadline: float, start_from: Path | None
) -> AutoencoderTiny | None:
    """The trained autoencoder from work/vae, trained first where it is missing; None when time ran out."""
    finished = work / "vae"
    if finished.exists():
        return AutoencoderTiny.from_pretrained(finished).to(device)
    if start_from:
        return AutoencoderTiny.from_pretrained(start_from / "vae", dtype=torch.float32).to(device)
    torch.manual_seed(settings.seed)
    task = ReconstructionTask(
        work, settings.autoencoder_shards, settings.seed, settings.autoencoder_steps, settings.autoencoder_batch
    )
    autoencoder = build_autoencoder()
    pictures = task.pictures(256)
    initialise_from_pca(autoencoder, pictures)
    autoencoder = autoencoder.to(device, memory_format=torch.channels_last)
    schedule = Schedule(settings.autoencoder_steps, 1.5e-3, warm_up=50, decay_share=1.0)
    loop = TrainingLoop(autoencoder, task, schedule, work / "autoencoder")
    if not loop.run(deadline):
        return None
    autoencoder = loop.averaged_model()
    fix_scaling_factor(autoencoder, pictures.to(device))
    unfinished = work / f"vae.{os.getpid()}.part"
    autoencoder.save_pretrained(unfinished)
    unfinished.replace(finished)
    return autoencoder


def prepare_latents(autoencoder: AutoencoderTiny, work: Path, settings: TrainingSettings) -> list[np.ndarray]:
    """Latents of all shards as memory maps, encoded first where missing (work/latents)."""
    folder = work / "latents"
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:04d}.npy" for number in range(settings.shards)]
    for number, path in enumerate(paths):
        if not path.exists():
            unfinished = path.with_suffix(f".{os.getpid()}.part")
            with unfinished.open("wb") as file:
                np.save(file, encode_squares(autoencoder, load_shard(work, number)))
            unfinished.replace(path)
    return [np.load(path, mmap_mode="r") for path in paths]


def denoiser_loop(
    latents: list[np.ndarray],
    autoencoder: AutoencoderTiny,
    work: Path,
    settings: TrainingSettings,
    device: torch.device,
    start_from: Path | None = None,
) -> TrainingLoop[Painter]:
    """The loop that trains UNet and text encoder, at its last checkpoint if there is one."""
    torch.manual_seed(settings.seed)
    painter = Painter()
    if start_from:
        load_weights(painter, start_from)
    painter = painter.to(device)
    if settings.compiled:
        painter.unet.compile(dynamic=False)
    task = PathTask(
        latents, autoencoder, settings.seed, settings.denoiser_steps, settings.denoiser_batch, settings.crop
    )
    schedule = Schedule(settings.denoiser_steps, settings.denoiser_rate, warm_up=200, decay_share=0.2)
    return TrainingLoop(painter, task, schedule, work / "denoiser", betas=(0.9, 0.99), average=0.999)
