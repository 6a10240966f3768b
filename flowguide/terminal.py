"""What a run shows while it works: a live line on a terminal, plain lines in a log, JSON lines for a program."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from .measures import Curve
from .metrics import ClipMeasures, Report
from .renderer import Styled
from .runs.clip import RenderReport, Started
from .runs.demo import Demo

PLAIN_EVERY_SECONDS = 5.0


class Reporter:
    """Tells how a render goes. Ctrl-C asks it to stop after the frame at hand; a second one stops at once."""

    def __init__(self, source: Path, output: Path):
        self._source, self._output = source, output
        self._stop = False
        self._began = time.perf_counter()
        self._frames = 0
        self._expected: int | None = None

    def ask_to_stop(self, signum: int, frame: FrameType | None) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True
        self.say("Stopping after this frame.")

    def stop_asked(self) -> bool:
        return self._stop

    def started(self, start: Started) -> None:
        self._expected = _left(start)
        self._began = time.perf_counter()
        height, width = start.size
        by = f"{start.model} on {start.device} in {start.dtype}" if start.model else "no model"
        self.say(f"{self._source} -> {self._output}: {width}x{height}, {by}")
        if start.done:
            self.say(f"{start.done} frames are there already.")

    def frame(self, styled: Styled) -> None:
        self._frames += 1

    def done(self, report: RenderReport) -> None:
        for loss in report.losses:
            self.say(loss)
        shots = "1 shot" if report.shots == 1 else f"{report.shots} shots"
        rate = f"{report.seconds:.1f} s, {report.frames_per_second:.2f} fps"
        self.say(
            f"{', '.join([f'{report.frames} frames', shots, *report.told, rate])}: {report.output}"
            + (f" ({report.painted} frames painted now)" if report.painted < report.frames else "")
        )

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def rate(self) -> float:
        """Frames per second so far."""
        elapsed = time.perf_counter() - self._began
        return self._frames / elapsed if elapsed > 0 else 0.0

    def remaining_seconds(self) -> float | None:
        rate = self.rate()
        if not self._expected or not rate:
            return None
        return max(self._expected - self._frames, 0) / rate


class PlainReporter(Reporter):
    """A line every few seconds, for logs."""

    _last = 0.0

    def frame(self, styled: Styled) -> None:
        super().frame(styled)
        now = time.perf_counter()
        if now - self._last < PLAIN_EVERY_SECONDS:
            return
        self._last = now
        left = self.remaining_seconds()
        eta = f", {left:.0f} s left" if left is not None else ""
        of = f"/{self._expected}" if self._expected else ""
        self.say(f"frame {self._frames}{of}, {self.rate():.2f} fps{eta}, {slowest_stage(styled)}")


class JsonReporter(Reporter):
    """One JSON object per line on standard output."""

    def say(self, text: str) -> None:
        self._emit("message", text=text)

    def started(self, start: Started) -> None:
        self._expected, self._began = _left(start), time.perf_counter()
        size = list(start.size)
        self._emit("start", frames=start.frames, done=start.done, size=size, model=start.model, device=start.device)

    def frame(self, styled: Styled) -> None:
        super().frame(styled)
        self._emit(
            "frame",
            index=styled.source.index,
            pts=styled.source.pts,
            shot=styled.shot,
            confident_share=styled.confident_share,
            fps=round(self.rate(), 3),
            remaining_seconds=self.remaining_seconds(),
            stage_seconds={name: round(value, 4) for name, value in styled.stage_seconds.items() if value},
        )

    def done(self, report: RenderReport) -> None:
        values = asdict(report)
        stages = {name: round(seconds, 4) for name, seconds in report.stage_seconds.items()}
        values |= {"output": str(report.output), "manifest": str(report.manifest), "stage_seconds": stages}
        values |= {"seconds": round(report.seconds, 3), "fps": round(report.frames_per_second, 3)}
        self._emit("done", **values)

    def _emit(self, event: str, **content: Any) -> None:
        print(json.dumps({"event": event, **content}), flush=True)


class LiveReporter(Reporter):
    """A progress bar with stage, rate and time left."""

    def __init__(self, source: Path, output: Path, progress: Progress):
        super().__init__(source, output)
        self._progress = progress
        self._task: TaskID | None = None

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def started(self, start: Started) -> None:
        super().started(start)
        self._task = self._progress.add_task("first frame", total=_left(start), rate="")

    def frame(self, styled: Styled) -> None:
        super().frame(styled)
        assert self._task is not None
        self._progress.update(self._task, advance=1, description=slowest_stage(styled), rate=f"{self.rate():.2f} fps")


def _left(start: Started) -> int | None:
    """Frames still to be painted."""
    return None if start.frames is None else max(start.frames - start.done, 0)


def slowest_stage(styled: Styled) -> str:
    """The stage that took most of the frame, with its share."""
    spent = {name: seconds for name, seconds in styled.stage_seconds.items() if seconds > 0}
    if not spent:
        return ""
    name = max(spent, key=spent.__getitem__)
    return f"{name} {spent[name] / sum(spent.values()):.0%}"


def print_report(report: Report) -> None:
    """The report as one table, a row per clip."""
    lags = report.clips[0].warp_error
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{report.frames} frames, shots begin at {_listed(report.shots)}; flow by {report.estimator}",
    )
    table.add_column("clip", overflow="fold")
    for name in (*(f"E_warp({lag})" for lag in lags), "flicker", "sharpness", "PSNR dB", "SSIM", "drift"):
        table.add_column(name, justify="right", no_wrap=True)
    for clip in report.clips:
        errors = [clip.warp_error[lag].l1 for lag in lags]
        others = [clip.flicker, clip.sharpness, clip.psnr_db, clip.ssim, clip.colour_drift]
        table.add_row(clip.name, *(_cell(value) for value in (*errors, *others)))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for clip in report.clips:
        if clip.anchors:
            told = f"{len(clip.anchors)} anchors, at {_listed(clip.anchors)}"
            console.print(f"{clip.name}: {told}", markup=False, highlight=False)
        if clip.note:
            console.print(f"{clip.name}: {clip.note}", markup=False, highlight=False)


def print_per_frame(report: Report) -> None:
    """A line per frame and clip, with what begins there: plain columns, for clips may be long."""
    names = [column for clip in report.clips for column in _frame_columns(clip)]
    names = list(dict.fromkeys(names))
    longest = max(len(clip.name) for clip in report.clips)
    print(" ".join(["frame".rjust(6), "clip".ljust(longest), *(name.rjust(13) for name in names), "  begins"]))
    shots = set(report.shots)
    columns = [_frame_columns(clip) for clip in report.clips]
    anchors = [set(clip.anchors) for clip in report.clips]
    for frame in range(report.frames):
        for clip, curves, marked in zip(report.clips, columns, anchors, strict=True):
            cells = (_cell(curves[name][frame] if name in curves else None).rjust(13) for name in names)
            begins = ["shot"] * (frame in shots) + ["anchor"] * (frame in marked)
            print(" ".join([str(frame).rjust(6), clip.name.ljust(longest), *cells, "  " + ", ".join(begins)]).rstrip())


def _frame_columns(clip: ClipMeasures) -> dict[str, Curve]:
    return {**{f"E_warp({lag})": error.curve for lag, error in clip.warp_error.items()}, **clip.curves}


def _listed(values: Sequence[int]) -> str:
    shown = ", ".join(str(value) for value in values[:12])
    return shown if len(values) <= 12 else f"{shown} and {len(values) - 12} more"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def print_demo(demo: Demo) -> None:
    """What the demo made, how fast, how steady."""
    print_report(demo.steadiness)
    before, after = (demo.steadiness[name].warp_error for name in ("unguided", "guided"))
    floor = demo.steadiness["source"].warp_error
    for lag, error in before.items():
        told = [_cell(value) for value in (error.l1, after[lag].l1, floor[lag].l1)]
        print(f"steadiness, E_warp({lag}): {told[0]} unguided, {told[1]} guided, {told[2]} the source itself")
    print(f"speed: {demo.unguided.frames_per_second:.2f} fps unguided, {demo.guided.frames_per_second:.2f} fps guided")
    print(
        f"painted:      {demo.guided.output}\nside by side: {demo.side_by_side}\nmanifest:     {demo.guided.manifest}"
    )


@contextmanager
def reporter(source: Path, output: Path, *, as_json: bool) -> Iterator[Reporter]:
    """The reporter that suits where the output goes, with Ctrl-C handled while it lives."""
    console = Console(stderr=True)
    if as_json:
        with _stopping(JsonReporter(source, output)) as report:
            yield report
    elif not console.is_terminal:
        with _stopping(PlainReporter(source, output)) as report:
            yield report
    else:
        columns = (
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with (
            Progress(*columns, console=console) as progress,
            _stopping(LiveReporter(source, output, progress)) as report,
        ):
            yield report


@contextmanager
def _stopping(report: Reporter) -> Iterator[Reporter]:
    before = signal.signal(signal.SIGINT, report.ask_to_stop)
    try:
        yield report
    finally:
        signal.signal(signal.SIGINT, before)
