"""A checkpoint's parts from a folder in diffusers layout, never from the network."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError

log = logging.getLogger("flowguide.diffusion")

AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
SHARES = "_shares_parts_of"
"""In model_index.json: the folder, relative to this one, that holds the parts which are not here."""
_REQUIRED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


@dataclass(frozen=True)
class Parts:
    """What a checkpoint is made of, on the CPU."""

    where: Path
    """The folder or the file."""
    unet: Any
    vae: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    scheduler_config: dict[str, Any]
    index: dict[str, Any]
    """model_index.json."""


def shared_folder(folder: Path) -> Path | None:
    """The folder whose parts the checkpoint `folder` says that it shares, as an inpainting sibling does."""
    shared = read_json(folder / "model_index.json").get(SHARES) if (folder / "model_index.json").is_file() else None
    return (folder / shared).resolve() if isinstance(shared, str) else None


def part_folder(folder: Path, part: str) -> Path:
    """Where a part of the checkpoint `folder` lies: in it, or in the folder whose parts it shares."""
    shared = None if (folder / part).is_dir() else shared_folder(folder)
    return (shared or folder) / part


def folder_parts(
    folder: Path, dtype: torch.dtype, *, prediction_type: str | None = None, allow_pickle: bool = False
) -> Parts:
    """The parts in `folder`. Raises ModelError where one is missing, unreadable or of a family that is not known."""
    import diffusers
    import transformers

    index = read_json(folder / "model_index.json")
    check_parts(folder)
    vae_class = (index.get("vae") or [None, None])[1]
    if vae_class not in AUTOENCODERS:
        raise ModelError(f"The autoencoder of {folder} should be one of {', '.join(AUTOENCODERS)}, got {vae_class}.")
    width = read_json(folder / "unet" / "config.json").get("cross_attention_dim")
    scheduler = scheduler_config(folder, prediction_type, width)
    names = ["text_encoder", *(["text_encoder_2"] if part_folder(folder, "text_encoder_2").is_dir() else [])]
    classes = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}
    return Parts(
        where=folder,
        unet=load(diffusers.UNet2DConditionModel, folder / "unet", torch_dtype=dtype, allow_pickle=allow_pickle),
        vae=load(
            getattr(diffusers, vae_class), part_folder(folder, "vae"), torch_dtype=dtype, allow_pickle=allow_pickle
        ),
        text_encoders=tuple(
            load(
                getattr(transformers, classes[name]), part_folder(folder, name), dtype=dtype, allow_pickle=allow_pickle
            )
            for name in names
        ),
        tokenizers=tuple(
            load(transformers.CLIPTokenizer, part_folder(folder, name.replace("text_encoder", "tokenizer")))
            for name in names
        ),
        scheduler_config=scheduler,
        index=index,
    )


def scheduler_config(folder: Path, prediction_type: str | None, width: int | None) -> dict[str, Any]:
    """The scheduler's own config, with `prediction_type` over it where that is given.

    width: the UNet's cross_attention_dim. Stable Diffusion 1 (768) was published before the field existed and is
    epsilon; for any other family a config without it is refused with ModelError.
    """
    path = part_folder(folder, "scheduler") / "scheduler_config.json"
    config = read_json(path)
    if prediction_type is not None:
        config["prediction_type"] = prediction_type
    elif "prediction_type" not in config:
        if width != 768:
            raise ModelError(
                f"{path} has no prediction_type; add epsilon, v_prediction or sample there, or give --prediction-type."
            )
        config["prediction_type"] = "epsilon"
    return config


def load(cls: Any, folder: Path, *, allow_pickle: bool = False, **options: Any) -> Any:
    """One part by its class's `from_pretrained`, from safetensors, sharded or not, fp16 variant or not.

    Raises ModelError in one sentence. allow_pickle: read `.bin` files where there is nothing else.
    """
    if "torch_dtype" in options or "dtype" in options:
        options |= _weights_options(folder, allow_pickle)
    try:
        with quiet():
            return cls.from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:
        raise ModelError(f"The {folder.name} of {folder.parent} could not be loaded: {first_line(error)}") from error


def _weights_options(folder: Path, allow_pickle: bool) -> dict[str, Any]:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    safe = [name for name in names if ".safetensors" in name]
    if not safe:
        pickled = [name for name in names if name.endswith((".bin", ".ckpt", ".pt"))]
        if pickled and not allow_pickle:
            raise pickle_refused(folder / pickled[0])
        return {"use_safetensors": not pickled}
    check_shards(folder)
    halves = all(is_half(name) for name in safe)
    return {"use_safetensors": True, **({"variant": "fp16"} if halves else {})}


def is_half(name: str) -> bool:
    """Whether a file of weights, whole, shard or index, is of the variant fp16."""
    return ".fp16." in name or ".fp16-" in name


def check_shards(folder: Path) -> None:
    """Raises ModelError where a shard that an index in `folder` names is not there."""
    for index in sorted(folder.glob("*.index*.json")):
        shards = set(read_json(index).get("weight_map", {}).values())
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing:
            raise ModelError(
                f"The {folder.name} of {folder.parent} lacks {len(missing)} of {len(shards)} shards, the first is "
                f"{missing[0]}. Copy the whole checkpoint folder."
            )


def check_parts(folder: Path) -> None:
    """Raises ModelError where a part of the checkpoint `folder` is missing."""
    missing = [part for part in _REQUIRED if not part_folder(folder, part).is_dir()]
    if missing:
        raise ModelError(f"The checkpoint {folder} lacks {', '.join(missing)}. Copy the whole checkpoint folder.")


def pickle_refused(path: Path) -> ModelError:
    """The reason, in one sentence."""
    return ModelError(
        f"{path} is a pickle, which can run any code when it is opened; get the .safetensors version, or give "
        "--allow-pickle if you trust where it came from."
    )


@contextmanager
def quiet() -> Iterator[None]:
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


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} could not be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} should hold a JSON object.")
    return content
