"""Reading, flow, painting and encoding overlap, within bounds; and the trace that shows it."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
import torch

import flowguide
from flowguide import machine, timing
from flowguide.cli import main
from flowguide.errors import UsageError, VideoError
from flowguide.flow import estimator
from flowguide.flow.lookahead import Lookahead
from flowguide.runs.behind import MOST_WAITING, Behind
from flowguide.runs.session import SegmentWriter
from flowguide.timing import StageClock, span, tracing
from flowguide.types import Frame
from flowguide.video import ClipWriter


class Alive:
    """Counts frames that are held by somebody."""

    def __init__(self) -> None:
        self.most, self._held = 0, weakref.WeakSet[Frame]()

    def frames(self, count: int) -> Iterator[Frame]:
        for index in range(count):
            frame = Frame(torch.zeros(3, 16, 16, dtype=torch.uint8), index)
            self._held.add(frame)
            gc.collect(0)
            self.most = max(self.most, len(self._held))
            yield frame


def test_a_slow_consumer_does_not_let_frames_pile_up() -> None:
    alive, depth = Alive(), 3
    with Lookahead(alive.frames(60), estimator("dis"), depth) as ahead:
        before = None
        for frame in ahead:
            if before is not None:
                ahead.both(frame, before)
            before = frame
            time.sleep(0.002)
    assert alive.most <= depth + 5, "the queue, the pair under way, and what the consumer holds"


def test_a_slow_reader_is_waited_for() -> None:
    def slow() -> Iterator[Frame]:
        for frame in Alive().frames(6):
            time.sleep(0.02)
            yield frame

    with Lookahead(slow(), estimator("dis"), 3) as ahead:
        assert [frame.index for frame in ahead] == list(range(6))


class SlowWriter:
    def __init__(self, seconds: float = 0.004) -> None:
        self.pts: list[int] = []
        self._seconds = seconds

    def write(self, frame: Frame) -> None:
        time.sleep(self._seconds)
        if frame.index == 30:
            raise VideoError("the disk is full")
        self.pts.append(frame.index)


def test_a_slow_encoder_does_not_let_frames_pile_up() -> None:
    alive, writer = Alive(), SlowWriter()
    with Behind() as behind:
        for frame in alive.frames(30):
            behind.write(writer, frame)
        behind.settle()
        assert writer.pts == list(range(30)), "all, in order"
    assert alive.most <= MOST_WAITING + 3


def test_what_the_encoder_raises_is_raised_where_frames_are_painted() -> None:
    writer = SlowWriter(0.0)

    def written_behind() -> None:
        with Behind() as behind:
            for frame in Alive().frames(100):
                behind.write(writer, frame)

    with pytest.raises(VideoError, match="disk is full"):
        written_behind()
    with pytest.raises(VideoError, match="disk is full"), Behind() as behind:
        behind.write(writer, next(f for f in Alive().frames(31) if f.index == 30))


def test_no_thread_outlives_its_work() -> None:
    before = threading.active_count()
    with Behind() as behind:
        behind.write(SlowWriter(), Frame(torch.zeros(3, 16, 16, dtype=torch.uint8), 0))
    assert threading.active_count() == before


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "in.mp4"
    noise = torch.randint(0, 255, (3, 32, 80), dtype=torch.uint8)
    with ClipWriter(path, size=(32, 48), time_base=Fraction(1, 25), frame_rate=Fraction(25)) as writer:
        for index in range(10):
            writer.write(Frame(noise[:, :, index : index + 48].contiguous(), index, index, Fraction(1, 25)))
    return path


def test_a_whole_run_holds_few_frames_however_slow_the_encoder_is(
    clip: Path, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, most = [0], [0]
    write = SegmentWriter.write

    def slow(self: SegmentWriter, frame: Frame) -> None:
        time.sleep(0.05)
        waiting[0] -= 1
        write(self, frame)

    def painted(styled: flowguide.Styled) -> None:
        waiting[0] += 1
        most[0] = max(most[0], waiting[0])

    monkeypatch.setattr(SegmentWriter, "write", slow)
    flowguide.render(clip, tmp_path / "out.mp4", model=str(tiny_checkpoint), steps=2, on_frame=painted)
    assert waiting[0] == 0
    assert most[0] <= MOST_WAITING + 2


def traced(path: Path) -> list[dict]:
    return json.loads(path.read_text())


def test_the_trace_of_a_run_has_a_row_for_every_thread(clip: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    out = tmp_path / "trace.json"
    with pytest.raises(SystemExit) as ended:
        main(["render", str(clip), str(tmp_path / "out.mp4"), "--model", str(tiny_checkpoint), "--steps", "2",
              "--segment-frames", "4", "--trace", str(out)])  # fmt: skip
    assert not ended.value.code
    events = traced(out)
    rows = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert set(rows.values()) == {timing.MAIN, "flow lookahead", "encode", "journal"}
    names: dict[str, set[str]] = {}
    for event in events:
        if event["ph"] == "X":
            assert event["dur"] >= 0
            assert event["ts"] >= 0
            names.setdefault(rows[event["tid"]], set()).add(event["name"])
    assert {"unet", "encode", "decode", "glue", "write"} <= names[timing.MAIN]
    assert names["flow lookahead"] == {"read and convert", "find flow"}
    assert names["encode"] == {"encode picture"}
    assert names["journal"] == {"commit"}
    commits = [event["args"]["segment"] for event in events if event["name"] == "commit"]
    assert commits == [0, 1, 2]
    assert {event["args"]["frame"] for event in events if event["name"] == "encode picture"} == set(range(10))
    assert all(event["pid"] == events[0]["pid"] for event in events)


def test_a_run_that_breaks_off_leaves_a_trace_that_opens(tmp_path: Path) -> None:
    out = tmp_path / "trace.json"

    def broken_off() -> None:
        with tracing(out):
            with StageClock()("unet"):
                pass
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken_off()
    assert [event["name"] for event in traced(out) if event["ph"] == "X"] == ["unet"]
    with span("nothing is written any more"):
        pass
    assert len(traced(out)) == 4


def test_a_trace_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"), tracing(tmp_path / "absent" / "trace.json"):
        pass
    with (
        tracing(tmp_path / "one.json"),
        pytest.raises(UsageError, match="already"),
        tracing(tmp_path / "two.json"),
    ):
        pass


def test_without_a_trace_timing_costs_next_to_nothing() -> None:
    began = time.process_time()
    for _ in range(10_000):
        with span("nothing"):
            pass
    assert (time.process_time() - began) / 10_000 < 20e-6, "seconds each"


def test_threads_leave_a_core_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine.torch, "get_num_threads", lambda: 8)
    for cores, chosen in ((1, 1), (2, 1), (4, 3), (8, 7), (16, 8)):
        monkeypatch.setattr(machine, "usable_cores", lambda cores=cores: cores)
        assert machine.choose_threads(0) == chosen
    assert machine.choose_threads(5) == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert machine.choose_threads(0) == 8


def test_more_threads_than_cores_are_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    machine._warn_of_more_than_cores.cache_clear()
    for asked in (1, 2, 99, 99):
        assert machine.choose_threads(asked) == asked
    assert [record.getMessage() for record in caplog.records] == [
        "99 threads were asked for and this process may use 2 cores: they wait for each other, so it is slower than "
        "with 2; --threads 0 chooses."
    ]
