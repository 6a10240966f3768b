"""What a finished run was, beside its output and inside it: enough to run it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import av.error

from ..errors import FlowguideError
from .durable import read_json, write_json
from .identity import SAME, TOLD

TAG = "comment"
"""The container's tag that holds the manifest."""


def manifest_path(output: Path) -> Path:
    """`painted.mp4` -> `painted.mp4.json`."""
    return output.with_name(output.name + ".json")


def manifest(
    run: Mapping[str, Any],
    output: Path,
    *,
    frames: int,
    seconds: float,
    painted_again: list[dict[str, Any]],
    anchors: list[int],
) -> dict[str, Any]:
    """The manifest of a finished run; no path but the names of files is in it, because it travels with the video.

    run: what `identity` told. seconds: that painting took, in all sessions. painted_again: ranges of frames that were,
    and the settings that they have to themselves. anchors: frames of the output that others were carried from.
    """
    told = {name: run[name] for name in (*(same.split(".")[0] for same in SAME), *TOLD) if name in run}
    again = {"painted_again": painted_again} if painted_again else {}
    carried = {"anchors": anchors} if anchors else {}
    return {**told, "output": output.name, "frames": frames, "seconds": round(seconds, 3), **carried, **again}


def tag(content: Mapping[str, Any]) -> dict[str, str]:
    """The manifest as a container's metadata."""
    return {TAG: json.dumps(content, separators=(",", ":"))}


def write_manifest(output: Path, content: Mapping[str, Any]) -> Path:
    """Write the manifest beside `output` and return its path."""
    path = manifest_path(output)
    write_json(path, content)
    return path


def read_manifest(output: Path) -> dict[str, Any]:
    """The manifest of `output`: from the file beside it, else from its own metadata. `output` may be that file itself.

    Raises FlowguideError where there is none, or where it is damaged.
    """
    if output.is_dir():
        raise FlowguideError(f"{output} is a folder; name a video that flowguide made, or a manifest (.json).")
    beside = output if output.suffix == ".json" else manifest_path(output)
    content = read_json(beside) if beside.is_file() else _inside(output)
    wanted = {"settings": dict, "source": dict, "painted_again": list, "segment_frames": int, "anchors": list}
    sound = all(isinstance(content.get(name, kind()), kind) for name, kind in wanted.items())
    if not sound or "settings" not in content or "source" not in content:
        raise FlowguideError(f"{output} was not made by flowguide, or its manifest is damaged.")
    return content


def _inside(output: Path) -> dict[str, Any]:
    if not output.is_file():
        raise FlowguideError(f"{output} does not exist; name a video that flowguide made.")
    try:
        with av.open(f"file:{output}", metadata_errors="replace") as container:
            tags = {name.lower(): value for name, value in container.metadata.items()}
        content = json.loads(tags[TAG])
    except (av.error.FFmpegError, OSError, KeyError, ValueError, RecursionError) as error:
        raise FlowguideError(f"{output} holds no manifest, and there is none beside it.") from error
    if not isinstance(content, dict):
        raise FlowguideError(f"{output} holds no manifest, and there is none beside it.")
    return content
