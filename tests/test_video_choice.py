"""Which frames are given out: every n-th, another rate, a part; each with the right times and the right sound."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path

import av
import pytest
from coded_frames import clicks_in, make_clicking, number_in, repainted, write
from hypothesis import given
from hypothesis import strategies as st

from flowguide.errors import UsageError
from flowguide.video import ClipReader
from flowguide.video.choice import at_rate, read_rate, units_of

MS = Fraction(1, 1000)


def chosen(pts: list[int], time_base: Fraction, rate: Fraction) -> list[tuple[Fraction, int]]:
    """(time, which picture) at another rate; the pictures are stood for by their numbers."""
    numbered = [(time, number) for number, time in enumerate(pts)]
    units = units_of(time_base, rate)
    return [(time * units, number) for time, number in at_rate(numbered, time_base, rate)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "rate"),
    [("24", Fraction(24)), ("12.5", Fraction(25, 2)), ("30000/1001", Fraction(30000, 1001)),
     ("29.97", Fraction(30000, 1001)), ("23.976", Fraction(24000, 1001)), ("1/2", Fraction(1, 2))],
)  # fmt: skip
def test_rates_as_users_write_them(text: str, rate: Fraction) -> None:
    assert read_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0", "-1", "1/0", "fast", "1e9", "nan", "inf", "24fps", "1/100000"])
def test_rates_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="frame rate is written"):
        read_rate(text)


def test_half_and_double_rate() -> None:
    pts = [40 * n for n in range(8)]
    half = chosen(pts, MS, Fraction(25, 2))
    assert [time for time, _ in half] == [Fraction(2 * n, 25) for n in range(len(half))]
    assert [number for _, number in half[:4]] == [0, 2, 4, 6]
    double = chosen(pts, MS, Fraction(50))
    assert [number for _, number in double] == [n // 2 for n in range(16)]


def test_times_rounded_by_a_container_lose_and_repeat_nothing() -> None:
    """Matroska's whole milliseconds at 30 fps become thirtieths again."""
    found = chosen([round(1000 * n / 30) for n in range(90)], MS, Fraction(30))
    assert found == [(Fraction(n, 30), n) for n in range(90)]


@given(
    steps=st.lists(st.integers(1, 400), min_size=1, max_size=30),
    first=st.integers(-500, 10_000),
    rate=st.sampled_from([Fraction(24), Fraction(30000, 1001), Fraction(5, 2), Fraction(60)]),
)
def test_equal_distances_from_the_first_time_on(steps: list[int], first: int, rate: Fraction) -> None:
    pts = [first, *(first + total for total in itertools.accumulate(steps))]
    found = chosen(pts, MS, rate)
    assert [time for time, _ in found] == [first * MS + n / rate for n in range(len(found))]
    numbers = [number for _, number in found]
    assert numbers == sorted(numbers)
    assert numbers[0] == 0 or Fraction(pts[numbers[0]] - first) * MS * rate < Fraction(1, 2)
    for time, number in found:
        later = [n for n in range(number + 1, len(pts)) if pts[n] * MS <= time - 1 / rate / 2]
        assert not later, "a picture that was due before is shown"
    shown, last = (pts[-1] - first) * MS * rate, steps[-1] * MS * rate
    assert len(found) <= max(math.floor(shown + Fraction(3, 2)), math.floor(shown + last + Fraction(1, 2)))


def test_units_hold_times_and_steps() -> None:
    bases = (MS, Fraction(1, 90000), Fraction(1001, 30000))
    for time_base, rate in itertools.product(bases, (Fraction(24), Fraction(24000, 1001))):
        units = units_of(time_base, rate)
        assert (1 / rate / units).denominator == 1
        assert (time_base / units).denominator == 1 or units == 1 / rate


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clicking(tmp_path_factory.mktemp("choice") / "clicks.mp4", 3.0, [0.5, 1.25, 2.5])


@pytest.mark.parametrize(
    ("choice", "clicks", "step"),
    [
        ({"every": 3}, [0.5, 1.25, 2.5], Fraction(3, 25)),
        ({"frame_rate": Fraction(10)}, [0.5, 1.25, 2.5], Fraction(1, 10)),
        ({"frame_rate": Fraction(50)}, [0.5, 1.25, 2.5], Fraction(1, 50)),
        ({"frame_rate": Fraction(30000, 1001), "start_seconds": 1.0, "end_seconds": 2.8}, [0.25, 1.5],
         Fraction(1001, 30000)),
        ({"frame_rate": Fraction(5), "every": 2, "start_seconds": 0.2}, [0.3, 1.05, 2.3], Fraction(2, 5)),
    ],
)  # fmt: skip
def test_a_choice_keeps_distances_and_sound(
    clip: Path, tmp_path: Path, choice: dict[str, object], clicks: list[float], step: Fraction
) -> None:
    output = repainted(clip, tmp_path / "out.mp4", **choice)
    with ClipReader(output) as reader:
        times = [frame.pts * frame.time_base for frame in reader]
        assert reader.info.frame_rate == pytest.approx(1 / step, rel=0.05)
    assert {after - before for before, after in itertools.pairwise(times)} == {step}
    assert times[0] == 0
    assert clicks_in(output) == pytest.approx(clicks, abs=1024 / 48000)


def test_an_output_rate_shows_the_pictures_of_that_time(tmp_path: Path) -> None:
    source = write(tmp_path / "in.mp4", range(20), Fraction(1, 20), rate=Fraction(20))
    with ClipReader(source, frame_rate=Fraction(5)) as reader:
        for frame in reader:
            assert abs(number_in(frame.rgb) / 20 - frame.seconds) <= 0.1


def many_streams(path: Path, container_format: str, subtitle: str | None = None) -> Path:
    """A clip with two video streams, 5 fps and 10 fps, and two of sound, of one and of two seconds."""
    with av.open(str(path), "w", format=container_format) as container:
        videos = [container.add_stream("mpeg4", rate=rate, width=64, height=48, pix_fmt="yuv420p") for rate in (5, 10)]
        sounds = [container.add_stream("aac", rate=48000) for _ in range(2)]
        for stream, language in zip(sounds, ("eng", "deu"), strict=True):
            stream.metadata["language"] = language
        for stream, count in zip(videos, (5, 10), strict=True):
            for index in range(count):
                picture = av.VideoFrame(64, 48, "yuv420p")
                picture.pts = index
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        for stream, seconds in zip(sounds, (1, 2), strict=True):
            for block in range(47 * seconds):
                sound = av.AudioFrame("fltp", "stereo", 1024)
                sound.rate, sound.pts = 48000, 1024 * block
                for plane in sound.planes:
                    plane.update(bytes(plane.buffer_size))
                container.mux(stream.encode(sound))
            container.mux(stream.encode(None))
    return path


def sounds_of(path: Path) -> list[tuple[str | None, float]]:
    with av.open(str(path)) as container:
        return [(s.metadata.get("language"), round(float(s.duration * s.time_base))) for s in container.streams.audio]


def test_all_sound_is_copied_unless_one_is_chosen(tmp_path: Path) -> None:
    source = many_streams(tmp_path / "in.mp4", "mp4")
    assert sounds_of(repainted(source, tmp_path / "all.mp4")) == [("eng", 1), ("deu", 2)]
    assert sounds_of(repainted(source, tmp_path / "one.mp4", audio_stream=1)) == [("deu", 2)]
    with pytest.raises(UsageError, match="has 2 sound streams"):
        repainted(source, tmp_path / "none.mp4", audio_stream=2)
    assert not (tmp_path / "none.mp4").exists()


def test_a_video_stream_is_chosen(tmp_path: Path) -> None:
    source = many_streams(tmp_path / "in.mp4", "mp4")
    for wanted, count in ((None, 5), (0, 5), (1, 10)):
        with ClipReader(source, video_stream=wanted) as reader:
            assert len(list(reader)) == count
    with pytest.raises(UsageError, match="has 2 video streams"):
        ClipReader(source, video_stream=2)


def with_subtitles(folder: Path) -> Path:
    """A Matroska file with a clip and one subtitle from 0.4 to 0.8 s."""
    clip = make_clicking(folder / "plain.mp4", 1.2, [0.5])
    (folder / "words.srt").write_text("1\n00:00:00,400 --> 00:00:00,800\nwords\n\n")
    path = folder / "in.mkv"
    with av.open(str(path), "w") as output, av.open(str(clip)) as pictures, av.open(str(folder / "words.srt")) as words:
        sources = (pictures, words)
        copies = [{s.index: output.add_stream_from_template(s) for s in source.streams} for source in sources]
        for source, into in zip(sources, copies, strict=True):
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = into[packet.stream.index]
                    output.mux(packet)
    return path


def subtitles_of(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        return [
            (float(packet.pts * packet.time_base), bytes(packet))
            for packet in container.demux(container.streams.subtitles[0])
            if packet.pts is not None and packet.size
        ]


def test_subtitles_are_copied_where_the_container_takes_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = with_subtitles(tmp_path)
    ((before, words),) = subtitles_of(source)
    assert (before, words) == (pytest.approx(0.4, abs=0.03), b"words")
    assert subtitles_of(repainted(source, tmp_path / "all.mkv")) == [(before, words)]
    ((at, _),) = subtitles_of(repainted(source, tmp_path / "part.mkv", start_seconds=0.2))
    assert at == pytest.approx(0.2, abs=0.03)
    assert "not copied" not in caplog.text
    repainted(source, tmp_path / "out.mp4")
    assert "not copied to the output: 1 subtitle stream" in caplog.text
    assert clicks_in(tmp_path / "out.mp4") == pytest.approx(clicks_in(source), abs=1024 / 48000)


def test_a_clip_that_does_not_say_how_long_it_is(tmp_path: Path) -> None:
    path = tmp_path / "in.h264"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=25, width=80, height=48, pix_fmt="yuv420p")
        for index in range(7):
            picture = av.VideoFrame(80, 48, "yuv420p")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    with ClipReader(path) as reader:
        assert reader.info.frames is None
        assert reader.info.duration_seconds is None
        assert [frame.pts * frame.time_base for frame in reader] == [Fraction(n, 25) for n in range(7)]
        assert reader.losses == []
