"""What models are here, whether one is whole, and fetching one on request."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, UsageError
from .loading import check_parts, check_shards, first_line, is_half, read_json
from .model_folders import BUNDLED, find_model, found, pulled_folder
from .single_file import family_of, shapes

_WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
_WEIGHT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "I8": 1}


@dataclass(frozen=True)
class Model:
    """One checkpoint, told by its files alone."""

    name: str
    path: Path
    family: str
    licence: str
    size_bytes: int
    parameters: int
    """Of all networks; a variant that lies beside the plain weights is not counted twice."""

    def memory_bytes(self, bytes_per_value: int) -> int:
        """What the weights need once loaded; pictures in work come on top."""
        return self.parameters * bytes_per_value

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name, "path": str(self.path), "family": self.family, "licence": self.licence,
            "size_bytes": self.size_bytes, "parameters": self.parameters,
            "memory_float16_bytes": self.memory_bytes(2), "memory_float32_bytes": self.memory_bytes(4),
        }  # fmt: skip

    def line(self) -> str:
        """For people."""
        need = f"{self.memory_bytes(2) / 2**30:.2f} GiB in float16, {self.memory_bytes(4) / 2**30:.2f} in float32"
        return f"{self.name}: {self.family}, licence {self.licence}, {self.size_bytes / 2**20:.0f} MiB, needs {need}"


def models(folders: Sequence[str] = ()) -> tuple[list[Model], list[str]]:
    """Every checkpoint that is bundled, pulled or in `folders`, and a sentence for each file that is none."""
    here, complaints = [], []
    paths = [folder for folder in BUNDLED.values() if (folder / "model_index.json").is_file()]
    for path in [*paths, *found("checkpoint", folders)]:
        try:
            here.append(describe(path))
        except ModelError as error:
            complaints.append(str(error))
    return here, complaints


def describe(path: Path) -> Model:
    """Family, licence and size of a folder or a single file. Raises ModelError."""
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ModelError(f"{path} is a pickle and is not looked into; get the .safetensors version.")
        names = shapes(path)
        return Model(path.stem, path, family_of(names, path), "not stated", path.stat().st_size, _count([path]))
    unet = read_json(path / "unet" / "config.json")
    family = _WIDTHS.get(unet.get("cross_attention_dim", 0), "its own family")
    family += " inpainting" if unet.get("in_channels", 0) == 2 * unet.get("out_channels", 4) + 1 else ""
    family += ", distilled guidance (LCM)" if unet.get("time_cond_proj_dim") else ""
    files = [file for file in path.rglob("*") if file.is_file()]
    weights = [file for part in sorted(path.iterdir()) if part.is_dir() for file in _weights(part)]
    return Model(path.name, path, family, _licence(path), sum(f.stat().st_size for f in files), _count(weights))


def check(model: str, folders: Sequence[str] = ()) -> tuple[Model, dict[str, str]]:
    """The model, and file -> SHA-256 of each of its files; raises ModelError where a file is torn or missing."""
    path = find_model("checkpoint", model, folders)
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise ModelError(f"{path} has no model_index.json, so it is not a diffusers checkpoint folder.")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    if path.is_dir():
        _check_folder(path)
    for file in files:
        if file.suffix == ".safetensors":
            _header(file)
    hashes = {}
    for file in files:
        with file.open("rb") as stream:
            hashes[file.name if file == path else str(file.relative_to(path))] = hashlib.file_digest(
                stream, "sha256"
            ).hexdigest()
    return describe(path), hashes


def _check_folder(path: Path) -> None:
    check_parts(path)
    for part in sorted(folder for folder in path.iterdir() if folder.is_dir()):
        check_shards(part)
        weights = [file for file in part.iterdir() if file.suffix in (".safetensors", ".bin")]
        if part.name in ("unet", "vae", "text_encoder", "text_encoder_2") and not weights:
            raise ModelError(f"{part} holds no weights. Copy the whole checkpoint folder.")


def pull(repository: str, revision: str | None = None) -> Path:
    """Download a checkpoint in diffusers layout from the Hugging Face Hub; the only place that uses the network.

    repository: OWNER/NAME. Half-precision weights are taken where there are some. Returns its folder.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UsageError(f"models pull takes OWNER/NAME of the Hugging Face Hub, got {repository!r}.")
    os.environ["HF_HUB_OFFLINE"] = "0"
    import huggingface_hub

    folder = pulled_folder() / repository.replace("/", "--")
    try:
        # One question without retries: without a network it fails at once.
        there = huggingface_hub.HfApi().model_info(repository, revision=revision)
        files = [entry.rfilename for entry in there.siblings or ()]
        huggingface_hub.snapshot_download(
            repository, revision=there.sha, local_dir=folder, allow_patterns=wanted(files), max_workers=4
        )
    except Exception as error:
        raise ModelError(f"{repository} could not be fetched: {first_line(error)}") from error
    return folder


def wanted(files: Sequence[str]) -> list[str]:
    """Of a repository's files those that a checkpoint needs: configs, tokenizers, one set of safetensors per part."""
    parts = ("unet/", "vae/", "text_encoder/", "text_encoder_2/", "tokenizer/", "tokenizer_2/", "scheduler/")
    chosen = [file for file in files if file in ("model_index.json", "README.md") or file.startswith(parts)]
    weights = [file for file in chosen if ".safetensors" in file]
    halves = {Path(file).parent for file in weights if is_half(file)}
    kept = [file for file in weights if is_half(file) == (Path(file).parent in halves)]
    others = [file for file in chosen if file.endswith((".json", ".txt", ".md")) and file not in weights]
    return sorted({*kept, *others})


def _weights(part: Path) -> list[Path]:
    files = sorted(part.glob("*.safetensors"))
    plain = [file for file in files if not is_half(file.name)]
    return plain or files


def _count(files: Sequence[Path]) -> int:
    """Values in all tensors of safetensors files."""
    total = 0
    for file in files:
        for name, entry in _header(file).items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                total += (last - first) // _WEIGHT_BYTES.get(entry["dtype"], 4)
    return total


def _header(file: Path) -> dict[str, Any]:
    """A safetensors file's own table of contents; raises ModelError where the file is shorter than it says."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header: dict[str, Any] = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
        if file.stat().st_size != whole:
            raise ValueError(f"it has {file.stat().st_size} bytes and should have {whole}")
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise ModelError(f"{file} is damaged: {first_line(error)}. Copy it again.") from error
    return header


def _licence(folder: Path) -> str:
    """What the front matter of the model card says."""
    card = folder / "README.md"
    if not card.is_file():
        return "not stated"
    match = re.search(
        r"^license(?:_name)?:\s*(\S.*)$", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
    )
    return match.group(1).strip() if match else "not stated"
