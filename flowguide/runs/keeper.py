"""Commits finished segments beside the painting: the disk is waited for by a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from ..timing import span
from ..video.nvenc import NvencSegment
from ..video.segments import SegmentWriter
from .disk import check_room
from .journal import Journal
from .state_file import PackedState


@dataclass(frozen=True)
class Painted:
    """A segment whose last frame is painted."""

    number: int
    first: int
    """Index of its first frame."""
    writer: SegmentWriter | NvencSegment
    state: PackedState | None
    """What the first frame after it needs, or None where that is not to be kept."""
    shots: int
    began: float
    """When painting it began, as `time.perf_counter` tells it."""
    anchors: list[int]
    """Indices of frames that are anchors."""
    carried: float
    """Sum over its frames of the share that was carried."""
    stage_seconds: dict[str, float]


class Keeper:
    """Takes painted segments and commits them in order, one at a time; a context manager.

    Leaving the block waits for what is under way. What fails there is raised by the next `keep`, or on leaving.
    """

    def __init__(self, journal: Journal, committed: Callable[[Painted], None]) -> None:
        """committed: called in the thread after each commit."""
        self._journal, self._committed = journal, committed
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._under_way: Future[None] | None = None

    def keep(self, painted: Painted) -> None:
        """Commit `painted` soon; waits while the one before it is not committed."""
        self.settle()
        self._under_way = self._pool.submit(self._commit, painted)

    def settle(self) -> None:
        """Wait until all is committed that was given. Raises what went wrong with it."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def _commit(self, painted: Painted) -> None:
        with span("commit", segment=painted.number):
            self._committed_to_disk(painted)

    def _committed_to_disk(self, painted: Painted) -> None:
        journal, after = self._journal, painted.number + 1
        with painted.writer as writer:
            segment = writer.finish()
        if painted.state is not None:
            journal.save_state(after, painted.state)
        seconds = time.perf_counter() - painted.began
        journal.commit(
            painted.number, painted.first, segment, shots=painted.shots, seconds=seconds, anchors=painted.anchors,
            carried=painted.carried, stage_seconds=painted.stage_seconds,
        )  # fmt: skip
        self._committed(painted)
        check_room(journal.folder, segment.path.stat().st_size + 2 * journal.state_bytes(after))

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        if kind is None:
            self.settle()
