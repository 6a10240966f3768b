"""The result of `bench` as text; what was not measured says so."""

from __future__ import annotations

from typing import Any

NOT = "not measured"
COLUMNS = (
    ("frames/s", "fps", "{:.2f}"),
    ("× diffusers", "times_diffusers", "{:.2f}"),
    ("p50 ms", "p50_ms", "{:.0f}"),
    ("p99 ms", "p99_ms", "{:.0f}"),
    ("first s", "first_frame_seconds", "{:.2f}"),
    ("MiB", "memory_bytes", "{:.0f}"),
    ("UNet TFLOP/s", "unet_tflops", "{:.3f}"),
    ("of matmul", "unet_of_matmul", "{:.0%}"),
    ("outside model", "outside_model", "{:.1%}"),
    ("E_warp(1)", "e_warp_1", "{:.2f}"),
)


def table(result: dict[str, Any]) -> str:
    """Everything, in lines of text."""
    machine, (height, width) = result["machine"], result["size"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, GPU {machine['gpu'] or 'none'}, torch {machine['torch']}",
        f"{result['clip']}, {width}x{height}, {result['frames']} frames, {result['rounds']} rounds by turns; median "
        f"(least to most); {', '.join(f'{name} {value}' for name, value in result['settings'].items())}",
        "",
        *_side_by_side([["side", "dtype", *(head for head, _, _ in COLUMNS)], *map(_cells, result["sides"])]),
        "",
        "milliseconds of a frame by stage, where the calling thread waits or works:",
        *(f"  {row['side']}: {_stages(row['stage_ms'])}" for row in result["sides"] if "stage_ms" in row),
        "",
        "flow of one pair, both ways:",
        *_side_by_side([["flow", "ms"], *map(_flow, result["flow"])]),
    ]
    reasons = [f"  {row['side']}: {row['reason']}" for row in result["sides"] if "reason" in row]
    reasons += [f"  {row['flow']}: {row['reason']}" for row in result["flow"] if "reason" in row]
    return "\n".join([*lines, *(["", f"{NOT}, because:", *reasons] if reasons else [])])


def _cells(row: dict[str, Any]) -> list[str]:
    if "reason" in row:
        return [row["side"], NOT]
    return [row["side"], row["dtype"], *(_cell(row, name, shape) for _, name, shape in COLUMNS)]


def _cell(row: dict[str, Any], name: str, shape: str) -> str:
    value, spread = row.get(name), row.get(f"{name}_range")
    if value is None:
        return NOT
    unit = 2**20 if name == "memory_bytes" else 1
    shown = shape.format(value / unit)
    if spread is None or spread[0] == spread[1] or name not in ("fps", "times_diffusers"):
        return shown
    return f"{shown} ({shape.format(spread[0])} to {shape.format(spread[1])})"


def _flow(row: dict[str, Any]) -> list[str]:
    if "reason" in row:
        return [row["flow"], NOT]
    low, high = row["ms_range"]
    return [row["flow"], f"{row['ms']:.1f} ({low:.1f} to {high:.1f})"]


def _stages(stages: dict[str, float]) -> str:
    return ", ".join(f"{name} {ms:.1f}" for name, ms in sorted(stages.items(), key=lambda found: -found[1]))


def _side_by_side(rows: list[list[str]]) -> list[str]:
    columns = max(len(row) for row in rows)
    widths = [max((len(row[i]) for row in rows if i < len(row)), default=0) for i in range(columns)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
