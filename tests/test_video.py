"""Frames in and out: number, order and time, exactly."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from coded_frames import SIZE, coded, number_in, reference_times, write
from hypothesis import given
from hypothesis import strategies as st

from flowguide.errors import UsageError, VideoError
from flowguide.types import Frame
from flowguide.video import ClipReader, ClipWriter, fit_size, probe

NTSC = Fraction(1, 30000)
TIMINGS = {
    "film 24000/1001": (Fraction(1, 24000), [1001 * n for n in range(12)], Fraction(24000, 1001)),
    "pal 25": (Fraction(1, 25), list(range(12)), Fraction(25)),
    "ntsc 30000/1001": (NTSC, [1001 * n for n in range(12)], Fraction(30000, 1001)),
    "60": (Fraction(1, 15360), [256 * n for n in range(12)], Fraction(60)),
    "variable": (Fraction(1, 90000), [0, 29281, 32281, 35281, 90000, 90001, 200000], None),
    "begins at 10 s": (Fraction(1, 15360), [153600 + 512 * n for n in range(12)], Fraction(30)),
    "begins at an odd tick": (NTSC, [17 + 1001 * n for n in range(8)], Fraction(30000, 1001)),
    "milliseconds": (Fraction(1, 1000), [0, 33, 67, 100, 133, 167], Fraction(30)),
    "nanoseconds": (Fraction(1, 10**9), [33333333 * n for n in range(8)], Fraction(30)),
    "1001/24000": (Fraction(1001, 24000), [0, 3, 4, 5, 6, 9], Fraction(24000, 1001)),
    "one frame": (Fraction(1, 25), [0], Fraction(25)),
}


@pytest.mark.parametrize("name", TIMINGS)
def test_times_come_back_exactly(tmp_path: Path, name: str) -> None:
    time_base, pts, rate = TIMINGS[name]
    path = write(tmp_path / "clip.mp4", pts, time_base, rate=rate)
    with ClipReader(path) as reader:
        found = list(reader)
        assert reader.losses == []
    assert [number_in(frame.rgb) for frame in found] == list(range(len(pts)))
    assert [frame.index for frame in found] == list(range(len(pts)))
    assert [frame.pts * frame.time_base for frame in found] == [time * time_base for time in pts]
    assert reference_times(path) == [time * time_base for time in pts]
    if time_base.numerator == 1:
        assert found[0].time_base == time_base
        assert [frame.pts for frame in found] == pts


def test_the_frame_rate_stays_a_fraction(tmp_path: Path) -> None:
    time_base, pts, rate = TIMINGS["ntsc 30000/1001"]
    assert probe(write(tmp_path / "clip.mp4", pts, time_base, rate=rate)).frame_rate == Fraction(30000, 1001)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_every_container_keeps_number_order_and_time(tmp_path: Path, suffix: str) -> None:
    pts = [0, 40, 80, 160, 200]
    with ClipReader(write(tmp_path / f"clip{suffix}", pts, Fraction(1, 1000), rate=Fraction(25))) as reader:
        found = list(reader)
    assert [number_in(frame.rgb) for frame in found] == list(range(5))
    assert [frame.seconds for frame in found] == [time / 1000 for time in pts]


def test_matroska_says_that_it_rounds_times(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pts = [1001 * n for n in range(5)]
    path = write(tmp_path / "clip.mkv", pts, NTSC)
    assert "times are rounded" in caplog.text
    assert all(
        abs(found - time * NTSC) <= Fraction(1, 2000) for found, time in zip(reference_times(path), pts, strict=True)
    )


def test_times_below_zero_are_moved_to_zero_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "clip.mp4", [-2002, -1001, 0, 1001], NTSC)
    assert reference_times(path) == [n * 1001 * NTSC for n in range(4)]
    assert "moved to 0" in caplog.text


def test_the_same_frames_give_the_same_file(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, range(20), Fraction(1, 25)) for name in ("a.mp4", "b.mp4"))
    assert first.read_bytes() == second.read_bytes()


def test_lossless_output_is_lossless(tmp_path: Path) -> None:
    picture = torch.randint(0, 256, (3, 47, 63), dtype=torch.uint8)
    path = tmp_path / "clip.mkv"
    with ClipWriter(path, size=(47, 63), time_base=Fraction(1, 25), frame_rate=None, codec="ffv1") as writer:
        writer.write(Frame(picture, 0, 0, Fraction(1, 25)))
    with ClipReader(path) as reader:
        assert torch.equal(next(reader).rgb, picture)


@pytest.mark.parametrize(("suffix", "size"), [(".mp4", (122, 162)), (".webm", (121, 161))])
def test_odd_sizes(tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, size: tuple[int, int]) -> None:
    path = write(tmp_path / f"clip{suffix}", range(3), Fraction(1, 25), (121, 161))
    with ClipReader(path) as reader:
        found = list(reader)
    assert {frame.size for frame in found} == {size}
    assert ("padded to 162x122" in caplog.text) == (size == (122, 162))
    assert [number_in(frame.rgb[:, :121, :161]) for frame in found] == [0, 1, 2]


def test_padding_repeats_the_edge(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", range(1), Fraction(1, 25), (121, 161))
    with ClipReader(path) as reader:
        rgb = next(reader).rgb.float()
    assert (rgb[:, 121] - rgb[:, 120]).abs().max() < 8
    assert (rgb[:, :, 161] - rgb[:, :, 160]).abs().max() < 8


@pytest.fixture(scope="module")
def minute(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 frames at 29.97 from second 10 on, with key frames 50 apart."""
    path = tmp_path_factory.mktemp("range") / "long.mp4"
    return write(path, [300300 + 1001 * n for n in range(120)], NTSC, rate=Fraction(30000, 1001))


@pytest.mark.parametrize("start", [0, 0.03, 1, 1.5015, 2.9, 3.97])
def test_a_part_is_what_a_full_reading_gives(minute: Path, start: float) -> None:
    first = -int(-start * 30000 // 1001)
    with ClipReader(minute, start_seconds=start, end_seconds=start + 0.5) as reader:
        found = list(reader)
        assert reader.start == (300300 + 1001 * first) * NTSC
    expected = [n for n in range(first, 120) if n * 1001 / 30000 < start + 0.5]
    assert [number_in(frame.rgb) for frame in found] == expected
    assert [frame.pts for frame in found] == [1001 * (n - first) for n in expected]


def test_an_end_alone_keeps_the_times(minute: Path) -> None:
    with ClipReader(minute, end_seconds=0.2) as reader:
        assert [frame.pts for frame in reader] == [300300 + 1001 * n for n in range(6)]


def test_every_third_frame_keeps_its_time(minute: Path) -> None:
    with ClipReader(minute, every=3, max_frames=4) as reader:
        found = list(reader)
        assert reader.info.frame_rate == Fraction(10000, 1001)
    assert [number_in(frame.rgb) for frame in found] == [0, 3, 6, 9]
    assert [frame.index for frame in found] == [0, 1, 2, 3]
    assert [frame.pts for frame in found] == [300300 + 3003 * n for n in range(4)]


@pytest.mark.parametrize(
    "selection",
    [{"start_seconds": -1}, {"start_seconds": 2, "end_seconds": 1}, {"max_frames": 0}, {"every": 0},
     {"start_seconds": 100}, {"video_stream": 3}, {"size": "huge"}],
)  # fmt: skip
def test_a_selection_that_cannot_be_is_refused(minute: Path, selection: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ClipReader(minute, **selection)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "expected"), [("24", (24, 40)), ("64x96", (96, 64)), ((50, 30), (50, 30)), (None, SIZE)]
)
def test_frames_are_resized(minute: Path, size: object, expected: tuple[int, int]) -> None:
    with ClipReader(minute, size=size, max_frames=6) as reader:  # type: ignore[arg-type]
        found = list(reader)
        assert reader.info.size == expected
    assert {frame.size for frame in found} == {expected}
    assert [number_in(frame.rgb) for frame in found] == list(range(6))


def test_a_reader_ends_when_it_is_closed(minute: Path) -> None:
    with ClipReader(minute) as reader:
        next(reader)
    assert list(reader) == []


def test_frames_are_contiguous_and_their_own(minute: Path) -> None:
    with ClipReader(minute, max_frames=3) as reader:
        found = list(reader)
    assert all(frame.rgb.is_contiguous() for frame in found)
    assert len({frame.rgb.data_ptr() for frame in found}) == 3


def test_unicode_and_spaces_in_names(tmp_path: Path) -> None:
    folder = tmp_path / "Ünï çödé 影片 100%"
    folder.mkdir()
    path = write(folder / "a:b 'c' #1 %d.mp4", range(3), Fraction(1, 25))
    with ClipReader(path) as reader:
        assert [number_in(frame.rgb) for frame in reader] == [0, 1, 2]


def test_a_size_that_changes_midway_is_resized_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = [
        write(tmp_path / f"{n}.ts.mp4", range(5), Fraction(1, 25), size) for n, size in enumerate([(48, 80), (96, 160)])
    ]
    path = tmp_path / "joined.ts"
    _join_as_stream(parts, path)
    with ClipReader(path) as reader:
        found = list(reader)
    assert {frame.size for frame in found} == {(48, 80)}
    assert [number_in(frame.rgb) for frame in found] == [*range(5), *range(5)]
    assert "size changes to 160x96" in caplog.text


def _join_as_stream(parts: list[Path], path: Path) -> None:
    """The packets of several files one after the other in one MPEG transport stream."""
    with av.open(str(path), "w", format="mpegts") as output:
        stream, begin = None, 0
        for part in parts:
            with av.open(str(part)) as source:
                video = source.streams.video[0]
                to_annex_b = av.BitStreamFilterContext("h264_mp4toannexb", video)
                stream = stream or output.add_stream_from_template(video)
                for packet in source.demux(video):
                    for moved in to_annex_b.filter(packet if packet.dts is not None else None):
                        moved.pts, moved.dts = moved.pts + begin, moved.dts + begin
                        moved.stream = stream
                        output.mux(moved)
                begin += 5


def test_standard_input_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mkv", range(0, 400, 40), Fraction(1, 1000))
    program = """
import sys
from flowguide.video import ClipReader
with ClipReader("-", start_seconds=0.1, size=16) as reader:
    sys.stdout.write(repr([(frame.index, frame.pts) for frame in reader]))
"""
    with path.open("rb") as clip:
        done = subprocess.run([sys.executable, "-c", program], stdin=clip, capture_output=True, text=True, timeout=60)
    assert done.stdout == repr([(n, 40 * n) for n in range(7)]), done.stderr


def test_times_that_jump_back_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from flowguide.video.source import Clock

    class Stream:
        average_rate, guessed_rate, time_base = Fraction(25), None, Fraction(1, 1000)

    class Picture:
        def __init__(self, pts: int | None) -> None:
            self.pts, self.dts = pts, None

    clock = Clock(Stream(), "clip")  # type: ignore[arg-type]
    times = [clock.pts_of(Picture(pts)) for pts in (0, 40, 80, 10, 50, None, 130)]  # type: ignore[arg-type]
    assert times == [0, 40, 80, 120, 160, 200, 240]
    assert caplog.text.count("jumps back") == 1


def test_the_writer_refuses_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with ClipWriter(path, size=SIZE, time_base=Fraction(1, 25), frame_rate=None) as writer:
        writer.write(Frame(coded(0), 0, 5, Fraction(1, 25)))
        with pytest.raises(VideoError, match="80x48, but frame 1 is 50x50"):
            writer.write(Frame(coded(0, (50, 50)), 1, 6, Fraction(1, 25)))
        with pytest.raises(UsageError, match="time base"):
            writer.write(Frame(coded(0), 1, 6, Fraction(1, 24)))
        with pytest.raises(UsageError, match="pts 5 after 5"):
            writer.write(Frame(coded(0), 1, 5, Fraction(1, 25)))
    with pytest.raises(UsageError, match="closed"):
        writer.write(Frame(coded(0), 1, 6, Fraction(1, 25)))
    assert probe(path).frames == 1


def test_a_reader_keeps_no_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", range(30), Fraction(1, 25))
    with ClipReader(path) as reader:
        given_out = [weakref.ref(frame.rgb) for frame in reader]
    assert sum(picture() is not None for picture in given_out) <= 1


@given(st.tuples(st.integers(16, 4000), st.integers(16, 4000)), st.integers(16, 2000))
def test_a_height_keeps_the_aspect(size: tuple[int, int], height: int) -> None:
    expected = size[1] * height / size[0]
    if 16 <= expected <= 16000:
        found = fit_size(size, str(height))
        assert found[0] == height
        assert found[1] % 2 == 0
        assert abs(found[1] - expected) <= 1


@pytest.mark.parametrize(
    ("requested", "expected"),
    [(None, (540, 960)), ("384", (384, 682)), (384, (384, 682)), ("640x384", (384, 640)), ("640X384", (384, 640)),
     ("640x", (360, 640)), ("x384", (384, 682)), ((384, 640), (384, 640)), (" 640 x 384 ", (384, 640))],
)  # fmt: skip
def test_sizes_as_users_write_them(requested: str | None, expected: tuple[int, int]) -> None:
    assert fit_size((540, 960), requested) == expected


@pytest.mark.parametrize("requested", ["", "x", "abc", "-384", "384.5", "8", "100000", "640x384x3", "0x0"])
def test_sizes_that_are_none(requested: str) -> None:
    with pytest.raises(UsageError):
        fit_size((540, 960), requested)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux lists a process's threads so")
def test_a_closed_reader_leaves_no_thread(tmp_path: Path) -> None:
    """Also before Python collects its garbage: a batch of many clips would pile up decoders."""
    path = write(tmp_path / "in.mp4", range(4), Fraction(1, 25))
    counts = []
    gc.disable()
    try:
        for _ in range(4):
            with ClipReader(path) as reader:
                assert len(list(reader)) == 4
            counts.append(len(list(Path("/proc/self/task").iterdir())))
    finally:
        gc.enable()
    assert counts[-1] == counts[0]
