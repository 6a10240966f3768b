"""Flow found ahead of the frames that need it, on a thread of its own.

with Lookahead(reader, estimator("dis")) as ahead:
    for frame in ahead:                        # the reader's frames, in order
        flow, back = ahead.both(frame, before)  # found already, or waited for
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import Full, Queue
from types import TracebackType

from ..timing import span
from ..types import Flow, Frame
from .protocol import FlowEstimator, PairEstimator

Both = tuple[Flow, Flow]


class Lookahead:
    """The frames of a clip, and an estimator that has both flows between each frame and the one before it ready.

    At most `depth` frames are read ahead. batch: pairs that are found together; without it, as many as the estimator
    likes, and never more than `depth`. prepare: what is done to a frame before its flow is asked for, such as
    padding. Pairs other than neighbours are estimated when they are asked for. Errors of the reader or the estimator
    are raised where the frame or the flow is asked for. Results are those of `estimator`.
    """

    def __init__(
        self,
        frames: Iterable[Frame],
        estimator: FlowEstimator,
        depth: int = 4,
        prepare: Callable[[Frame], Frame] | None = None,
        batch: int | None = None,
    ):
        self.estimator = estimator
        self._source = frames
        self._prepare = prepare
        self._ready: Queue[Frame | Exception | None] = Queue(depth)
        self._pairs: OrderedDict[tuple[int, int], Future[Both]] = OrderedDict()
        self._kept = depth + 2
        # With more than the queue holds, the caller would wait for a flow and the worker for room.
        self._batch = min(depth, batch or getattr(estimator, "at_once", 1))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._worker = threading.Thread(target=self._run, name="flow lookahead", daemon=True)

    @property
    def name(self) -> str:
        return self.estimator.name

    def __enter__(self) -> Lookahead:
        self._worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._worker.join()
        for future in self._pairs.values():
            future.cancel()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            found = self._ready.get()
            if found is None:
                return
            if isinstance(found, Exception):
                raise found
            yield found

    def __call__(self, at: Frame, to: Frame) -> Flow:
        ready = self._found(at, to)
        return self.estimator(at, to) if ready is None else ready[0]

    def both(self, at: Frame, to: Frame) -> Both:
        ready = self._found(at, to)
        return self.estimator.both(at, to) if ready is None else ready

    def _found(self, at: Frame, to: Frame) -> Both | None:
        with self._lock:
            future = self._pairs.get((at.index, to.index))
        if future is None:
            return None
        flows = future.result()
        return flows if flows[0].size == at.size == to.size else None

    def _run(self) -> None:
        before: Frame | None = None
        wanted: list[tuple[Future[Both], Frame, Frame]] = []
        try:
            for frame in _read(self._source):
                prepared = frame if self._prepare is None else self._prepare(frame)
                if before is not None:
                    future: Future[Both] = Future()
                    self._announce(prepared.index, before.index, future)
                    wanted.append((future, prepared, before))
                if not self._hand_over(frame):
                    return
                if len(wanted) >= self._batch:
                    self._fulfil(wanted)
                    wanted = []
                before = prepared
            self._fulfil(wanted)
            self._hand_over(None)
        except Exception as error:
            self._fulfil(wanted)
            self._hand_over(error)

    def _announce(self, at: int, to: int, future: Future[Both]) -> None:
        with self._lock:
            self._pairs[at, to] = future
            while len(self._pairs) > self._kept:
                self._pairs.popitem(last=False)

    def _fulfil(self, wanted: list[tuple[Future[Both], Frame, Frame]]) -> None:
        try:
            with span("find flow", frames=[at.index for _, at, _ in wanted]):
                found = self._several([(at, to) for _, at, to in wanted])
        except Exception as error:
            for future, _, _ in wanted:
                future.set_exception(error)
            return
        for (future, _, _), flows in zip(wanted, found, strict=True):
            future.set_result(flows)

    def _several(self, pairs: list[tuple[Frame, Frame]]) -> list[Both]:
        if len(pairs) > 1 and isinstance(self.estimator, PairEstimator):
            return self.estimator.several(pairs)
        return [self.estimator.both(at, to) for at, to in pairs]

    def _hand_over(self, found: Frame | Exception | None) -> bool:
        """False where nobody wants it any more."""
        while not self._stop.is_set():
            try:
                self._ready.put(found, timeout=0.1)
            except Full:
                continue
            return True
        return False


def _read(frames: Iterable[Frame]) -> Iterator[Frame]:
    """`frames`, each timed."""
    source = iter(frames)
    while True:
        with span("read and convert"):
            frame = next(source, None)
        if frame is None:
            return
        yield frame


class Ahead:
    """`estimator`, with flows found ahead while a clip is read through `over`; depth 0 never does."""

    def __init__(self, estimator: FlowEstimator, depth: int, prepare: Callable[[Frame], Frame]):
        self.estimator = estimator
        self._depth, self._prepare = depth, prepare
        self._now: FlowEstimator = estimator

    @property
    def name(self) -> str:
        return self.estimator.name

    def __call__(self, at: Frame, to: Frame) -> Flow:
        return self._now(at, to)

    def both(self, at: Frame, to: Frame) -> Both:
        return self._now.both(at, to)

    @contextmanager
    def over(self, frames: Iterable[Frame], *, wanted: bool = True) -> Iterator[Iterable[Frame]]:
        """The frames; read ahead where their flow is `wanted`."""
        if not wanted or not self._depth:
            yield frames
            return
        with Lookahead(frames, self.estimator, self._depth, self._prepare) as ahead:
            self._now = ahead
            try:
                yield ahead
            finally:
                self._now = self.estimator
