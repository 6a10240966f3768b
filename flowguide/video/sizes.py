"""The one place where a picture size is read and fitted. Sizes are (height, width); users write WIDTHxHEIGHT."""

from __future__ import annotations

import re

from flowguide.errors import UsageError

SMALLEST_PX, LARGEST_PX = 16, 16384
_WRITTEN = re.compile(r"(?P<width>\d*)\s*[xX×]\s*(?P<height>\d*)|(?P<only>\d+)")


def fit_size(size: tuple[int, int], requested: str | int | tuple[int, int] | None) -> tuple[int, int]:
    """The (height, width) that `requested` means for a clip of `size` = (height, width).

    `None` keeps the size. `384` or `"384"` is a height, `"640x"` a width: the other side keeps the aspect and is
    rounded to an even number. `"640x384"` is width × height, as users write it, and a pair is (height, width);
    both are taken as they are. Raises UsageError for anything else and for sides outside 16…16384 pixels.
    """
    if requested is None:
        return size
    height, width = _sides(requested)
    if height is None and width is None:
        raise _not_a_size(requested)
    if width is None:
        assert height is not None
        width = _even(size[1] * height / size[0])
    elif height is None:
        height = _even(size[0] * width / size[1])
    if not all(SMALLEST_PX <= side <= LARGEST_PX for side in (height, width)):
        raise UsageError(
            f"A picture side is between {SMALLEST_PX} and {LARGEST_PX} pixels, "
            f"but {requested!r} gives {width}x{height} (width x height)."
        )
    return height, width


def _sides(requested: str | int | tuple[int, int]) -> tuple[int | None, int | None]:
    if isinstance(requested, tuple):
        height, width = requested
        return int(height), int(width)
    written = _WRITTEN.fullmatch(str(requested).strip())
    if written is None:
        raise _not_a_size(requested)
    if written["only"]:
        return int(written["only"]), None
    return int(written["height"]) if written["height"] else None, int(written["width"]) if written["width"] else None


def _even(pixels: float) -> int:
    return max(2, 2 * round(pixels / 2))


def _not_a_size(requested: object) -> UsageError:
    return UsageError(f"A size is a height like '384' or WIDTHxHEIGHT like '640x384', got {requested!r}.")
