"""Every error a user can meet: what was wrong, what was got, what to do.

The command line prints the sentence and exits with `exit_code`; a library caller catches `FlowguideError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FlowguideError(Exception):
    """Base of all errors raised on purpose. `exit_code` is what the command line exits with."""

    exit_code = 1


class UsageError(FlowguideError):
    """The request itself cannot be carried out: a wrong option, name, size or combination."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is not in a table, answered with the nearest one that is."""

    def __init__(self, kind: str, got: str, known: Iterable[str]):
        names = sorted(known)
        nearest = difflib.get_close_matches(got, names, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        super().__init__(f"Unknown {kind} {got!r}.{hint} Known: {', '.join(names)}.")


class VideoError(FlowguideError):
    """A video that cannot be read or written."""


class ModelError(FlowguideError):
    """A checkpoint that cannot be loaded or does not fit the request."""


class BackendMissing(FlowguideError):
    """An implementation or optional package that was asked for by name and is not here."""


class ScheduleError(FlowguideError):
    """A user's own schedule raised or returned something unusable."""


class Interrupted(FlowguideError):
    """The user stopped the run between two frames."""

    exit_code = 130
