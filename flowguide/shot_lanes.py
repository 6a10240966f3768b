"""Shots of one clip painted in lanes: a shot begins anew, so nothing in it waits for the shot before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread

from .config import Option, RenderConfig, changed
from .diffusion.checkpoint import Checkpoint
from .diffusion.lanes import Lanes
from .diffusion.sampling import StepCallback
from .flow import FlowEstimator
from .flow.shot_list import GivenCuts
from .renderer import Renderer, Styled
from .timing import MODEL_STAGES
from .types import Frame


@dataclass
class _Shot:
    """Frames of one shot, and where they come out painted."""

    number: int
    frames: list[Frame]
    begins: bool
    """Whether its first frame is here; else it goes on from the call before."""
    out: SimpleQueue[Styled | BaseException | None] = field(default_factory=SimpleQueue)
    """None at the end."""


class ShotLanes(Renderer):
    """Paints the shots of what it is called with side by side, `config.lanes` of them at once.

    A call holds all its frames in memory: cuts are found first, and frames of later shots are ready before it is their
    turn. Results are those of a Renderer but for the last bits; `step` and `render` work on one frame, as there.
    """

    def __init__(
        self,
        config: RenderConfig,
        *,
        checkpoint: Checkpoint | None = None,
        flow: FlowEstimator | None = None,
        on_frame: Callable[[Styled], None] | None = None,
        on_step: StepCallback | None = None,
        explain: bool = False,
    ):
        """on_step is called from the threads of the lanes. flow: shared by all lanes."""
        super().__init__(config, checkpoint=checkpoint, flow=flow, on_frame=on_frame, on_step=on_step, explain=explain)
        self._lanes = Lanes(self.checkpoint, config.lanes)
        self._beside = []
        for lane in range(config.lanes):
            part = self._lanes.checkpoint(lane)
            own = Renderer(changed(config, lanes=1), checkpoint=part, flow=flow, on_step=on_step, explain=explain)
            own._cuts = GivenCuts([])  # a lane's frames are one shot
            self._beside.append(own)

    def __call__(self, frames: Iterable[Frame]) -> Iterator[Styled]:
        """Paint `frames` in order, all of them by the end. Raises Interrupted after `cancel`."""
        with self.clock("read"):
            held = list(frames)
        shots = self._shots(held)
        threads = self._started(shots)
        ended = False
        try:
            for shot in shots:
                while (styled := shot.out.get()) is not None:
                    if isinstance(styled, BaseException):
                        raise styled
                    self._go_on_before(styled.source)
                    if self._on_frame is not None:
                        self._on_frame(styled)
                    yield styled
            ended = True
        finally:
            if not ended:
                for lane in self._beside:
                    lane.cancel()
            for thread in threads:
                thread.join()
            self._account()

    def _account(self) -> None:
        """Seconds by stage: a model call counts once, however many lanes it was for."""
        for name, seconds in self._lanes.clock.seconds.items():
            self.clock.seconds[name] += seconds
        self._lanes.clock.seconds.clear()
        for lane in self._beside:
            for name, seconds in lane.clock.seconds.items():
                if name not in MODEL_STAGES:
                    self.clock.seconds[name] += seconds
            lane.clock.seconds.clear()

    def update(self, **changes: Option) -> None:
        """Change settings between two calls, as a Renderer does between two frames."""
        super().update(**changes)
        for lane in self._beside:
            lane.update(**changes)

    def _shots(self, frames: list[Frame]) -> list[_Shot]:
        shots: list[_Shot] = []
        with self.clock("cuts"):
            for frame in frames:
                cut = self._cuts.is_cut(frame)
                self._shot += cut
                if cut or not shots:
                    shots.append(_Shot(self._shot, [], begins=cut))
                shots[-1].frames.append(frame)
        return shots

    def _started(self, shots: list[_Shot]) -> list[Thread]:
        """A thread for each lane, at work. What the first shot goes on from, and what goes on after the last."""
        before = self.state()
        waiting = deque(shots)

        def paint(own: Renderer, shot: _Shot) -> None:
            own.restore({**before, "shot": shot.number - shot.begins, "cuts": {}})
            if shot.begins:
                own.restart()
            for styled in own(shot.frames):
                shot.out.put(styled)
            if shot is shots[-1]:
                self.restore({**own.state(), "cuts": before["cuts"]})

        def work(lane: int, shot: _Shot) -> None:
            with self._lanes.working(lane):
                while True:
                    try:
                        paint(self._beside[lane], shot)
                    except BaseException as error:
                        shot.out.put(error)
                        return
                    shot.out.put(None)
                    try:
                        shot = waiting.popleft()
                    except IndexError:
                        return

        used = min(len(self._beside), len(shots))
        for lane in range(used):
            self._lanes.begin(lane)
        threads = [Thread(target=work, args=(lane, waiting.popleft()), name=f"lane {lane}") for lane in range(used)]
        for thread in threads:
            thread.start()
        return threads
