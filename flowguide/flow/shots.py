"""Where one shot ends and the next begins.

Two small pictures belong to one shot where the structure of one is found again in the other along the flow between
them. Structure is the grey picture with its local mean taken off and divided by its local deviation, so neither a
flash nor a fade changes it. Fast motion can hide structure but keeps the colours, so a cut needs both: structure lost
and colours changed. A picture without structure, black or burnt out, decides nothing: what follows it is compared
with what came before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..types import Frame
from .dis import search

Picture = NDArray[np.float32]
Mask = NDArray[np.bool_]

AREA_PX = 96 * 171
"""Pictures are compared at about this many pixels."""
LOCAL_PX = 6.0
"""Standard deviation of the window for local mean and deviation."""
TEXTURE_LEVELS = 2.0
"""Local deviation, in grey levels of 255, from which a pixel counts as textured."""
BURNT_LEVEL = 250.0
"""From this grey level on a pixel is burnt out."""
LEAST_TEXTURE = 0.02
"""Share of textured pixels below which a picture has no structure."""


@dataclass(frozen=True)
class Shot:
    """A run of frames without a cut."""

    first: int
    """Index of its first frame."""
    end: int
    """Index one past its last frame."""


@dataclass(frozen=True)
class Change:
    """How much one picture differs from an earlier one."""

    structure: float
    """Correlation of the structure of both along the flow between them: near 1 within a shot, near 0 across a cut."""
    colours: float
    """Half the L1 distance of the colour histograms, in [0, 1]."""


@dataclass(frozen=True)
class _Thumbnail:
    structure: Picture
    textured: Mask
    burnt: Mask
    searchable: NDArray[np.uint8]
    histogram: Picture

    @property
    def blank(self) -> bool:
        return float(self.textured.mean()) < LEAST_TEXTURE


class Cuts(Protocol):
    """Whatever tells, frame by frame, where shots begin."""

    def is_cut(self, frame: Frame) -> bool:
        """Whether a new shot begins at `frame`."""
        ...


class CutDetector:
    """Tells, frame by frame and from the past alone, whether a new shot begins.

    least_structure: a cut needs `Change.structure` below it. least_colours: and `Change.colours` above it.
    Feed the frames in order; frames may be of any size, and a change of size is a cut.
    """

    def __init__(self, least_structure: float = 0.35, least_colours: float = 0.23):
        self.least_structure = least_structure
        self.least_colours = least_colours
        self.last_change: Change | None = None
        """Of the frame fed last against the picture it was compared with; None where it was compared with none."""
        self._before: _Thumbnail | None = None

    def is_cut(self, frame: Frame) -> bool:
        """Whether a new shot begins at `frame`; False for the first frame of all."""
        picture = _thumbnail(frame)
        before, self.last_change = self._before, None
        if before is None:
            self._before = None if picture.blank else picture
            return False
        if before.structure.shape != picture.structure.shape:
            self._before = picture
            return True
        if picture.blank:
            return False
        self._before = picture
        self.last_change = _change(picture, before)
        return self.last_change.structure < self.least_structure and self.last_change.colours > self.least_colours

    def state(self) -> dict[str, Any]:
        """What `restore` needs to judge the next frame; empty where no frame has been fed."""
        return {} if self._before is None else {k: torch.from_numpy(v) for k, v in vars(self._before).items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self.last_change = None
        self._before = _Thumbnail(**{name: part.numpy() for name, part in state.items()}) if state else None


def find_shots(frames: Iterable[Frame], detector: Cuts | None = None) -> Iterator[Shot]:
    """The shots of a clip in order, each as soon as it has ended."""
    detector = detector or CutDetector()
    first = index = None
    for frame in frames:
        index = frame.index
        if first is None:
            first = index
            detector.is_cut(frame)
        elif detector.is_cut(frame):
            yield Shot(first, index)
            first = index
    if first is not None and index is not None:
        yield Shot(first, index + 1)


def _thumbnail(frame: Frame) -> _Thumbnail:
    rgb = frame.rgb.permute(1, 2, 0).contiguous().cpu().numpy()
    height, width = frame.size
    scale = min(1.0, (AREA_PX / (height * width)) ** 0.5)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA) if scale < 1 else rgb
    grey: Picture = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    centred = grey - _blurred(grey)
    deviation: Picture = np.sqrt(_blurred(centred**2))
    structure = centred / (deviation + TEXTURE_LEVELS)
    searchable = np.clip(structure * 42 + 128, 0, 255).astype(np.uint8)
    counts = cv2.calcHist([small], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3)
    histogram = np.asarray(counts.ravel() / grey.size, dtype=np.float32)
    return _Thumbnail(structure, deviation > TEXTURE_LEVELS, grey >= BURNT_LEVEL, searchable, histogram)


def _blurred(picture: Picture) -> Picture:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), LOCAL_PX), dtype=np.float32)


def _change(picture: _Thumbnail, before: _Thumbnail) -> Change:
    still = np.zeros((*picture.structure.shape, 2), np.float32)
    moved = search(picture.searchable, before.searchable, "fast")
    # On stripes and under another light the flow may go astray; a picture that hardly moves needs none.
    structure = max(_found_again(picture, before, uv) for uv in (moved, still))
    return Change(structure, 0.5 * float(np.abs(picture.histogram - before.histogram).sum()))


def _found_again(picture: _Thumbnail, before: _Thumbnail, uv: NDArray[np.float32]) -> float:
    """Correlation of the structure of both along `uv`."""
    x, y, inside = _targets(uv)
    looked_at = picture.textured | (_moved(before.textured, x, y) > 0.5)
    # Where one picture is burnt out and the other is not there is nothing to compare: a flash, or a lamp.
    looked_at &= inside & ~((_moved(before.burnt, x, y) > 0.5) ^ picture.burnt)
    return _correlation(picture.structure[looked_at], _moved(before.structure, x, y)[looked_at])


def _targets(uv: NDArray[np.float32]) -> tuple[Picture, Picture, Mask]:
    height, width = uv.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x + uv[..., 0], y + uv[..., 1]
    return x, y, (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def _moved(picture: NDArray[Any], x: Picture, y: Picture) -> Picture:
    wide = picture.astype(np.float32)
    return np.asarray(cv2.remap(wide, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), dtype=np.float32)


def _correlation(first: Picture, second: Picture) -> float:
    energy = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / energy if energy > 0 else 0.0
