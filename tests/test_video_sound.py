"""Sound stays with the pictures: copied exactly, cut with them, or encoded again and said."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
from coded_frames import clicks_in, make_clicking, number_in, repainted, write

from flowguide.video import ClipReader, probe

CLICKS = [0.5, 1.25, 2.0, 2.75]
AUDIO_FRAME = 1024 / 48000


def sound_packets(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.pts is not None]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clicking(tmp_path_factory.mktemp("sound") / "clicks.mp4", 3.2, CLICKS)


def test_sound_is_copied_packet_by_packet(clip: Path, tmp_path: Path) -> None:
    output = repainted(clip, tmp_path / "out.mp4")
    assert sound_packets(output) == sound_packets(clip)
    assert clicks_in(output) == clicks_in(clip)
    assert clicks_in(clip) == pytest.approx(CLICKS, abs=AUDIO_FRAME)


def test_sound_moves_with_a_late_beginning(tmp_path: Path, clip: Path) -> None:
    """Pictures that begin at 10 s and sound that begins at 0 stay as far apart."""
    pts = [10000 + 40 * n for n in range(10)]
    output = write(tmp_path / "late.mp4", pts, Fraction(1, 1000), audio_from=clip)
    assert sound_packets(output) == sound_packets(clip)
    assert probe(output).start_pts == 10000


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(("start", "end"), [(0.4, 2.2), (1.02, 2.9), (1.2, 3.2)])
def test_a_part_takes_its_own_sound(clip: Path, tmp_path: Path, suffix: str, start: float, end: float) -> None:
    output = repainted(clip, tmp_path / f"part{suffix}", start_seconds=start, end_seconds=end)
    with ClipReader(output) as reader:
        first = next(reader)
    assert first.pts == 0
    shown = number_in(first.rgb) / 25
    expected = [click - shown for click in CLICKS if start < click < end]
    assert clicks_in(output) == pytest.approx(expected, abs=AUDIO_FRAME)
    last, _ = sound_packets(output)[-1]
    assert last < end - start + AUDIO_FRAME


def test_a_number_of_frames_ends_the_sound_too(clip: Path, tmp_path: Path) -> None:
    output = repainted(clip, tmp_path / "out.mp4", max_frames=25)
    assert clicks_in(output) == pytest.approx([0.5], abs=AUDIO_FRAME)


def test_every_second_frame_keeps_all_sound(clip: Path, tmp_path: Path) -> None:
    assert sound_packets(repainted(clip, tmp_path / "out.mp4", every=2)) == sound_packets(clip)


def test_sound_that_the_container_refuses_is_encoded_again_and_said(
    clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = repainted(clip, tmp_path / "out.webm")
    assert probe(output).audio_codec == "opus"
    assert "sound is aac" in caplog.text
    assert clicks_in(output) == pytest.approx(CLICKS, abs=AUDIO_FRAME)


def test_a_part_encoded_again_stays_with_its_pictures(clip: Path, tmp_path: Path) -> None:
    output = repainted(clip, tmp_path / "out.webm", start_seconds=1, end_seconds=2.5)
    assert clicks_in(output) == pytest.approx([0.25, 1.0], abs=AUDIO_FRAME)


def test_other_sound_becomes_aac_in_mp4(tmp_path: Path) -> None:
    source = make_clicking(tmp_path / "flac.mkv", 3.2, CLICKS, codec="flac")
    output = repainted(source, tmp_path / "out.mp4")
    assert probe(output).audio_codec == "aac"
    assert clicks_in(output) == pytest.approx(CLICKS, abs=AUDIO_FRAME)


def test_times_of_pictures_do_not_depend_on_sound(clip: Path, tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv", ".webm"):
        with ClipReader(repainted(clip, tmp_path / f"out{suffix}")) as reader:
            assert [frame.pts * frame.time_base for frame in reader] == [Fraction(n, 25) for n in range(80)]


def test_no_sound_is_no_trouble(tmp_path: Path) -> None:
    silent = write(tmp_path / "silent.mp4", range(5), Fraction(1, 25))
    assert probe(repainted(silent, tmp_path / "out.mp4")).audio_codec is None


def test_sound_longer_than_the_pictures_is_kept_whole(clip: Path, tmp_path: Path) -> None:
    output = write(tmp_path / "short.mp4", range(10), Fraction(1, 25), audio_from=clip)
    assert sound_packets(output) == sound_packets(clip)


def test_sound_is_written_among_the_pictures(clip: Path, tmp_path: Path) -> None:
    """In file order, no stream runs more than a second ahead of the other: it plays without seeking."""
    output = repainted(clip, tmp_path / "out.mp4")
    reached = {"video": 0.0, "audio": 0.0}
    with av.open(str(output)) as container:
        packets = [p for p in container.demux() if p.pos is not None and p.dts is not None]
        for packet in sorted(packets, key=lambda p: p.pos or 0):
            reached[packet.stream.type] = float(packet.dts * packet.time_base)
            assert abs(reached["video"] - reached["audio"]) < 1.2
