"""Several clips at once, each a run of its own, with one model whose batch has a row for each of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock, Thread

from ..config import Option, RenderConfig, changed
from ..diffusion.checkpoint import Checkpoint, load_checkpoint
from ..diffusion.lanes import Lanes
from ..errors import FlowguideError, Interrupted
from ..machine import choose_device, choose_dtype
from .batch import Entry
from .clip import SEGMENT_FRAMES, RenderReport, render
from .request import Request


def render_many(
    outputs: Mapping[str | Path, str | Path],
    *,
    config: RenderConfig | None = None,
    request: Request = Request(),  # noqa: B008
    segment_frames: int = SEGMENT_FRAMES,
    on_done: Callable[[Entry], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **options: Option,
) -> list[Entry]:
    """Paint each clip into its output, `lanes` clips at once; what became of each, in order.

    outputs: source -> output. config, options, request, segment_frames, should_stop: as of `render`, for every clip.
    on_done: called after each clip, one at a time. A clip that fails stops no other one; results are those of `render`
    but for the last bits. Raises ModelError and UsageError before the first frame, Interrupted where it was stopped.
    """
    settings = changed(config or RenderConfig(), **options)
    device = choose_device(settings.device)
    checkpoint = load_checkpoint(settings.model, choose_dtype(settings.dtype, device), device, settings)
    used = max(1, min(settings.lanes, len(outputs)))
    lanes, work = Lanes(checkpoint, used), _Work(outputs, on_done, should_stop)

    def paint(source: str | Path, output: str | Path, own: Checkpoint) -> RenderReport:
        return render(
            source, output, config=changed(settings, lanes=1), request=request, segment_frames=segment_frames,
            should_stop=work.stop_asked, checkpoint=own,
        )  # fmt: skip

    def lane(number: int) -> None:
        own = lanes.checkpoint(number)
        with lanes.working(number):
            work.do(lambda source, output: paint(source, output, own))

    for number in range(used):
        lanes.begin(number)
    threads = [Thread(target=lane, args=(number,), name=f"lane {number}") for number in range(used)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        work.stopped.append(Interrupted("Stopped."))
        for thread in threads:
            thread.join()
        raise
    if work.stopped:
        raise work.stopped[0]
    return [work.entries[source] for source in outputs]


class _Work:
    """Clips that wait for a lane, and what became of those that had one."""

    def __init__(
        self,
        outputs: Mapping[str | Path, str | Path],
        on_done: Callable[[Entry], None] | None,
        should_stop: Callable[[], bool] | None,
    ):
        self.entries: dict[str | Path, Entry] = {}
        self.stopped: list[BaseException] = []
        """What ends the work of all lanes."""
        self._waiting, self._lock = deque(outputs.items()), Lock()
        self._on_done, self._should_stop = on_done, should_stop

    def stop_asked(self) -> bool:
        return bool(self.stopped) or (self._should_stop is not None and self._should_stop())

    def do(self, paint: Callable[[str | Path, str | Path], RenderReport]) -> None:
        """One lane's: clip after clip, as long as some wait."""
        while not self.stopped:
            with self._lock:
                if not self._waiting:
                    return
                source, output = self._waiting.popleft()
            try:
                entry = Entry(str(source), str(output), paint(source, output).frames, None)
            except Interrupted as stop:
                self.stopped.append(stop)
                return
            except FlowguideError as failure:
                entry = Entry(str(source), str(output), None, str(failure))
            except BaseException as failure:
                self.stopped.append(failure)
                return
            with self._lock:
                self.entries[source] = entry
                if self._on_done is not None:
                    self._on_done(entry)
