"""A checkpoint in diffusers layout, loaded from a local folder and never from the network."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError, UnknownName
from .latents import Autoencoder
from .prompts import PromptEncoder

log = logging.getLogger("flowguide.diffusion")

ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUNDLED = {"painter": ASSETS / "painter"}
"""Checkpoints that come with the package, by name."""

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")


@dataclass
class Checkpoint:
    """The parts of a latent diffusion model that image-to-image needs."""

    folder: Path
    unet: Any
    autoencoder: Autoencoder
    prompts: PromptEncoder
    scheduler_config: dict[str, Any]
    dtype: torch.dtype
    device: torch.device

    @property
    def grid(self) -> int:
        """Pixels that height and width must be multiples of: the latent cell times the UNet's own halvings."""
        return self.autoencoder.cell * 2 ** (len(self.unet.config.block_out_channels) - 1)

    def predict(self, latents: Tensor, timestep: float, embeddings: Tensor) -> Tensor:
        """The UNet's raw output for `latents` [N, C, h, w] and `embeddings` [N, tokens, width]."""
        with torch.inference_mode():
            output: Tensor = self.unet(latents, timestep, encoder_hidden_states=embeddings, return_dict=False)[0]
        return output

    def digest(self) -> str:
        """SHA-256 over every file of the folder, names included: what a manifest calls the model."""
        total = hashlib.sha256()
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            total.update(str(path.relative_to(self.folder)).encode())
            with path.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()


def find_checkpoint(model: str) -> Path:
    """The folder of a bundled name or of a path. Raises UnknownName or ModelError."""
    if model in BUNDLED:
        folder = BUNDLED[model]
    else:
        folder = Path(model).expanduser()
        if not folder.exists() and not any(mark in model for mark in "/\\."):
            raise UnknownName("model", model, BUNDLED)
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise ModelError(
            f"The model should be a folder in diffusers layout (or one of {', '.join(BUNDLED)}); {folder} {kind}."
        )
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{folder} has no model_index.json, so it is not a diffusers checkpoint folder.")
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ModelError(f"The checkpoint {folder} lacks {', '.join(missing)}. Copy the whole checkpoint folder.")
    return folder


def load_checkpoint(model: str, dtype: torch.dtype, device: torch.device) -> Checkpoint:
    """Load `model` (a bundled name or a local folder) for image-to-image.

    Raises UnknownName for an unknown name, ModelError where a part is missing, unreadable or of another family.
    """
    import diffusers
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = find_checkpoint(model)
    index = _read_json(folder / "model_index.json")
    vae_class = (index.get("vae") or [None, None])[1]
    if vae_class not in _AUTOENCODERS:
        raise ModelError(
            f"The autoencoder of {folder} should be one of {', '.join(_AUTOENCODERS)}, got {vae_class}."
        )
    scheduler_config = _read_json(folder / "scheduler" / "scheduler_config.json")
    if "prediction_type" not in scheduler_config:
        raise ModelError(
            f"{folder}/scheduler/scheduler_config.json has no prediction_type; add epsilon, v_prediction or sample."
        )
    unet = _load(diffusers.UNet2DConditionModel, folder, "unet", torch_dtype=dtype)
    vae = _load(getattr(diffusers, vae_class), folder, "vae", torch_dtype=dtype)
    text_encoder = _load(CLIPTextModel, folder, "text_encoder", dtype=dtype)
    tokenizer = _load(CLIPTokenizer, folder, "tokenizer")
    _check_family(folder, unet, vae, text_encoder)
    for network in (unet, vae, text_encoder):
        network.to(device).eval().requires_grad_(False)
    for network in (unet, vae):
        network.to(memory_format=torch.channels_last)
    return Checkpoint(
        folder=folder,
        unet=unet,
        autoencoder=Autoencoder(vae, cell=_cell(vae)),
        prompts=PromptEncoder(tokenizer, text_encoder),
        scheduler_config=scheduler_config,
        dtype=dtype,
        device=device,
    )


def _load(cls: Any, folder: Path, part: str, **options: Any) -> Any:
    weights = part in ("unet", "vae", "text_encoder")
    if weights:
        options["use_safetensors"] = True
        names = [path.name for path in (folder / part).glob("*.safetensors*")]
        if names and all(".fp16." in name for name in names):
            options["variant"] = "fp16"
    try:
        with _quiet():
            return cls.from_pretrained(folder / part, local_files_only=True, **options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"The {part} of {folder} could not be loaded: {_first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the loaders' progress bars and their notes about a tiny autoencoder's own config."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    verbosity = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, verbosity, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} could not be read: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} should hold a JSON object.")
    return content


def _check_family(folder: Path, unet: Any, vae: Any, text_encoder: Any) -> None:
    if unet.config.in_channels != vae.config.latent_channels:
        raise ModelError(
            f"The UNet of {folder} takes {unet.config.in_channels} channels and its autoencoder gives "
            f"{vae.config.latent_channels}: this is not an image-to-image checkpoint."
        )
    if unet.config.cross_attention_dim != text_encoder.config.hidden_size:
        raise ModelError(
            f"The UNet of {folder} expects prompt embeddings {unet.config.cross_attention_dim} wide and its text "
            f"encoder gives {text_encoder.config.hidden_size}: the parts do not belong together."
        )


def _cell(vae: Any) -> int:
    channels = getattr(vae.config, "block_out_channels", None) or vae.config.encoder_block_out_channels
    return int(2 ** (len(channels) - 1))
