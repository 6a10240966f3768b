"""The trained networks as a stock diffusers folder in fp16, and back."""

import json
import os
import shutil
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderTiny, StableDiffusionImg2ImgPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from ..diffusion.loading import SHARES
from .denoiser import Painter
from .paths import build_scheduler
from .tokenizer import build_tokenizer, save_tokenizer

KEPT = ("README.md", "presets.toml")


def export_painter(autoencoder: AutoencoderTiny, painter: Painter, folder: Path) -> None:
    """Write the pipeline folder (fp16, about 11 MB), replacing an older one only when the new one is whole.

    A model card and presets (README.md, presets.toml) that lie in the folder stay. The networks are left as they are,
    in float32.
    """
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=_copy(autoencoder),
        text_encoder=_copy(painter.text_encoder),
        tokenizer=build_tokenizer(),
        unet=_copy(painter.unet),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    pipeline.save_pretrained(unfinished)
    save_tokenizer(unfinished / "tokenizer")
    for weights in unfinished.rglob("*.safetensors"):
        # safetensors writes files that only their owner can read
        weights.chmod(0o644)
    replace_folder(unfinished, folder)


def export_inpainter(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the sibling: its UNet in fp16, and an index which says that the folder `painter` beside it has the rest."""
    twin = _copy(unet)
    assert isinstance(twin, UNet2DConditionModel)
    twin.save_pretrained(folder / "unet")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").chmod(0o644)
    index = {
        "_class_name": "StableDiffusionInpaintPipeline",
        "_diffusers_version": diffusers.__version__,
        SHARES: "../painter",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderTiny"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def replace_folder(new: Path, folder: Path) -> None:
    """Put a folder in the place of another; the old one's README.md and presets.toml are kept."""
    if folder.exists():
        for name in KEPT:
            if (folder / name).exists():
                shutil.copy(folder / name, new / name)
        old = folder.with_name(f"{folder.name}.{os.getpid()}.old")
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new.rename(folder)


def load_weights(painter: Painter, folder: Path) -> None:
    """Load UNet and text encoder of an exported folder into a painter, in float32."""
    for part, name in ((painter.unet, "unet/diffusion_pytorch_model"), (painter.text_encoder, "text_encoder/model")):
        weights = load_file(folder / f"{name}.safetensors")
        part.load_state_dict({key: value.float() for key, value in weights.items()})


def _copy(network: torch.nn.Module) -> torch.nn.Module:
    """The network in fp16, as a new object with contiguous weights."""
    weights = {name: value.detach().half().contiguous() for name, value in network.state_dict().items()}
    if isinstance(network, (AutoencoderTiny, UNet2DConditionModel)):
        # where it was loaded from is a place on the machine that trained it
        config = {name: value for name, value in network.config.items() if name != "_name_or_path"}
        twin: torch.nn.Module = type(network).from_config(config)
    else:
        twin = type(network)(network.config)
    twin = twin.half()
    twin.load_state_dict(weights)
    return twin


def export_checkpoint(work: Path, folder: Path) -> int:
    """Export the averaged weights of the denoiser's last checkpoint; returns its step. Safe while a training runs."""
    state = torch.load(work / "denoiser" / "checkpoint.pt", map_location="cpu", weights_only=True)
    painter = Painter()
    painter.load_state_dict(state["model"] | state["averaged"])
    export_painter(AutoencoderTiny.from_pretrained(work / "vae"), painter, folder)
    step: int = state["step"]
    return step
