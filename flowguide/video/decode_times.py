"""When packets are to be decoded, told from when their frames are shown."""

from __future__ import annotations

from collections.abc import Sequence


def ranks(times: Sequence[int]) -> list[int]:
    """For each of `times`, how many come before it."""
    order = [0] * len(times)
    for rank, position in enumerate(sorted(range(len(times)), key=times.__getitem__)):
        order[position] = rank
    return order


def decode_times(pts: Sequence[int], order: Sequence[int]) -> list[int]:
    """When each packet is to be decoded, in units of pts: strictly increasing, none after its frame is shown.

    pts: of all frames in order of showing, strictly increasing. order: which of them each packet holds.
    """
    delay = max((position - rank for position, rank in enumerate(order)), default=0)
    if not delay:
        return list(pts)
    before = pts[delay] - pts[0]
    return [*(early - before for early in pts[:delay]), *pts[:-delay]]
