"""Curves of the training logs as one picture, drawn with OpenCV."""

import json
from pathlib import Path

import cv2
import numpy as np

from ..errors import UsageError

SIZE = (300, 460)
MARGIN = 44


def read_log(path: Path) -> dict[str, np.ndarray]:
    """Columns of a JSON-lines log; values missing in a line are NaN."""
    if not path.is_file():
        raise UsageError(f"There is no training log {path}; --work is the folder that training worked in.")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    names = dict.fromkeys(name for line in lines for name in line)
    return {name: np.array([line.get(name, np.nan) for line in lines], float) for name in names}


def draw_curve(steps: np.ndarray, values: np.ndarray, title: str) -> np.ndarray:
    """One curve with its title and ranges, uint8 (300, 460, 3)."""
    height, width = SIZE
    panel = np.full((height, width, 3), 255, np.uint8)
    known = np.isfinite(values)
    if not known.any():
        known, values = np.ones(len(steps), bool), np.zeros(len(steps))
    steps, values = steps[known], values[known]
    # the first lines of a log dwarf the rest
    low, high = values.min(), np.quantile(values, 0.98)
    x = MARGIN + (width - 2 * MARGIN) * steps / steps.max()
    y = height - MARGIN - (height - 2 * MARGIN) * np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    cv2.rectangle(panel, (MARGIN, MARGIN), (width - MARGIN, height - MARGIN), (200, 200, 200), 1)
    cv2.polylines(panel, [np.stack([x, y], 1).round().astype(np.int32)], False, (160, 70, 20), 1, cv2.LINE_AA)
    labels = ((title, 8, 20), (f"{high:.4g}", 2, MARGIN + 4), (f"{low:.4g}", 2, height - MARGIN))
    for text, left, bottom in (*labels, (f"{int(steps.max())} steps", width - 130, height - 16)):
        cv2.putText(panel, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40), 1, cv2.LINE_AA)
    return panel


def plot_losses(work: Path, to: Path) -> None:
    """Write a picture of the autoencoder's PSNR, the denoiser's losses and the watched quality numbers.

    Raises UsageError without logs.
    """
    autoencoder, denoiser = (read_log(work / stage / "log.jsonl") for stage in ("autoencoder", "denoiser"))
    panels = [
        draw_curve(autoencoder["step"], autoencoder["psnr"], "autoencoder: PSNR of training crops, dB"),
        draw_curve(denoiser["step"], denoiser["loss"], "denoiser: loss"),
        draw_curve(
            denoiser["step"], denoiser["clean_at_start"], "denoiser: clean-latent error at the first evaluation"
        ),
        draw_curve(denoiser["step"], denoiser["clean_on_path"], "denoiser: clean-latent error later on the path"),
    ]
    if "rollout_texture" in denoiser:
        for name in ("error", "texture", "sharpness"):
            panels.append(draw_curve(denoiser["step"], denoiser[f"rollout_{name}"], f"denoiser: rollout, {name}"))
    if (work / "quality.jsonl").is_file():
        quality = read_log(work / "quality.jsonl")
        panels += [draw_curve(quality["step"], quality[name], name) for name in quality if name != "step"]
    blank = [np.full_like(panels[0], 255)] * (len(panels) % 2)
    pairs = zip(panels[::2], [*panels[1::2], *blank], strict=True)
    cv2.imwrite(str(to), np.vstack([np.hstack(pair) for pair in pairs]))
