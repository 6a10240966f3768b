"""A contact sheet: held-out frames beside what the painter makes of them."""

from pathlib import Path

import cv2
import numpy as np

from .data import spread_frames
from .paths import KINDS
from .quality import load_pipeline, middle_square, paint

# clip and frame number of each row
ROWS = {"flower.mp4": 75, "big-buck-bunny-480p.mp4": 200, "people-static-camera.mp4": 420}


def contact_sheet(model: Path, data: Path, to: Path, size: int = 384, quality: int = 55) -> None:
    """Write a JPEG: a row per clip; source, the four styles and "photo" across, at strength .5, 8 steps, CFG 2."""
    pipeline = load_pipeline(model)
    rows = []
    for clip, number in ROWS.items():
        source = middle_square(spread_frames(data / "clips" / clip, 1, number, number + 1)[0], size)
        prompts = (*KINDS[1:], KINDS[0])
        rows.append(np.hstack([source, *(paint(pipeline, source, prompt) for prompt in prompts)]))
    cv2.imwrite(str(to), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
