"""What a finished run was, beside its output and inside it: enough to run it again."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import av.error

from ..errors import FlowguideError
from .durable import read_json, write_json
from .identity import SAME, TOLD
from .journal import Record, frames_in

TAG = "comment"
"""The container's tag that holds the manifest."""


def manifest_path(output: Path) -> Path:
    """`painted.mp4` -> `painted.mp4.json`."""
    return output.with_name(output.name + ".json")


def manifest(
    run: Mapping[str, Any],
    output: Path,
    records: Sequence[Record],
    *,
    painted_again: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
) -> dict[str, Any]:
    """The manifest of a finished run; no path but the names of files is in it, because it travels with the video.

    run: what `identity` told. records: its segments; times are those of all sessions together, anchors frames of the
    output that others were carried from. painted_again: ranges of frames that were, and the settings that they have to
    themselves. notes: what else is to be told, in sentences.
    """
    told = {name: run[name] for name in (*(same.split(".")[0] for same in SAME), *TOLD) if name in run}
    stages: dict[str, float] = defaultdict(float)
    for record in records:
        for name, seconds in record.stage_seconds.items():
            stages[name] += seconds
    found = {
        "anchors": [index for record in records for index in record.anchors],
        "painted_again": list(painted_again),
        "notes": list(notes),
    }
    return {
        **told,
        "output": output.name,
        "frames": frames_in(records),
        "shots": records[-1].shots,
        "seconds": round(sum(record.seconds for record in records), 3),
        "stage_seconds": {name: round(seconds, 3) for name, seconds in stages.items()},
        **{name: value for name, value in found.items() if value},
    }


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
    wanted = {
        "settings": dict, "source": dict, "stylised": dict, "alignment": dict, "painted_again": list, "notes": list,
        "segment_frames": int, "anchors": list,
    }  # fmt: skip
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
