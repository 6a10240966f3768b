"""A checkpoint, loaded from a local folder or file and never from the network, ready to be called."""

from __future__ import annotations

import difflib
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import RenderConfig, render_config
from ..errors import ModelError, UsageError
from .attachments import ImagePrompts, add_embeddings, fuse_loras, image_prompts, load_controls
from .denoiser import Denoiser
from .hints import Hint
from .latents import Autoencoder
from .loading import AUTOENCODERS, Parts, folder_parts, load, pickle_refused, read_json, shared_folder
from .long_attention import use_long_attention
from .model_folders import BUNDLED, STYLES, find_model, style_in
from .packed import pack
from .prompts import PromptEncoder
from .published import LAYOUTS
from .runtimes import Runtimes
from .single_file import single_file_autoencoder, single_file_parts
from .taesd import load_taesd

__all__ = ["BUNDLED", "Checkpoint", "find_checkpoint", "load_checkpoint"]

log = logging.getLogger("flowguide.diffusion")

_PICKLES = (".ckpt", ".bin", ".pt", ".pth")


@dataclass
class Checkpoint:
    """The parts of a latent diffusion model that image-to-image needs."""

    where: Path
    """The folder or the file."""
    denoiser: Denoiser
    autoencoder: Autoencoder
    prompts: PromptEncoder
    scheduler_config: dict[str, Any]
    dtype: torch.dtype
    device: torch.device
    zero_empty_prompt: bool = False
    """Whether an empty negative prompt means zeros and not its embedding (SDXL's `force_zeros_for_empty_prompt`)."""
    hints: tuple[Hint, ...] = ()
    """What makes the picture for each ControlNet of the denoiser."""
    image_prompt: tuple[tuple[Tensor, ...], ...] = ()
    """The IP-Adapter's embeddings without and with its picture, each [1, pictures, width]."""
    image_prompts: ImagePrompts | None = None
    """What embeds further pictures for the IP-Adapter."""
    shared: bool = False
    """Whether this is one of several lanes' view of one model."""
    _offloaded: bool = False

    @property
    def unet(self) -> Any:
        """The UNet itself."""
        return self.denoiser.unet

    @property
    def grid(self) -> int:
        """Pixels that height and width must be multiples of: the latent cell times the UNet's own halvings."""
        halvings = len(self.unet.config.block_out_channels) - 1
        return self.autoencoder.cell * int(2**halvings)

    @property
    def inpainting(self) -> bool:
        """Whether the UNet sees a mask and a masked picture beside the noisy latents."""
        return bool(self.unet.config.in_channels == 2 * self.autoencoder.channels + 1)

    @property
    def scale_width(self) -> int | None:
        """Width of the guidance-scale embedding of a distilled model (LCM); None for any other."""
        width: int | None = self.unet.config.time_cond_proj_dim
        return width

    def use(self, runtimes: Runtimes | None) -> None:
        """Run the networks by `runtimes` from now on."""
        self.denoiser.runtimes = self.autoencoder.runtimes = runtimes

    def pack(self) -> None:
        """Lay the weights out for this CPU (`packed`); from then on the networks can be called and nothing else.

        Under another runtime than plain PyTorch they stay as they are.
        """
        if self.denoiser.runtimes is not None:
            return
        for network in (self.unet, self.autoencoder.network, *(control.network for control in self.denoiser.controls)):
            pack(network)
        if self.device.type == "cpu":
            use_long_attention(self.unet)

    def offload(self) -> bool:
        """Keep the text encoders and the UNet's waiting layers in main memory; False where that gains nothing."""
        if self.device.type == "cpu" or self._offloaded or self.denoiser.runtimes is not None:
            return False
        self.prompts.to(torch.device("cpu"))
        self.unet.enable_group_offload(
            onload_device=self.device, offload_device=torch.device("cpu"), offload_type="leaf_level"
        )
        self._offloaded = True
        return True

    def digest(self) -> str:
        """SHA-256 over every file, names included, also of a folder whose parts it shares: what a manifest calls it."""
        total = hashlib.sha256()
        shared = None if self.where.is_file() else shared_folder(self.where)
        for where in (self.where, *([shared] if shared else [])):
            files = [where] if where.is_file() else sorted(p for p in where.rglob("*") if p.is_file())
            for path in files:
                total.update(str(path.relative_to(where.parent if path == where else where)).encode())
                with path.open("rb") as stream:
                    total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()


def find_checkpoint(model: str, folders: Sequence[str] = ()) -> Path:
    """The folder or file of a bundled name, a path, or a name in `folders`. Raises UnknownName or ModelError."""
    path = find_model("checkpoint", model, folders)
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise ModelError(f"{path} has no model_index.json, so it is not a diffusers checkpoint folder.")
    if not path.exists():
        raise ModelError(f"The checkpoint {path} does not exist.")
    return path


def _tell_of_styles(model: str, prompt: str) -> None:
    """Warns where a checkpoint of few words is given none of them; what it paints then is anybody's guess."""
    known = STYLES.get(model)
    if known is None or style_in(model, prompt) is not None:
        return
    said = prompt.lower()
    nearest = difflib.get_close_matches(said, known, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    log.warning(
        "The model %s knows no style in the prompt %r and takes it as free text.%s It was trained for: %s.",
        *(model, prompt, hint, ", ".join(known)),
    )


def load_checkpoint(
    model: str, dtype: torch.dtype, device: torch.device, config: RenderConfig | None = None
) -> Checkpoint:
    """Load `model` (a bundled name, a folder, a file, or a name in `config.model_folders`) with all it is given:
    another autoencoder, LoRAs, embeddings, ControlNets, an IP-Adapter.

    Raises UnknownName for an unknown name, ModelError where a part is missing, unreadable or of another family.
    """
    config = config or render_config()
    runtimes = None if config.runtime == "torch" else Runtimes(config.runtime, device, dtype)
    if runtimes is not None and config.vae_tiles:
        raise UsageError("--vae-tiles works with --runtime torch alone; leave out one of the two.")
    _tell_of_styles(model, config.prompt)
    parts = _with_autoencoder(_parts(find_checkpoint(model, config.model_folders), dtype, config), dtype, config)
    _check_family(parts)
    add_embeddings(parts, config)
    fuse_loras(parts, config)
    controls = load_controls(parts, dtype, config)
    adapter, image = image_prompts(parts, device, config)
    networks = [parts.unet, parts.vae, *parts.text_encoders]
    for network in networks:
        network.to(device).eval().requires_grad_(False)
    plugged = [control.network for control, _ in controls]
    for network in plugged:
        network.to(device).eval().requires_grad_(False)
    for network in (parts.unet, parts.vae, *plugged):
        network.to(memory_format=torch.channels_last)
    return Checkpoint(
        where=parts.where,
        denoiser=Denoiser(parts.unet, tuple(control for control, _ in controls), runtimes),
        autoencoder=Autoencoder(parts.vae, _cell(parts.vae), runtimes),
        prompts=PromptEncoder(parts.tokenizers, parts.text_encoders, device),
        scheduler_config=parts.scheduler_config,
        dtype=dtype,
        device=device,
        zero_empty_prompt=bool(parts.index.get("force_zeros_for_empty_prompt", len(parts.text_encoders) == 2)),
        hints=tuple(hint for _, hint in controls),
        image_prompt=image,
        image_prompts=adapter,
    )


def _parts(path: Path, dtype: torch.dtype, config: RenderConfig) -> Parts:
    if path.is_dir():
        return folder_parts(path, dtype, prediction_type=config.prediction_type, allow_pickle=config.allow_pickle)
    if path.suffix in _PICKLES and not config.allow_pickle:
        raise pickle_refused(path)
    if path.suffix not in (".safetensors", *_PICKLES):
        raise ModelError(f"A model in one file should be a .safetensors file, got {path}.")
    layout = Path(config.model_layout).expanduser() if config.model_layout else None
    return single_file_parts(path, dtype, config=layout, prediction_type=config.prediction_type)


def _with_autoencoder(parts: Parts, dtype: torch.dtype, config: RenderConfig) -> Parts:
    """The parts with the autoencoder that `config.vae` names, a folder or a single file, in the place of their own."""
    if config.vae is None:
        return parts
    import diffusers

    path = find_model("vae", config.vae, config.model_folders)
    vae: Any
    if path.is_dir() and not (path / "vae").is_dir() and not (path / "config.json").is_file():
        vae = load_taesd(path, dtype, allow_pickle=config.allow_pickle)
    elif path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        name = read_json(folder / "config.json").get("_class_name")
        if name not in AUTOENCODERS:
            raise ModelError(f"The autoencoder {folder} should be one of {', '.join(AUTOENCODERS)}, got {name}.")
        vae = load(getattr(diffusers, name), folder, torch_dtype=dtype, allow_pickle=config.allow_pickle)
    elif path.suffix in _PICKLES and not config.allow_pickle:
        raise pickle_refused(path)
    else:
        family = "Stable Diffusion XL" if len(parts.text_encoders) == 2 else "Stable Diffusion 1"
        own = dict(parts.vae.config) if parts.vae.__class__.__name__ == "AutoencoderKL" else LAYOUTS[family]["vae"]
        vae = single_file_autoencoder(path, dtype, own)
    return Parts(**{**vars(parts), "vae": vae})


def _check_family(parts: Parts) -> None:
    unet, vae = parts.unet.config, parts.vae.config
    if unet.in_channels not in (vae.latent_channels, 2 * vae.latent_channels + 1):
        raise ModelError(
            f"The UNet of {parts.where} takes {unet.in_channels} channels and its autoencoder gives "
            f"{vae.latent_channels}: this is neither an image-to-image nor an inpainting checkpoint."
        )
    if getattr(unet, "addition_embed_type", None) == "text_time" and len(parts.text_encoders) != 2:
        raise ModelError(
            f"The UNet of {parts.where} is SDXL's and needs two text encoders, got {len(parts.text_encoders)}; "
            "a refiner alone cannot be used."
        )
    width = sum(encoder.config.hidden_size for encoder in parts.text_encoders)
    if unet.cross_attention_dim != width:
        raise ModelError(
            f"The UNet of {parts.where} expects prompt embeddings {unet.cross_attention_dim} wide and its text "
            f"encoder gives {width}: the parts do not belong together."
        )


def _cell(vae: Any) -> int:
    channels = getattr(vae.config, "block_out_channels", None) or vae.config.encoder_block_out_channels
    return int(2 ** (len(channels) - 1))
