"""Frames are encoded behind the painting, on a thread of its own, and never far behind."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol

from ..timing import span
from ..types import Frame

MOST_WAITING = 4
"""Frames that wait for the encoder; then the painting waits."""


class TakesFrames(Protocol):
    def write(self, frame: Frame) -> None: ...


class Behind:
    """Hands frames to writers in order; a context manager. What fails there is raised by a later call."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._waiting: deque[Future[None]] = deque()

    def write(self, writer: TakesFrames, frame: Frame) -> None:
        """Give `frame` to `writer` soon; waits while MOST_WAITING frames are not written."""
        while len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(_write, writer, frame))

    def settle(self) -> None:
        """Wait until all is written that was given."""
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            self.settle()


def _write(writer: TakesFrames, frame: Frame) -> None:
    with span("encode picture", frame=frame.index):
        writer.write(frame)
