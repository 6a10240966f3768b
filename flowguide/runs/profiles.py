"""How fast runs were on this machine: a small file in the user's cache folder, from which a dry run estimates."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import FlowguideError
from ..machine import cache_folder, machine_line
from ..renderer import Renderer
from .durable import read_json, write_json
from .journal import STATES_KEPT

log = logging.getLogger("flowguide.runs")

KEPT = 200
"""Profiles in the file; the oldest goes first."""
FEWEST_FRAMES = 8
"""A run of fewer frames says little about a longer one."""
SLOWEST_SECONDS = 1e6


@dataclass(frozen=True)
class Profile:
    """What the frames of a finished run took."""

    frames: int
    fast_seconds: float
    """A tenth of the frames took less."""
    slow_seconds: float
    """A tenth of the frames took more."""
    memory_bytes: int | None
    """Most memory, as `estimate.memory_bytes` tells it."""
    segment_bytes: float
    """Room per frame that the output takes."""
    state_bytes: int
    """Room that one state takes."""

    def room_bytes(self, frames: int, segment_frames: int) -> int:
        """Most room that a run of so many frames takes: its segments, the output made of them, and its states."""
        segments = -(-frames // segment_frames)
        return round(2 * self.segment_bytes * frames) + min(STATES_KEPT + 2, segments) * self.state_bytes


def profiles_file() -> Path:
    """The file: profiles.json in the cache folder."""
    return cache_folder() / "profiles.json"


def profile_key(renderer: Renderer, size: tuple[int, int]) -> str:
    """What a profile holds for: machine, model, arithmetic, work per frame and size."""
    line, config, checkpoint = machine_line(), renderer.config, renderer.checkpoint
    parts = {
        **{name: line[name] for name in ("cpu", "cores", "gpu", "torch", "threads")},
        "model": config.model,
        "runtime": config.runtime,
        "device": str(checkpoint.device),
        "dtype": str(checkpoint.dtype).removeprefix("torch."),
        "calls": renderer.model_calls,
        "flow": renderer.flow_name if config.guidance else None,
        "size": list(size),
    }
    return json.dumps(parts, sort_keys=True)


def profile_of(
    seconds: Sequence[float], *, memory_bytes: int | None, segment_bytes: float, state_bytes: int
) -> Profile:
    """The profile of a run whose frames took `seconds`; the first, which warms everything up, does not count."""
    ordered = sorted(seconds[1:] or seconds)
    fast, slow = (ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))] for share in (0.1, 0.9))
    return Profile(len(ordered), fast, slow, memory_bytes, segment_bytes, state_bytes)


def read_profiles(path: Path) -> dict[str, Profile]:
    """Key -> profile in the file; empty where it is absent or damaged, because it is a cache."""
    try:
        stored = read_json(path).get("profiles")
    except FlowguideError:
        return {}
    found = {}
    for key, content in stored.items() if isinstance(stored, dict) else ():
        profile = _profile(content)
        if profile is not None:
            found[key] = profile
    return found


def _profile(content: Any) -> Profile | None:
    try:
        profile = Profile(**content)
        numbers = [profile.frames, profile.fast_seconds, profile.slow_seconds, profile.segment_bytes,
                   profile.state_bytes, profile.memory_bytes or 0]  # fmt: skip
        sound = all(math.isfinite(number) and number >= 0 for number in numbers)
    except (TypeError, OverflowError):
        return None
    return profile if sound and profile.fast_seconds <= profile.slow_seconds <= SLOWEST_SECONDS else None


def note_profile(key: str, profile: Profile) -> None:
    """Put `profile` in the file, in the place of the last one of its kind. A cache that cannot be written is left."""
    if profile.frames < FEWEST_FRAMES - 1:
        return
    path = profiles_file()
    known = read_profiles(path)
    known.pop(key, None)
    newest: Mapping[str, Profile] = dict([*known.items(), (key, profile)][-KEPT:])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"profiles": {name: asdict(entry) for name, entry in newest.items()}})
    except (OSError, FlowguideError) as error:
        log.info("The profile of this run was not kept (%s).", error)
