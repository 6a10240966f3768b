"""All sides by turns: each in a process of its own, in an order that alternates, medians and spreads at the end."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import RenderConfig, changed
from ..errors import FlowguideError
from ..machine import choose_device, machine_line
from ..metrics import measure
from ..runs.opened import open_clip
from ..synthetic import write_demo_clip
from ..video import ClipReader
from .flows import flow_rows
from .sides import COMPILED, DIFFUSERS, OURS, STREAMING

HEIGHT = "384"
SHOWN = ("fps", "p50_ms", "p99_ms", "first_frame_seconds", "memory_bytes", "unet_tflops", "unet_of_matmul",
         "outside_model", "outside_model_flow_codec")  # fmt: skip
"""What is taken as a median over the rounds."""


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    clip: Path | None
    """None: a scene that flowguide makes itself."""
    frames: int
    rounds: int
    runtimes: tuple[str, ...]
    """Runtimes that our own sides are measured with."""
    compiled: bool = True
    """Whether torch.compile is measured as well, which takes minutes."""


def bench(
    plan: Plan, config: RenderConfig, folder: Path, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure; videos and what is left over lie in `folder`. Returns what `table` prints and JSON holds."""
    clip = plan.clip
    if clip is None:
        clip = folder / "source.mp4"
        write_demo_clip(clip, frames=plan.frames)
    settings = changed(config, max_frames=plan.frames, size=config.size or HEIGHT)
    device = choose_device(settings.device)
    sides = _sides(plan, settings)
    reasons = {} if plan.compiled else {COMPILED: "left out by --quick"}
    if device.type != "cuda":
        reasons[STREAMING] = "made for a GPU, and there is none"
    results: dict[str, list[dict[str, Any]]] = {}
    for number in range(plan.rounds):
        for name, (side, chosen) in list(sides.items())[:: 1 if number % 2 == 0 else -1]:
            if name in reasons:
                continue
            say(f"round {number + 1} of {plan.rounds}: {name}")
            found = _in_its_own_process(side, chosen, clip, folder / f"{_plain(name)}.mp4")
            if "reason" in found:
                reasons[name] = found["reason"]
            else:
                found["unet_of_matmul"] = (found["unet_tflops"] or 0) / found["matmul_tflops"] or None
                results.setdefault(name, []).append(found)
    say("temporal error")
    # The streaming batch gives its frames out late, beside other ones of the source.
    compared = [name for name in results if name != STREAMING]
    errors = _temporal(clip, settings, {name: folder / f"{_plain(name)}.mp4" for name in compared})
    say("flow")
    with open_clip(clip, changed(settings, max_frames=2)) as reader:
        pair, size = list(reader), reader.info.size
    return {
        "machine": machine_line(),
        "clip": "a scene of flowguide's own" if plan.clip is None else clip.name,
        "size": list(size),
        "frames": plan.frames,
        "rounds": plan.rounds,
        "settings": {name: getattr(settings, name) for name in ("model", "steps", "strength", "guidance_scale")},
        "sides": [_row(name, results.get(name, []), reasons.get(name), errors, results) for name in sides],
        "flow": flow_rows(pair, device, max(3, plan.rounds)) if len(pair) == 2 else [],
    }


def _sides(plan: Plan, settings: RenderConfig) -> dict[str, tuple[str, RenderConfig]]:
    """Name in the table -> side and its settings."""
    sides: dict[str, tuple[str, RenderConfig]] = {}
    for runtime in plan.runtimes:
        told = "" if runtime == "torch" else f" ({runtime})"
        sides |= {name + told: (name, changed(settings, runtime=runtime)) for name in OURS}
    plain = changed(settings, runtime="torch")
    return sides | {name: (name, plain) for name in (DIFFUSERS, COMPILED, STREAMING)}


def _in_its_own_process(side: str, settings: RenderConfig, clip: Path, output: Path) -> dict[str, Any]:
    request = {"side": side, "settings": settings.model_dump(), "clip": str(clip), "output": str(output)}
    done = subprocess.run(
        [sys.executable, "-m", "flowguide.bench.sides"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
    return {"reason": last.strip()}


def _row(
    name: str,
    rounds: list[dict[str, Any]],
    reason: str | None,
    errors: dict[str, float | None],
    results: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    if not rounds:
        return {"side": name, "reason": reason or "no round was finished"}
    row: dict[str, Any] = {"side": name, "dtype": rounds[0]["dtype"], "threads": rounds[0]["threads"]}
    for what in SHOWN:
        values = [found[what] for found in rounds if found[what] is not None]
        row[what] = statistics.median(values) if values else None
        row[f"{what}_range"] = [min(values), max(values)] if values else None
    peer = results.get(DIFFUSERS, [])
    ratios = [mine["fps"] / theirs["fps"] for mine, theirs in zip(rounds, peer, strict=False) if mine["fps"]]
    row["times_diffusers"] = statistics.median(ratios) if ratios else None
    row["times_diffusers_range"] = [min(ratios), max(ratios)] if ratios else None
    row["stage_ms"] = {
        stage: statistics.median(found["stage_ms"].get(stage, 0.0) for found in rounds)
        for stage in sorted({stage for found in rounds for stage in found["stage_ms"]})
    }
    row["e_warp_1"] = errors.get(name)
    return row


def _temporal(clip: Path, settings: RenderConfig, outputs: dict[str, Path]) -> dict[str, float | None]:
    """E_warp(1) of every output, and of the source, by an estimator that did not guide."""
    if not outputs:
        return {}
    estimator = "farneback" if settings.flow.startswith("dis") else "dis"
    try:
        with open_clip(clip, settings) as source:
            readers = {name: ClipReader(path) for name, path in outputs.items()}
            try:
                report = measure(source, readers, lags=(1,), estimator=estimator)
            finally:
                for reader in readers.values():
                    reader.close()
    except FlowguideError:
        return {}
    return {found.name: found.warp_error[1].l1 for found in report.clips}


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
