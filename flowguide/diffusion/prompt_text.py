"""The grammar of a prompt: bracket weights, and schedules over frames.

Weights as A1111 writes them: `(words)` counts 1.1 times, `[words]` 1/1.1 times, `(words:1.3)` 1.3 times; brackets
nest, `\\(` is a plain bracket. A schedule is `0:(one prompt) 48:(another)`, frame numbers rising.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UsageError

STRONGER = 1.1
_SCHEDULE = re.compile(r"\s*\d+\s*:\s*\(")
_FRAME = re.compile(r"\s*(\d+)\s*:\s*\(")
_PIECE = re.compile(r"\\[()\[\]\\]|:\s*([+-]?\d*\.?\d+)\s*\)|[()\[\]]|[^\\()\[\]:]+|.", re.DOTALL)


def weighted(prompt: str) -> list[tuple[str, float]]:
    """The prompt as pieces of text with their weights. An unclosed bracket counts to the end, as in A1111."""
    pieces: list[tuple[str, float]] = []
    open_round: list[int] = []
    open_square: list[int] = []

    def weigh(first: int, weight: float) -> None:
        pieces[first:] = [(text, old * weight) for text, old in pieces[first:]]

    for match in _PIECE.finditer(prompt):
        piece, number = match.group(0), match.group(1)
        if piece == "(":
            open_round.append(len(pieces))
        elif piece == "[":
            open_square.append(len(pieces))
        elif number is not None and open_round:
            weigh(open_round.pop(), float(number))
        elif piece == ")" and open_round:
            weigh(open_round.pop(), STRONGER)
        elif piece == "]" and open_square:
            weigh(open_square.pop(), 1.0 / STRONGER)
        else:
            pieces.append((piece[1:] if len(piece) == 2 and piece[0] == "\\" else piece, 1.0))
    for first in open_round:
        weigh(first, STRONGER)
    for first in open_square:
        weigh(first, 1.0 / STRONGER)
    return _joined(pieces)


def _joined(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    joined: list[tuple[str, float]] = []
    for text, weight in pieces:
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        else:
            joined.append((text, weight))
    return joined or [("", 1.0)]


@dataclass(frozen=True)
class PromptSchedule:
    """Prompts at frames; between two of them their embeddings are mixed in proportion to the distance."""

    frames: tuple[int, ...]
    texts: tuple[str, ...]

    def at(self, frame: int) -> tuple[str, str, float]:
        """(this prompt, the next one, share of the next in [0, 1)) at `frame`."""
        after = next((index for index, start in enumerate(self.frames) if start > frame), len(self.frames))
        before = max(after - 1, 0)
        if after in (0, len(self.frames)):
            return self.texts[before], self.texts[before], 0.0
        start, end = self.frames[before], self.frames[after]
        return self.texts[before], self.texts[after], (frame - start) / (end - start)


def prompt_schedule(text: str) -> PromptSchedule:
    """The schedule in `text`; a text that does not begin as a schedule is one prompt for all frames.

    Raises UsageError with the place where it does not parse.
    """
    if not _SCHEDULE.match(text):
        return PromptSchedule((0,), (text,))
    frames: list[int] = []
    texts: list[str] = []
    place = 0
    while text[place:].strip():
        head = _FRAME.match(text, place)
        if head is None:
            place += len(text[place:]) - len(text[place:].lstrip())
            raise _unparsed(text, place, "a frame number, a colon and an opening bracket, as in 48:(")
        if frames and int(head.group(1)) <= frames[-1]:
            raise _unparsed(text, head.start(1), f"a frame number above {frames[-1]}")
        end = _closing(text, head.end())
        frames.append(int(head.group(1)))
        texts.append(text[head.end() : end])
        place = end + 1
    return PromptSchedule(tuple(frames), tuple(texts))


def _closing(text: str, start: int) -> int:
    """Where the bracket that was opened before `start` closes."""
    depth, place = 1, start
    while place < len(text):
        if text[place] == "\\":
            place += 1
        elif text[place] == "(":
            depth += 1
        elif text[place] == ")":
            depth -= 1
            if depth == 0:
                return place
        place += 1
    raise _unparsed(text, len(text), "a closing bracket; write a plain bracket as \\(")


def _unparsed(text: str, place: int, expected: str) -> UsageError:
    got = repr(text[place : place + 12]) if place < len(text) else "its end"
    return UsageError(f"The prompt schedule does not parse at character {place + 1}: expected {expected}, got {got}.")
