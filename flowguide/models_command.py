"""`flowguide models`: what is here, whether it is whole, and fetching more."""

from __future__ import annotations

import json as json_text
from typing import Annotated, Any

from cyclopts import App, Parameter

models_app = App(name="models", help="List, check and fetch checkpoints.")

Folders = Annotated[tuple[str, ...], Parameter(name="model-folders")]


@models_app.command(name="list")
def list_models(*, folders: Folders = (), json: bool = False) -> None:
    """Every checkpoint that is bundled, pulled, or in the given folders.

    Parameters
    ----------
    folders
        Roots of A1111 or ComfyUI, or an extra_model_paths.yaml.
    json
        As one JSON object.
    """
    from .diffusion.catalogue import models

    here, complaints = models(folders)
    if json:
        _print({"models": [model.as_dict() for model in here], "unusable": complaints})
        return
    for model in here:
        print(model.line())
    for complaint in complaints:
        print(f"not usable: {complaint}")


@models_app.command(name="check")
def check_model(model: str, /, *, folders: Folders = (), json: bool = False) -> None:
    """Read every file of MODEL, tell damage, print hashes.

    Parameters
    ----------
    model
        A name, a folder or a file.
    folders
        Roots of A1111 or ComfyUI, or an extra_model_paths.yaml.
    json
        As one JSON object.
    """
    from .diffusion.catalogue import check

    found, hashes = check(model, folders)
    if json:
        _print({**found.as_dict(), "sha256": hashes})
        return
    print(found.line())
    for name, value in hashes.items():
        print(f"{value}  {name}")


@models_app.command(name="pull")
def pull_model(repository: str, /, *, revision: str | None = None) -> None:
    """Download a checkpoint from the Hugging Face Hub; nothing else in flowguide uses the network.

    Parameters
    ----------
    repository
        OWNER/NAME of a checkpoint in diffusers layout.
    revision
        Branch, tag or commit.
    """
    from .diffusion.catalogue import describe, pull

    folder = pull(repository, revision)
    print(describe(folder).line())
    print(f"use it with: --model {folder.name}")


def _print(value: Any) -> None:
    print(json_text.dumps(value, indent=2, ensure_ascii=False))
