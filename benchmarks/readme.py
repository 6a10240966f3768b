"""Writes the README's table of results from the committed measurements.

python benchmarks/readme.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MEASURED, COST = RESULTS / "straight-line-cpu.json", RESULTS / "frame-cost-cpu.json"
BENCH = RESULTS / "bench-cpu.json"
BETWEEN = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", flags=re.DOTALL)


def section() -> str:
    """The text between the markers."""
    content = json.loads(MEASURED.read_text(encoding="utf-8"))
    machine, settings = content["machine"], content["settings"]
    how = (
        f"“{settings['prompt']}”, {settings['size']} px high, strength {settings['strength']}, "
        f"{settings['steps']} steps, CFG {settings['guidance_scale']}, {settings['frames']} frames"
    )
    lines = [
        "## Measured",
        "",
        f"`{content['command']}`, {content['date']}, {machine['cpu']}, {machine['threads']} thread, "
        f"torch {machine['torch']}; {how}. E_warp(k): mean change along the source's flow over k frames, 0 to 255, "
        "lower is steadier; flow and mask by an estimator that did not guide. Sharpness is relative to the unguided "
        "render.",
        "",
        "| clip | noise | E(1): source, unguided, guided | E(8): the same | guided ÷ unguided: E(1), E(8); by DIS | "
        "sharpness |",
        "|---|---|---|---|---|---|",
        *(_line(row) for row in content["rows"]),
        "",
        "Farneback finds no motion in the sky of big-buck-bunny, half the picture, which moves 1.6 px a frame "
        "(docs/decisions/0004-flow-without-texture.md): there it measures against a standstill.",
        "",
        _cost(),
        "",
        *_bench(),
    ]
    return "\n".join(lines)


def _bench() -> list[str]:
    """The sides of `flowguide bench`, where it was run."""
    if not BENCH.is_file():
        return []
    content = json.loads(BENCH.read_text(encoding="utf-8"))
    height, width = content["size"]
    lines = [
        f"`flowguide bench`, {content['date']}: {content['clip']}, {width}×{height}, {content['frames']} frames, "
        f"{content['rounds']} rounds by turns, {content['machine']['cpu']}, from file to file; median, least to most "
        "(the diffusers loop draws fresh noise for every frame, as its pipeline does; flowguide keeps it fixed):",
        "",
        "| side | dtype | frames/s | × diffusers loop | MiB | E_warp(1) |",
        "|---|---|---|---|---|---|",
    ]
    for row in content["sides"]:
        if "reason" in row:
            lines.append(f"| {row['side']} | | not measured: {row['reason']} | | | |")
            continue
        low, high = row["times_diffusers_range"] or (0.0, 0.0)
        ratio = "" if row["times_diffusers"] is None else f"{row['times_diffusers']:.2f} ({low:.2f} to {high:.2f})"
        error = "" if row["e_warp_1"] is None else f"{row['e_warp_1']:.2f}"
        memory = f"{row['memory_bytes'] / 2**20:.0f}"
        lines.append(f"| {row['side']} | {row['dtype']} | {row['fps']:.2f} | {ratio} | {memory} | {error} |")
    return [*lines, ""]


def _cost() -> str:
    content = json.loads(COST.read_text(encoding="utf-8"))
    clock, processor = ([row[name] for row in content["rows"]] for name in ("beside_model", "cpu_beside_model"))
    shares = [row["named_share"] for row in content["rows"] if "named_share" in row]
    what = "Predict, guided step, paste, colour and noise"
    named = f" {what}: {min(shares):.1%} to {max(shares):.1%} of the painting thread." if shares else ""
    return (
        f"Everything but the model's own calls (flow, cuts, colour, glue, codec; `{content['command']}`): "
        f"{min(clock):.1%} to {max(clock):.1%} of a frame's time where a second core is free for what runs beside the "
        f"model, {min(processor):.0%} to {max(processor):.0%} of all processor time." + named
    )


def _line(row: dict[str, Any]) -> str:
    cells = [row["clip"], row["noise"], _errors(row, 1), _errors(row, 8)]
    note = f" ({row['note']})" if row["note"] else ""
    ratios = "; ".join(f"{row['ratio_1' + by]:.2f}, {row['ratio_8' + by]:.2f}" for by in ("", "_by_dis-medium"))
    return "| " + " | ".join([*cells, ratios, f"{row['sharpness']:.2f}{note}"]) + " |"


def _errors(row: dict[str, Any], lag: int) -> str:
    errors = row[f"e_warp_{lag}"]
    shown = ", ".join("-" if errors[name] is None else f"{errors[name]:.2f}" for name in ("source", "unguided"))
    guided = errors["guided"]
    return f"{shown}, **{guided:.2f}**" if guided is not None else f"{shown}, -"


def updated(readme: str) -> str:
    """`readme` with the section replaced."""
    return BETWEEN.sub(lambda found: found[1] + section() + found[2], readme)


if __name__ == "__main__":
    page = ROOT / "README.md"
    page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
