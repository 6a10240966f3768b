"""Flow found ahead is the flow that would have been found, and nothing waits for ever."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from textures import panned, texture

from flowguide.errors import VideoError
from flowguide.flow import FlowEstimator, estimator
from flowguide.flow.lookahead import Lookahead
from flowguide.types import Flow, Frame

SIZE = (48, 64)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return panned(texture(90, 120, 2), SIZE, 8, 2, 1)


def test_flows_are_those_of_the_estimator(frames):
    made = estimator("dis:fast")
    with Lookahead(frames, made) as ahead:
        assert isinstance(ahead, FlowEstimator)
        assert ahead.name == "dis-fast"
        before = None
        for count, frame in enumerate(ahead):
            assert frame is frames[count]
            if before is not None:
                for found, true in zip(ahead.both(frame, before), made.both(frame, before), strict=True):
                    assert torch.equal(found.uv, true.uv)
                    assert torch.equal(found.confidence, true.confidence)
                assert torch.equal(ahead(frame, before).uv, made(frame, before).uv)
            before = frame
        assert count == 7


def test_other_pairs_are_estimated_when_asked_for(frames):
    made = estimator("dis:fast")
    with Lookahead(frames, made) as ahead:
        assert len(list(zip(ahead, range(5), strict=False))) == 5
        assert torch.equal(ahead(frames[3], frames[0]).uv, made(frames[3], frames[0]).uv)


def test_prepared_frames_are_looked_up_by_their_size(frames):
    def trimmed(frame: Frame) -> Frame:
        return Frame(frame.rgb[:, :40, :40].contiguous(), frame.index)

    with Lookahead(frames[:3], estimator("dis:fast"), prepare=trimmed) as ahead:
        list(ahead)
        assert ahead(trimmed(frames[1]), trimmed(frames[0])).size == (40, 40)
        assert ahead(frames[1], frames[0]).size == SIZE


@pytest.mark.parametrize("batch", [2, 3, 9])
def test_several_pairs_may_be_found_together(frames, batch):
    made = estimator("dis:fast")
    with Lookahead(frames, made, depth=3, batch=batch) as ahead:
        before = None
        for frame in ahead:
            if before is not None:
                assert torch.equal(ahead.both(frame, before)[1].uv, made.both(frame, before)[1].uv)
            before = frame


def test_frames_before_a_broken_one_have_their_flow(frames):
    def source():
        yield from frames[:3]
        raise VideoError("The rest is lost.")

    with Lookahead(source(), estimator("dis:fast"), depth=4, batch=4) as ahead:
        shown = iter(ahead)
        first, second, _ = (next(shown) for _ in range(3))
        assert ahead.both(second, first)[0].at == second.index
        with pytest.raises(VideoError, match="The rest is lost"):
            next(shown)


class Slow:
    """Remembers on which thread it worked, and how far ahead."""

    name = "slow"

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.done = 0

    def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        time.sleep(0.03)
        self.threads.add(threading.get_ident())
        self.done += 1
        uv = torch.zeros(2, *at.size)
        return Flow(uv, at.index, to.index), Flow(uv, to.index, at.index)

    def __call__(self, at: Frame, to: Frame) -> Flow:
        return self.both(at, to)[0]


def test_flow_is_found_while_the_caller_is_busy(frames):
    slow = Slow()
    with Lookahead(frames, slow, depth=2) as ahead:
        before = None
        waited = 0.0
        for frame in ahead:
            time.sleep(0.06)
            if before is not None:
                began = time.perf_counter()
                ahead.both(frame, before)
                waited += time.perf_counter() - began
            before = frame
    assert slow.done == 7
    assert threading.get_ident() not in slow.threads
    assert waited < 0.15  # of 0.21 s


def test_it_reads_no_further_than_its_depth(frames):
    read = 0

    def source():
        nonlocal read
        for frame in frames:
            read += 1
            yield frame

    with Lookahead(source(), Slow(), depth=2) as ahead:
        next(iter(ahead))
        time.sleep(0.4)
        assert read <= 2 + 2


def test_stopping_early_leaves_no_thread(frames):
    with Lookahead(frames, Slow(), depth=1) as ahead:
        next(iter(ahead))
    assert not any(thread.name == "flow lookahead" for thread in threading.enumerate())


def test_errors_of_the_reader_come_at_their_frame(frames):
    def source():
        yield from frames[:2]
        raise VideoError("The rest is lost.")

    seen = []
    with Lookahead(source(), estimator("dis:fast")) as ahead, pytest.raises(VideoError, match="The rest is lost"):
        seen.extend(frame.index for frame in ahead)
    assert seen in ([], [0, 1])  # extend keeps what it had, or nothing


def test_errors_of_the_estimator_come_with_their_flow(frames):
    class Broken(Slow):
        def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
            raise VideoError(f"No flow at {at.index}.")

    with Lookahead(frames[:3], Broken()) as ahead:
        assert [frame.index for frame in ahead] == [0, 1, 2]
        with pytest.raises(VideoError, match="No flow at 2"):
            ahead.both(frames[2], frames[1])
