"""Clips beside each other in one video, with their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..types import Frame
from ..video import ClipReader, ClipWriter

LABEL_HEIGHT_PX = 28


def write_side_by_side(clips: Mapping[str, Path], output: Path, *, max_frames: int | None = None) -> int:
    """Write `clips` (label -> file) beside each other into `output` and return the number of frames.

    All clips should have the same size; the times are those of the first, and so is the end of the shortest.
    Raises UsageError where sizes differ.
    """
    if not clips:
        raise UsageError("At least one clip is needed for a comparison.")
    readers = [ClipReader(path, max_frames=max_frames) for path in clips.values()]
    try:
        sizes = {label: reader.info.size for label, reader in zip(clips, readers, strict=True)}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{label} {width}x{height}" for label, (height, width) in sizes.items())
            raise UsageError(f"Clips to be compared should have one size, got {told}.")
        height, width = next(iter(sizes.values()))
        size = (height + LABEL_HEIGHT_PX, width * len(clips))
        banner = _banner(list(clips), width)
        info = readers[0].info
        count = 0
        with ClipWriter(output, size=size, time_base=info.time_base, frame_rate=info.frame_rate) as writer:
            for frames in zip(*readers, strict=False):
                row = torch.cat([frame.rgb for frame in frames], dim=2)
                first = frames[0]
                writer.write(Frame(torch.cat([banner, row], dim=1), first.index, first.pts, first.time_base))
                count += 1
        return count
    finally:
        for reader in readers:
            reader.close()


def _banner(labels: list[str], width: int) -> Tensor:
    strip = np.full((LABEL_HEIGHT_PX, width * len(labels), 3), 24, dtype=np.uint8)
    for column, label in enumerate(labels):
        place = (column * width + 8, LABEL_HEIGHT_PX - 9)
        cv2.putText(strip, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (235, 235, 235), 1, cv2.LINE_AA)
    return torch.from_numpy(strip).permute(2, 0, 1)
