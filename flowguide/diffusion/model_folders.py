"""Where models lie: bundled ones, pulled ones, and the folders of A1111 and ComfyUI."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ModelError, UnknownName, UsageError
from ..machine import cache_folder

ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUNDLED = {name: ASSETS / name for name in ("painter", "painter-inpainting")}
"""Checkpoints that come with the package, by name."""
STYLES = dict.fromkeys(BUNDLED, ("oil painting", "ink drawing", "mosaic", "watercolour", "photo"))
"""Prompts that a checkpoint of few words was trained for."""

KINDS = {
    "checkpoint": ("checkpoints", "diffusers", "Stable-diffusion"),
    "vae": ("vae", "VAE"),
    "lora": ("loras", "Lora"),
    "controlnet": ("controlnet", "ControlNet"),
    "embedding": ("embeddings",),
    "ip-adapter": ("ipadapter",),
}
"""Kind of model -> the names of its folder in ComfyUI and A1111."""

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def style_in(model: str, prompt: str) -> str | None:
    """The first of a bundled checkpoint's styles that the prompt names; None where it names none."""
    said = prompt.lower().replace("watercolor", "watercolour")
    return next((style for style in STYLES.get(model, ()) if style.split()[0] in said), None)


def preset(model: str, prompt: str) -> dict[str, Any]:
    """Options of a render that suit a bundled checkpoint in the style that the prompt names, from presets.toml in its
    folder; empty where there are none."""
    path = BUNDLED[model] / "presets.toml" if model in BUNDLED else None
    style = style_in(model, prompt)
    if path is None or style is None or not path.is_file():
        return {}
    options: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")).get(style, {})
    return options


def pulled_folder() -> Path:
    """Where `flowguide models pull` puts checkpoints: FLOWGUIDE_HOME, or the user's cache folder."""
    return cache_folder() / "models"


def find_model(kind: str, name: str, folders: Sequence[str] = ()) -> Path:
    """The file or folder of the model `name`: a bundled name, a path, or a name in one of `folders`,
    with the folders above it or without.

    kind: a key of KINDS. folders: roots of A1111 or ComfyUI, or an extra_model_paths.yaml.
    Raises UnknownName with the nearest name, UsageError where several have it, or ModelError.
    """
    if kind == "checkpoint" and name in BUNDLED:
        return BUNDLED[name]
    path = Path(name).expanduser()
    if path.exists():
        return path
    entries = list(dict.fromkeys(found(kind, folders)))
    fitting = [entry for entry in entries if _is_called(entry, path)]
    if len(fitting) > 1:
        places = ", ".join(map(str, fitting))
        raise UsageError(f"{len(fitting)} files are the {_spoken(kind)} {name!r}: {places}. Give the path of one.")
    if fitting:
        return fitting[0]
    if path.is_absolute() or name.startswith((".", "~")) or (not folders and any(mark in name for mark in "/\\.")):
        raise ModelError(f"The {kind} {path} does not exist.")
    known = dict.fromkeys(word for entry in entries for word in (entry.name, _without_suffix(entry).name))
    raise UnknownName(_spoken(kind), name, [*known, *(BUNDLED if kind == "checkpoint" else ())])


def _is_called(entry: Path, name: Path) -> bool:
    """Whether the last parts of a path are `name`'s, with or without the suffix of a file of weights."""
    parts = name.parts
    return parts in (entry.parts[-len(parts) :], _without_suffix(entry).parts[-len(parts) :])


def _without_suffix(entry: Path) -> Path:
    return entry.with_suffix("") if entry.suffix in SUFFIXES else entry


def found(kind: str, folders: Sequence[str] = ()) -> Iterator[Path]:
    """Every model of `kind` in `folders` and, for checkpoints, those that were pulled."""
    places = [place for folder in folders for place in _places(kind, Path(folder).expanduser())]
    if kind == "checkpoint":
        places.append(pulled_folder())
    for place in places:
        if not place.is_dir():
            continue
        for entry in sorted(place.rglob("*")):
            if entry.name == "model_index.json" or (entry.name == "config.json" and kind in ("controlnet", "vae")):
                yield entry.parent
            elif entry.suffix in SUFFIXES and not _inside_a_folder_model(entry, place):
                yield entry


def _places(kind: str, folder: Path) -> list[Path]:
    if folder.suffix in (".yaml", ".yml"):
        return _from_yaml(kind, folder)
    if not folder.is_dir():
        raise UsageError(f"model_folders should name folders of A1111 or ComfyUI, or extra_model_paths.yaml; {folder} "
                         "does not exist.")  # fmt: skip
    return [base / name for base in (folder, folder / "models") for name in KINDS[kind] if (base / name).is_dir()]


def _from_yaml(kind: str, file: Path) -> list[Path]:
    """The folders that ComfyUI's extra_model_paths.yaml gives for `kind`."""
    import yaml

    try:
        sections = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{file} could not be read: {str(error).splitlines()[0]}") from error
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise UsageError(f"{file} should hold one table per program, as ComfyUI's extra_model_paths.yaml does.")
    places = []
    for section in sections.values():
        base = file.parent / Path(str(section.get("base_path", "."))).expanduser()
        for name in KINDS[kind]:
            places += [base / line.strip() for line in str(section.get(name) or "").splitlines() if line.strip()]
    return places


def _inside_a_folder_model(entry: Path, place: Path) -> bool:
    above = [parent for parent in entry.parents if parent.is_relative_to(place)]
    return any((parent / "model_index.json").is_file() or (parent / "config.json").is_file() for parent in above)


def _spoken(kind: str) -> str:
    return "model" if kind == "checkpoint" else kind
