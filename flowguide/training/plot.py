"""Curves of the training logs as one picture, drawn with OpenCV."""

import json
from pathlib import Path

import cv2
import numpy as np

from ..errors import UsageError

SIZE = (300, 460)
MARGIN = 44
COLUMNS = 3
COLOURS = ((160, 70, 20), (40, 40, 40), (30, 110, 220), (60, 150, 60))  # BGR
PANELS = (
    ("autoencoder", "psnr", "autoencoder: PSNR of training crops, dB"),
    ("denoiser", "loss", "denoiser: loss"),
    ("denoiser", "clean_at_start", "denoiser: clean-latent error, first evaluation"),
    ("denoiser", "clean_on_path", "denoiser: clean-latent error later on the path"),
    ("denoiser", "rollout_texture", "rollouts: distance of latent textures"),
    ("denoiser", "rollout_sharpness", "rollouts: distance of gradient energies"),
)
WATCHED = {
    "agreement": "style agreement, six held-out frames",
    "energy": "gradient energy against true stylised frames",
    "low": "low-frequency correlation with the source",
}


def read_log(path: Path) -> dict[str, np.ndarray]:
    """Columns of a JSON-lines log; values missing in a line are NaN."""
    if not path.is_file():
        raise UsageError(f"There is no training log {path}; --work is the folder that training worked in.")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    names = dict.fromkeys(name for line in lines for name in line)
    return {name: np.array([line.get(name, np.nan) for line in lines], float) for name in names}


def draw_curves(steps: np.ndarray, curves: dict[str, np.ndarray], title: str) -> np.ndarray:
    """Curves by name in one panel with its title and ranges, uint8 (300, 460, 3); a single one is not named."""
    height, width = SIZE
    panel = np.full((height, width, 3), 255, np.uint8)
    everything = np.concatenate([values[np.isfinite(values)] for values in curves.values()] or [np.zeros(1)])
    # the first lines of a log dwarf the rest
    low, high = (everything.min(), np.quantile(everything, 0.98)) if len(everything) else (0.0, 1.0)
    cv2.rectangle(panel, (MARGIN, MARGIN), (width - MARGIN, height - MARGIN), (200, 200, 200), 1)
    labels = [(title, 8, 20), (f"{high:.4g}", 2, MARGIN + 4), (f"{low:.4g}", 2, height - MARGIN)]
    labels.append((f"{int(steps.max())} steps", width - 130, height - 16))
    for number, (name, values) in enumerate(curves.items()):
        known = np.isfinite(values)
        x = MARGIN + (width - 2 * MARGIN) * steps[known] / steps.max()
        y = height - MARGIN - (height - 2 * MARGIN) * np.clip((values[known] - low) / max(high - low, 1e-9), 0, 1)
        colour = COLOURS[number % len(COLOURS)]
        cv2.polylines(panel, [np.stack([x, y], 1).round().astype(np.int32)], False, colour, 1, cv2.LINE_AA)
        if len(curves) > 1:
            place = (MARGIN + 8, height - MARGIN - 8 - 14 * number)
            cv2.putText(panel, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)
    for text, left, bottom in labels:
        cv2.putText(panel, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40), 1, cv2.LINE_AA)
    return panel


def plot_losses(work: Path, to: Path) -> None:
    """Write a picture of the autoencoder's PSNR, the denoiser's losses and the watched quality numbers.

    Raises UsageError without logs.
    """
    logs = {stage: read_log(work / stage / "log.jsonl") for stage in ("autoencoder", "denoiser")}
    wanted = [(stage, name, title) for stage, name, title in PANELS if name in logs[stage]]
    panels = [draw_curves(logs[stage]["step"], {name: logs[stage][name]}, title) for stage, name, title in wanted]
    if (work / "quality.jsonl").is_file():
        quality = read_log(work / "quality.jsonl")
        for number in dict.fromkeys(name.partition(" ")[0] for name in quality if name != "step"):
            of_styles = {name.partition(" ")[2]: values for name, values in quality.items() if name.startswith(number)}
            panels.append(draw_curves(quality["step"], of_styles, WATCHED.get(number, number)))
    panels += [np.full_like(panels[0], 255)] * (-len(panels) % COLUMNS)
    rows = [np.hstack(panels[first : first + COLUMNS]) for first in range(0, len(panels), COLUMNS)]
    cv2.imwrite(str(to), np.vstack(rows))
