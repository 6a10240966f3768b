"""Which pictures of a clip are given out, and when: another frame rate, and rates as users write them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

from flowguide.errors import UsageError

from .filters import Timed

FASTEST = 1000
_NTSC = {"23.976": Fraction(24000, 1001), "29.97": Fraction(30000, 1001), "59.94": Fraction(60000, 1001)}
_FINEST = 10_000_000
"""Units per second beyond which containers lose count."""


def read_rate(text: str | Fraction) -> Fraction:
    """Frames per second, written 24, 12.5, 30000/1001 or 29.97. Raises UsageError for anything else."""
    try:
        rate = _NTSC.get(str(text).strip()) or Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not Fraction(1, 1000) <= rate <= FASTEST:
        raise UsageError(f"A frame rate is written 24, 12.5 or 30000/1001, up to {FASTEST}, got {text!r}.")
    return rate.limit_denominator(1_000_000)


def units_of(time_base: Fraction, rate: Fraction) -> Fraction:
    """The longest unit in which both `time_base` and the time from frame to frame at `rate` are whole."""
    step = 1 / rate
    shared = Fraction(
        math.gcd(time_base.numerator * step.denominator, step.numerator * time_base.denominator),
        time_base.denominator * step.denominator,
    )
    return shared if shared.denominator <= _FINEST else step


def at_rate(pictures: Iterable[Timed], time_base: Fraction, rate: Fraction) -> Iterator[Timed]:
    """`pictures` at equal distances, from the first one's time on, with pts in `units_of(time_base, rate)`.

    Each picture goes to the nearest place; of several for one place the last is taken, an empty place repeats the
    picture before it. The last picture stays as long as the one before it.
    """
    units = units_of(time_base, rate)
    step = round(1 / rate / units)
    held: Timed | None = None
    first = origin = place = lasting = 0
    for pts, picture in pictures:
        if held is None:
            first, origin = pts, round(pts * time_base / units)
        else:
            lasting = pts - held[0]
        due = _nearest((pts - first) * time_base * rate)
        if held is not None:
            for waiting in range(place, due):
                yield origin + waiting * step, held[1]
            place = max(place, due)
        held = pts, picture
    if held is not None:
        end = _nearest((held[0] + lasting - first) * time_base * rate)
        for waiting in range(place, max(end, place + 1)):
            yield origin + waiting * step, held[1]


def _nearest(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))
