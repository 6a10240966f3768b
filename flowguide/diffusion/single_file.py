"""A whole checkpoint in one `.safetensors` file, as A1111 and ComfyUI keep them, read without asking a hub.

The file holds weights under the names of the original code; diffusers converts them, given a folder of configs. That
folder is the user's, or made here from the published configurations and CLIP's vocabulary.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..errors import BackendMissing, ModelError
from .loading import Parts, first_line, quiet, read_json, scheduler_config
from .published import LAYOUTS

log = logging.getLogger("flowguide.diffusion")

_FIRST_CONVOLUTION = "model.diffusion_model.input_blocks.0.0.weight"
_CROSS_ATTENTION = "input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"


def single_file_parts(
    path: Path, dtype: torch.dtype, *, config: Path | None = None, prediction_type: str | None = None
) -> Parts:
    """The parts of the checkpoint in `path`.

    config: a folder in diffusers layout whose configs and tokenizers fit (its weights are not read); default: the
    published configuration of the family, told by the shapes in the file. prediction_type: over the config's own.
    Raises ModelError or BackendMissing.
    """
    import diffusers

    if config is None:
        family = family_of(shapes(path), path)
        if family.startswith("Stable Diffusion 2") and prediction_type is None:
            log.warning(
                "%s does not say what it predicts; v_prediction is assumed, as in Stable Diffusion 2.1 at 768 pixels. "
                "For a 512-pixel base model give --prediction-type epsilon.", path.name
            )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="flowguide-") as scratch:
        layout = write_layout(family, Path(scratch)) if config is None else config
        index = read_json(layout / "model_index.json")
        pipeline_class = getattr(diffusers, _class_for(index))
        try:
            with quiet():
                pipeline = pipeline_class.from_single_file(
                    str(path), config=str(layout), local_files_only=True, torch_dtype=dtype, safety_checker=None
                )
        except Exception as error:
            raise ModelError(f"{path} could not be read as a checkpoint: {first_line(error)}") from error
        scheduler = scheduler_config(layout, prediction_type, pipeline.unet.config.cross_attention_dim)
    return Parts(
        where=path,
        unet=pipeline.unet,
        vae=pipeline.vae,
        text_encoders=_present(pipeline, "text_encoder", "text_encoder_2"),
        tokenizers=_present(pipeline, "tokenizer", "tokenizer_2"),
        scheduler_config=scheduler,
        index=index,
    )


def single_file_autoencoder(path: Path, dtype: torch.dtype, like: dict[str, Any]) -> Any:
    """AutoencoderKL from one file; like: the config it has (`AutoencoderKL.config`). Raises ModelError."""
    from diffusers import AutoencoderKL

    with tempfile.TemporaryDirectory(prefix="flowguide-") as scratch:
        (Path(scratch) / "config.json").write_text(json.dumps(like, default=str))
        try:
            with quiet():
                return AutoencoderKL.from_single_file(
                    str(path), config=scratch, local_files_only=True, torch_dtype=dtype
                )
        except Exception as error:
            raise ModelError(f"The autoencoder {path} could not be loaded: {first_line(error)}") from error


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a safetensors file, from its header alone; a pickle is opened, with tensors as
    the only objects it may hold. Raises ModelError."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return _pickled_shapes(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is not a whole safetensors file: {first_line(error)}. Copy it again.") from error


def _pickled_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise ModelError(f"{path} could not be opened: {first_line(error)}") from error
    tensors = content.get("state_dict", content) if isinstance(content, dict) else {}
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}


def family_of(names: dict[str, tuple[int, ...]], path: Path) -> str:
    """The key of LAYOUTS for a file with these tensors. Raises ModelError."""
    first = names.get(_FIRST_CONVOLUTION)
    width = next((shape[-1] for block in (1, 2, 4, 7) if (shape := names.get(
        "model.diffusion_model." + _CROSS_ATTENTION.format(block)))), None)  # fmt: skip
    families = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
    if first is None or width not in families:
        raise ModelError(
            f"{path} is not a Stable Diffusion 1, 2 or XL checkpoint in one file: it holds {len(names)} other tensors. "
            "Give a whole checkpoint, or a folder in diffusers layout."
        )
    if first[1] not in (4, 9):
        raise ModelError(f"The UNet in {path} takes {first[1]} channels; 4 (image to image) or 9 (inpainting) will do.")
    return families[width] + (" inpainting" if first[1] == 9 else "")


def write_layout(family: str, folder: Path) -> Path:
    """A diffusers folder without weights for `family`, in `folder`. Raises BackendMissing without a vocabulary."""
    layout = LAYOUTS[family]
    index: dict[str, Any] = {"_class_name": layout["pipeline"]}
    for part in ("unet", "vae", "text_encoder", "text_encoder_2", "scheduler"):
        if part not in layout:
            continue
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (folder / part).mkdir()
        (folder / part / name).write_text(json.dumps(layout[part]))
        library = "transformers" if part.startswith("text") else "diffusers"
        index[part] = [library, layout[part].get("_class_name") or layout[part]["architectures"][0]]
    for part, padding in layout["padding"].items():
        write_tokenizer(folder / part, padding)
        index[part] = ["transformers", "CLIPTokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_tokenizer(folder: Path, padding: str) -> None:
    """CLIP's tokenizer from the vocabulary that open_clip_torch carries."""
    from transformers import CLIPTokenizer

    merges: Any = [tuple(line.split()) for line in _merges()]
    letters = _letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    folder.mkdir()
    tokenizer: Any = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, pad_token=padding)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _merges() -> list[str]:
    spec = importlib.util.find_spec("open_clip")
    places = list(spec.submodule_search_locations or []) if spec else []
    files = [Path(place) / "bpe_simple_vocab_16e6.txt.gz" for place in places]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise BackendMissing(
            "A single file holds no tokenizer: pip install 'flowguide[single-file]' brings CLIP's vocabulary, or give "
            "--model-layout with a folder in diffusers layout of the same family."
        )
    lines = gzip.decompress(found.read_bytes()).decode("utf-8").split("\n")
    return lines[1 : 49152 - 256 - 2 + 1]


def _letters() -> list[str]:
    """The printable letter of each byte, in the order of CLIP's vocabulary: printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(others)]


def _class_for(index: dict[str, Any]) -> str:
    return "StableDiffusionXLImg2ImgPipeline" if "text_encoder_2" in index else "StableDiffusionImg2ImgPipeline"


def _present(pipeline: Any, *names: str) -> tuple[Any, ...]:
    return tuple(part for name in names if (part := getattr(pipeline, name, None)) is not None)
