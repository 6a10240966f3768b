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
from queue import Full, Queue
from types import TracebackType

from ..types import Flow, Frame
from .protocol import FlowEstimator

Both = tuple[Flow, Flow]


class Lookahead:
    """The frames of a clip, and an estimator that has both flows between each frame and the one before it ready.

    At most `depth` frames are read ahead. prepare: what is done to a frame before its flow is asked for, such as
    padding. Pairs other than neighbours are estimated when they are asked for. Errors of the reader or the estimator
    are raised where the frame or the flow is asked for. Results are those of `estimator`.
    """

    def __init__(
        self,
        frames: Iterable[Frame],
        estimator: FlowEstimator,
        depth: int = 4,
        prepare: Callable[[Frame], Frame] | None = None,
    ):
        self.estimator = estimator
        self._source = frames
        self._prepare = prepare
        self._ready: Queue[Frame | Exception | None] = Queue(depth)
        self._pairs: OrderedDict[tuple[int, int], Future[Both]] = OrderedDict()
        self._kept = depth + 2
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
        try:
            for frame in self._source:
                prepared = frame if self._prepare is None else self._prepare(frame)
                future: Future[Both] = Future()
                if before is not None:
                    self._announce(prepared.index, before.index, future)
                if not self._hand_over(frame):
                    future.cancel()
                    return
                if before is not None:
                    self._fulfil(future, prepared, before)
                before = prepared
            self._hand_over(None)
        except Exception as error:
            self._hand_over(error)

    def _announce(self, at: int, to: int, future: Future[Both]) -> None:
        with self._lock:
            self._pairs[at, to] = future
            while len(self._pairs) > self._kept:
                self._pairs.popitem(last=False)

    def _fulfil(self, future: Future[Both], at: Frame, to: Frame) -> None:
        try:
            future.set_result(self.estimator.both(at, to))
        except Exception as error:
            future.set_exception(error)

    def _hand_over(self, found: Frame | Exception | None) -> bool:
        """False where nobody wants it any more."""
        while not self._stop.is_set():
            try:
                self._ready.put(found, timeout=0.1)
            except Full:
                continue
            return True
        return False
