"""Several clips at once, each a run of its own, with one model whose batch has a row for each of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock, Thread

from ..config import Option, RenderConfig, changed
from ..diffusion.checkpoint import load_checkpoint
from ..diffusion.lanes import Lanes
from ..errors import FlowguideError, Interrupted
from ..machine import choose_device, choose_dtype
from .batch import Entry
from .clip import SEGMENT_FRAMES, Request, render


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
    lanes, alone = Lanes(checkpoint, used), changed(settings, lanes=1)
    waiting, lock = deque(outputs.items()), Lock()
    entries: dict[str | Path, Entry] = {}
    stopped: list[BaseException] = []

    def work(lane: int) -> None:
        own = lanes.checkpoint(lane)
        with lanes.working(lane):
            while not stopped:
                with lock:
                    if not waiting:
                        return
                    source, output = waiting.popleft()
                try:
                    made = render(
                        source, output, config=alone, request=request, segment_frames=segment_frames,
                        should_stop=lambda: bool(stopped) or (should_stop is not None and should_stop()),
                        checkpoint=own,
                    )  # fmt: skip
                    entry = Entry(str(source), str(output), made.frames, None)
                except FlowguideError as failure:
                    if isinstance(failure, Interrupted):
                        stopped.append(failure)
                        return
                    entry = Entry(str(source), str(output), None, str(failure))
                except BaseException as failure:
                    stopped.append(failure)
                    return
                with lock:
                    entries[source] = entry
                    if on_done is not None:
                        on_done(entry)

    for lane in range(used):
        lanes.begin(lane)
    threads = [Thread(target=work, args=(lane,), name=f"lane {lane}") for lane in range(used)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        stopped.append(Interrupted("Stopped."))
        for thread in threads:
            thread.join()
        raise
    if stopped:
        raise stopped[0]
    return [entries[source] for source in outputs]
