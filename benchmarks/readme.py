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
    ]
    return "\n".join(lines)


def _cost() -> str:
    content = json.loads(COST.read_text(encoding="utf-8"))
    clock, processor = ([row[name] for row in content["rows"]] for name in ("beside_model", "cpu_beside_model"))
    return (
        f"Everything but the model's own calls (flow, cuts, colour, glue, codec; `{content['command']}`): "
        f"{min(clock):.1%} to {max(clock):.1%} of a frame's time where a second core is free for what runs beside the "
        f"model, {min(processor):.0%} to {max(processor):.0%} of all processor time."
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
