"""Which frame of the source each painted frame shows, where the two clips differ in beginning or frame rate.

Painting changes colours, light and dark, and texture; where things move it leaves alone. So both clips are reduced to
small maps of their edges with the mean over time taken off, which leaves what moves, and the shift at which these
maps correlate best is the offset. Where nothing moves there is nothing to find, and no harm in an offset of 0.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from .types import Frame

LOOKED_AT = 120
"""Frames at the beginning of both clips that are compared."""
FARTHEST = 60
"""Offsets up to so many frames are found."""
LEAST_CORRELATION, LEAST_GAIN = 0.12, 0.05
"""An offset is believed from this correlation on, and if it beats no offset by so much."""
MAP_PX = 48
"""Height and width of the maps of edges."""

Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Alignment:
    """Painted frame i shows source frame `offset` + i, or the source frame nearest to its time."""

    offset: int = 0
    """Source frame that the first painted frame shows; negative: the painted clip begins earlier."""
    by: Literal["number", "time"] = "number"
    """Whether frames correspond one to one, or by their times (clips of different rates)."""
    correlation: float | None = None
    """How well the moving edges agree there; None where it was not looked at."""


def align(source: Sequence[Frame], painted: Sequence[Frame], *, same_rate: bool) -> Alignment:
    """The alignment at which the beginnings of two clips agree best.

    source, painted: their first frames, up to LOOKED_AT; sizes do not matter. same_rate: their frame rates are equal;
    otherwise times are believed unless counting frames agrees better.
    """
    ways: list[Literal["number", "time"]] = ["number"] if same_rate else ["time", "number"]
    maps, painted_maps = (np.stack([_edges(frame) for frame in frames]) for frames in (source, painted))
    found = []
    for way in ways:
        plain = best = _agreement(maps, painted_maps, _partners(source, painted, 0, way))
        offset = 0
        for candidate in _offsets(len(source), len(painted)):
            value = _agreement(maps, painted_maps, _partners(source, painted, candidate, way))
            if value > max(best, LEAST_CORRELATION, plain + LEAST_GAIN):
                offset, best = candidate, value
        found.append(Alignment(offset, way, best))
    first, other = found[0], found[-1]
    needed = 0.0 if first.offset and not other.offset else LEAST_GAIN
    return other if (other.correlation or 0.0) > (first.correlation or 0.0) + needed else first


def pairs(source: Iterable[Frame], painted: Iterable[Frame], alignment: Alignment) -> Iterator[tuple[Frame, Frame]]:
    """Each painted frame with the source frame it shows, which gets its index and time; ends with the shorter clip.

    Painted frames without a source frame of their own (before its beginning, or further ones between two of its
    frames) are left out.
    """
    ours, theirs = iter(source), iter(painted)
    collections.deque(itertools.islice(theirs, max(0, -alignment.offset)), maxlen=0)
    collections.deque(itertools.islice(ours, max(0, alignment.offset)), maxlen=0)
    matched = zip(ours, theirs, strict=False) if alignment.by == "number" else _by_time(ours, theirs)
    for index, (shown, given) in enumerate(matched):
        yield replace(shown, index=index, pts=given.pts, time_base=given.time_base), replace(given, index=index)


def _by_time(source: Iterator[Frame], painted: Iterator[Frame]) -> Iterator[tuple[Frame, Frame]]:
    """Each frame of the slower clip with the frame of the other that is nearest in time."""
    ours, theirs = list(itertools.islice(source, 2)), list(itertools.islice(painted, 2))
    source, painted = itertools.chain(ours, source), itertools.chain(theirs, painted)
    if not ours or not theirs:
        return
    lag = ours[0].seconds - theirs[0].seconds
    if _lasts(theirs) >= _lasts(ours):
        for given, shown in _nearest(painted, source, lag, _lasts(ours)):
            yield shown, given
    else:
        yield from _nearest(source, painted, -lag, _lasts(theirs))


def _lasts(frames: Sequence[Frame]) -> float:
    return frames[1].seconds - frames[0].seconds if len(frames) > 1 else 1.0 / 24.0


def _nearest(
    slow: Iterator[Frame], fast: Iterator[Frame], lag: float, fast_lasts: float
) -> Iterator[tuple[Frame, Frame]]:
    """(slow, the fast frame nearest to its time + lag), until the fast clip has ended."""
    here, after = next(fast), next(fast, None)
    for frame in slow:
        wanted = frame.seconds + lag
        while after is not None and abs(after.seconds - wanted) < abs(here.seconds - wanted):
            here, after = after, next(fast, None)
        if after is None and wanted > here.seconds + fast_lasts / 2:
            return
        yield frame, here


def _offsets(source: int, painted: int) -> list[int]:
    """Offsets that leave at least half of the shorter beginning in common, nearest first."""
    least = max(2, min(source, painted) // 2)
    found = range(max(-FARTHEST, least - painted), min(FARTHEST, source - least) + 1)
    return sorted((offset for offset in found if offset), key=abs)


def _partners(source: Sequence[Frame], painted: Sequence[Frame], offset: int, by: str) -> list[tuple[int, int]]:
    """(painted, source) positions that belong together."""
    first = max(0, -offset)
    if by == "number":
        return [(i, i + offset) for i in range(first, len(painted)) if i + offset < len(source)]
    start = max(0, offset)
    if first >= len(painted) or start >= len(source):
        return []
    times = np.array([frame.seconds for frame in source]) - source[start].seconds
    found = []
    for position in range(first, len(painted)):
        wanted = painted[position].seconds - painted[first].seconds
        if wanted <= times[-1] + 1e-6:
            found.append((position, int(np.abs(times - wanted).argmin())))
    return found


def _agreement(source: Maps, painted: Maps, partners: list[tuple[int, int]]) -> float:
    """Mean correlation of the maps that belong together, without what stands still among them."""
    if len(partners) < 2:
        return 0.0
    ours, theirs = painted[[p for p, _ in partners]], source[[s for _, s in partners]]
    ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)
    norms = np.sqrt((ours**2).sum(1) * (theirs**2).sum(1))
    return float(((ours * theirs).sum(1) / np.maximum(norms, 1e-6)).mean())


def _edges(frame: Frame) -> Maps:
    """[MAP_PX²]: edges of a small picture, evened out over it."""
    rgb = frame.rgb.permute(1, 2, 0).contiguous().cpu().numpy()
    small = cv2.resize(rgb, (4 * MAP_PX, 4 * MAP_PX), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    length = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    strong = cv2.resize(length, (MAP_PX, MAP_PX), interpolation=cv2.INTER_AREA)
    even = strong / (cv2.GaussianBlur(strong, (0, 0), 5) + 1.0)
    return np.asarray(even.ravel(), dtype=np.float32)
