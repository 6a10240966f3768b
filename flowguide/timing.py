"""Where the time of a frame goes: seconds per stage always, and on request a trace of what ran when and beside what."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

from .errors import UsageError

MODEL_STAGES = ("encode", "unet", "decode", "frame")
"""Stages that are the model's own calls, `frame` where a whole frame is one recording; everything else is what
flowguide adds."""
MAIN = "paint"
"""Name of the main thread's row."""


class StageClock:
    """Seconds per named stage, on the monotonic clock. Stages do not nest."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            ended = time.perf_counter()
            self.seconds[stage] += ended - started
            if _trace is not None:
                _trace.add(stage, started, ended)


class Trace:
    """Writes what ran when as Chrome's trace events (one JSON array; Perfetto and chrome://tracing open it).

    One row per thread. Events are written as they end, so a run that is killed leaves a file that still opens.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._rows: dict[str, int] = {}
        self._began = time.perf_counter()
        self._process = os.getpid()
        stream.write("[\n")
        self._write({"ph": "M", "name": "process_name", "pid": self._process, "args": {"name": "flowguide"}}, "")

    def add(self, name: str, started: float, ended: float, **told: Any) -> None:
        """An event of this thread; times as `time.perf_counter` tells them. told: shown with the event."""
        with self._lock:
            microseconds = {
                "ts": round((started - self._began) * 1e6, 1),
                "dur": round((ended - started) * 1e6, 1),
            }
            event = {"ph": "X", "name": name, "pid": self._process, "tid": self._row(), **microseconds}
            self._write(event | ({"args": told} if told else {}))

    def end(self) -> None:
        """Complete the array."""
        with self._lock:
            self._stream.write("\n]\n")

    def _row(self) -> int:
        """Number of the row of threads with this one's name; numbers of threads are used again, names are not."""
        thread = threading.current_thread()
        name = MAIN if thread is threading.main_thread() else thread.name.removesuffix("_0")
        if name not in self._rows:
            row = self._rows[name] = len(self._rows)
            told = {"pid": self._process, "tid": row}
            self._write({"ph": "M", "name": "thread_name", **told, "args": {"name": name}})
            self._write({"ph": "M", "name": "thread_sort_index", **told, "args": {"sort_index": row}})
        return self._rows[name]

    def _write(self, event: dict[str, Any], before: str = ",\n") -> None:
        self._stream.write(before + json.dumps(event))


_trace: Trace | None = None


@contextmanager
def tracing(path: Path | None) -> Iterator[None]:
    """Within the block everything timed goes into the trace `path`; None traces nothing. Raises UsageError where the
    file cannot be written, and where a trace is being written already."""
    global _trace
    if path is None:
        yield
        return
    if _trace is not None:
        raise UsageError("A trace is being written already; one process writes one at a time.")
    try:
        stream = path.open("w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"The trace {path} cannot be written ({error.strerror or error}); name another.") from error
    with stream:
        _trace = Trace(stream)
        try:
            yield
        finally:
            ended, _trace = _trace, None
            ended.end()


_NOTHING = nullcontext()


def span(name: str, **told: Any) -> AbstractContextManager[None]:
    """What runs within the block goes into the trace as `name`; where none is written it costs a comparison."""
    return _NOTHING if _trace is None else _span(_trace, name, told)


@contextmanager
def _span(trace: Trace, name: str, told: dict[str, Any]) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        trace.add(name, started, time.perf_counter(), **told)
