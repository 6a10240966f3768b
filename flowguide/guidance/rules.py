"""Which frames become anchors: rules by name, number or list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import UnknownName, UsageError
from ..types import Frame

LEAST_COVERED = 0.7
"""Share of a frame that must be known from the last anchor."""
EDGE_THRESHOLD = 8.5
"""The edge rule's: mean difference of the edge maps, 0..255, right after an anchor."""


class AnchorRule(Protocol):
    """Looks at the frames of a shot in order and says which become anchors.

    The first and the last frame of a shot are anchors whatever the rule says.
    """

    def begin(self, frame: Frame) -> None:
        """`frame` has become an anchor."""

    def is_anchor(self, frame: Frame, gap: int, covered: float) -> bool:
        """gap: frames since the last anchor, at least 1. covered: mean confidence of what is known from it."""
        ...


class Coverage:
    """A new anchor where too little is known from the last one, or after `most` frames."""

    def __init__(self, most: int, least: float = LEAST_COVERED):
        self.most, self.least = most, least

    def begin(self, frame: Frame) -> None:
        pass

    def is_anchor(self, frame: Frame, gap: int, covered: float) -> bool:
        return gap >= self.most or covered < self.least


class Edges:
    """Where the edges of the source have changed, the less so the longer ago the last anchor is.

    The rule of ebsynth_utility and of the second seed system: both pictures' Canny edges of the largest channel,
    widened; a new anchor where their mean difference (0..255) exceeds threshold·(most − gap)/most. At least
    most/30 frames lie between two anchors.
    """

    def __init__(self, most: int, threshold: float = EDGE_THRESHOLD):
        self.most, self.threshold = most, threshold
        self._edges: NDArray[np.uint8] | None = None

    def begin(self, frame: Frame) -> None:
        self._edges = edges(frame)

    def is_anchor(self, frame: Frame, gap: int, covered: float) -> bool:
        if gap < round(self.most / 30):
            return False
        assert self._edges is not None
        change = float(np.abs(edges(frame).astype(np.int16) - self._edges).mean())
        return self.threshold * (self.most - gap) / self.most < change or gap >= self.most


class Every:
    """Each `frames`-th frame."""

    def __init__(self, frames: int):
        self.frames = frames

    def begin(self, frame: Frame) -> None:
        pass

    def is_anchor(self, frame: Frame, gap: int, covered: float) -> bool:
        return gap >= self.frames


class Given:
    """The frames of a list, counted from 0."""

    def __init__(self, numbers: frozenset[int]):
        self.numbers = numbers

    def begin(self, frame: Frame) -> None:
        pass

    def is_anchor(self, frame: Frame, gap: int, covered: float) -> bool:
        return frame.index in self.numbers


def edges(frame: Frame) -> NDArray[np.uint8]:
    """Canny edges of the largest channel, uint8 [H, W] of 0 or 255, widened by about 1/190 of the picture's side."""
    value = frame.rgb.amax(0).cpu().numpy()
    median = float(np.median(value))
    high = min(255.0, 4.0 / 3.0 * median)
    found = cv2.Canny(value, 2.0 / 3.0 * median // 1, high // 1)
    side = 4 + round(float(np.sqrt(value.size)) / 192)
    side += 1 - side % 2
    return np.asarray(cv2.dilate(found, np.ones((side, side), np.uint8)), dtype=np.uint8)


RULES: dict[str, Callable[[int], AnchorRule]] = {"coverage": Coverage, "edges": Edges}
"""Name -> rule, made with the most frames between two anchors."""


def anchor_rule(text: str, most: int) -> AnchorRule:
    """The rule that `text` names: a name of RULES, a number (each so many frames), or frames:FIRST,SECOND,… by hand.

    most: frames between two anchors at most, for the rules with a name. Raises UnknownName and UsageError.
    """
    if text in RULES:
        return RULES[text](most)
    if text.isdecimal():
        if int(text) < 1:
            raise UsageError("Anchors lie at least 1 frame apart, got 0.")
        return Every(int(text))
    kind, colon, numbers = text.partition(":")
    if kind == "frames" and colon:
        return Given(given_frames(numbers))
    raise UnknownName("anchors", text, [*RULES, "a number of frames", "frames:0,24,57"])


def given_frames(numbers: str) -> frozenset[int]:
    """'0,24,57' -> {0, 24, 57}."""
    parts = [part.strip() for part in numbers.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"Anchors by hand are frame numbers from 0, such as frames:0,24,57, got {numbers!r}.")
    return frozenset(int(part) for part in parts)


def check_given(rule: Any, frames: int | None) -> None:
    """Raise UsageError where `rule` names frames that a clip of so many `frames` (None: not known) does not have."""
    if isinstance(rule, Given) and frames is not None:
        absent = sorted(number for number in rule.numbers if number >= frames)
        if absent:
            raise UsageError(
                f"The anchors name frame {', '.join(map(str, absent))}, but the clip has frames 0 to {frames - 1}."
            )
