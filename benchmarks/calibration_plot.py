"""Can confidence be believed? Draws, from the result file of flow.py, a picture for the documentation.

    python benchmarks/calibration_plot.py --estimator dis-medium

Left: the share of pixels that are right (within 1 px of the truth, and visible) among those whose confidence lies in a
bin, which should be that confidence. Right: the same among all pixels with confidence c or more, over c.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

COLOURS = {
    "check": (200, 120, 40),
    "forward-backward": (60, 160, 60),
    "learned": (40, 40, 210),
    "own": (160, 60, 160),
}
"""Blue, green, red."""
SIDE, MARGIN = 420, 60
Canvas = NDArray[np.uint8]
Bins = list[list[float]]
"""(mean confidence, share right, share of all pixels) each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--estimator", default="dis-medium")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/flow.json"))
    parser.add_argument("--to", type=Path, default=Path("docs/images/calibration.png"))
    chosen = parser.parse_args()
    rows = json.loads(chosen.results.read_text())["rows"]
    curves = {
        row["confidence"]: row["calibration"]
        for row in rows
        if row["estimator"] == chosen.estimator and row["class"] == "all"
    }
    if not curves:
        parser.error(f"{chosen.results} has no rows of {chosen.estimator}")
    panels = [
        panel(curves, lambda bins: [(c, right) for c, right, _ in bins], "confidence", "right within 1 px"),
        panel(curves, at_least, "confidence at least", "right within 1 px"),
    ]
    cv2.imwrite(str(chosen.to), np.hstack(panels))


def at_least(bins: Bins) -> list[tuple[float, float]]:
    """(c, share right among the pixels of confidence c or more)."""
    points = []
    for place, (confidence, _, _) in enumerate(bins):
        weight = sum(share for _, _, share in bins[place:])
        points.append((confidence, sum(right * share for _, right, share in bins[place:]) / weight))
    return points


def panel(curves: dict[str, Bins], points: Callable[[Bins], list[tuple[float, float]]], x: str, y: str) -> Canvas:
    canvas = np.full((SIDE, SIDE, 3), 255, np.uint8)
    for step in range(6):
        value = step / 5
        for start, end in (((0, value), (1, value)), ((value, 0), (value, 1))):
            cv2.line(canvas, place(*start), place(*end), (225, 225, 225), 1, cv2.LINE_AA)
        write(canvas, f"{value:.1f}", (place(value, 0)[0] - 10, SIDE - MARGIN + 18))
        write(canvas, f"{value:.1f}", (MARGIN - 32, place(0, value)[1] + 4))
    cv2.line(canvas, place(0, 0), place(1, 1), (150, 150, 150), 1, cv2.LINE_AA)
    for number, (name, bins) in enumerate(curves.items()):
        line = np.array([place(*point) for point in points(bins)], np.int32)
        cv2.polylines(canvas, [line], False, COLOURS[name], 2, cv2.LINE_AA)
        for centre in line:
            cv2.circle(canvas, (int(centre[0]), int(centre[1])), 3, COLOURS[name], -1, cv2.LINE_AA)
        write(canvas, name, (MARGIN + 190, SIDE - MARGIN - 16 - 18 * number), COLOURS[name])
    write(canvas, x, (SIDE // 2 - 50, SIDE - 18))
    write(canvas, y, (MARGIN - 40, MARGIN - 24))
    return canvas


def place(x: float, y: float) -> tuple[int, int]:
    length = SIDE - 2 * MARGIN
    return round(MARGIN + x * length), round(SIDE - MARGIN - y * length)


def write(canvas: Canvas, text: str, at: tuple[int, int], colour: tuple[int, int, int] = (60, 60, 60)) -> None:
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)


if __name__ == "__main__":
    main()
