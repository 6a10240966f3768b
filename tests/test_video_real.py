"""Real and awkward files: the same frames at the same times as the plain decoder, or one clear sentence."""

from __future__ import annotations

import itertools
import os
from fractions import Fraction
from pathlib import Path

import av
import av.error
import pytest

from flowguide.errors import VideoError
from flowguide.video import ClipReader, ClipWriter, probe

pytestmark = pytest.mark.real

DATA = Path(os.environ.get("FLOWGUIDE_TEST_DATA", ""))
AWKWARD = sorted(path.relative_to(DATA).as_posix() for path in (DATA / "awkward").rglob("*.*"))
CLIPS = sorted(path.relative_to(DATA).as_posix() for path in (DATA / "clips").glob("*.*"))
NO_VIDEO = {"awkward/mp4/sample_audio_only.mp4": "only audio", "awkward/vp9/invalid-bitstream.webm": "no picture"}
DAMAGED = {"awkward/decord/corrupted.mp4", "awkward/mp4/sample_with_invalid_nalu.mp4"}
SIDEWAYS = {
    "awkward/decord/video_90.mov": (90, False, (568, 320)),
    "awkward/decord/video_180.mov": (180, False, (320, 568)),
    "awkward/decord/video_270.mov": (270, False, (568, 320)),
    "awkward/mp4/dolbyVision-hdr.MOV": (90, False, (1280, 720)),
    "awkward/mp4/internal_emulator_transformer_output_270_rotated.mp4": (270, False, (1280, 720)),
    "awkward/mp4/sample_rotate_and_reflect.mp4": (270, True, (1080, 720)),
}
COLOURS = {
    "awkward/mp4/bt601.mov": ("bt601", False, 8),
    "awkward/bt709_full_range.mp4": ("bt709", True, 8),
    "awkward/h264_10bits.mp4": ("bt601", False, 10),
    "awkward/mp4/hdr10-av1.mp4": ("bt2020", False, 10),
    "awkward/vp9/roadtrip-vp92-10bit.webm": ("bt2020", False, 10),
    "clips/hand-gesture.mkv": ("bt601", True, 8),
    "clips/big-buck-bunny-720p.mp4": ("bt709", False, 8),
}


def plain_decode(path: Path, most: int) -> tuple[list[int | None], str | None]:
    """pts of the frames of PyAV's own loop, and what stopped it."""
    found: list[int | None] = []
    with av.open(str(path)) as container:
        try:
            for frame in container.decode(container.streams.video[0]):
                found.append(frame.pts)
                if len(found) == most:
                    break
        except av.error.FFmpegError as error:
            return found, str(error)
    return found, None


@pytest.mark.parametrize("name", [name for name in (*AWKWARD, *CLIPS) if name not in NO_VIDEO])
def test_frames_and_times_are_the_decoders(data: Path, name: str) -> None:
    most = 450 if name in AWKWARD else 60
    expected, stopped = plain_decode(data / name, most)
    with ClipReader(data / name, size=(64, 64), max_frames=most) as reader:
        found = [frame.pts for frame in reader]
        losses = reader.losses
    assert (stopped is not None) == (name in DAMAGED) == bool(losses)
    assert found[: len(expected)] == expected
    assert len(found) == len(expected) or stopped is not None


@pytest.mark.parametrize("name", NO_VIDEO)
def test_no_video_is_one_sentence(data: Path, name: str) -> None:
    with pytest.raises(VideoError, match=NO_VIDEO[name]) as caught:
        probe(data / name)
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("name", SIDEWAYS)
def test_turned_clips_stand_upright(data: Path, name: str) -> None:
    info = probe(data / name)
    assert (info.rotation_degrees, info.mirrored, info.size) == SIDEWAYS[name]
    with ClipReader(data / name, max_frames=1) as reader:
        assert next(reader).size == info.size


@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_recognised(data: Path, name: str) -> None:
    info = probe(data / name)
    assert (info.matrix, info.full_range, info.bits) == COLOURS[name]


TABLE = Path(__file__).resolve().parent.parent / "docs" / "inputs.md"
HEADING = """# What happens to awkward files

Read by `flowguide.video.ClipReader` and written here by
`FLOWGUIDE_WRITE_DOCS=1 pytest tests/test_video_real.py -k table`; a test holds it fresh. Every file gives the frames
and times of the plain decoder, or one sentence; of a damaged file more than the plain decoder, which stops at the first
damaged packet. Sizes are width x height as shown; unspecified colour is BT.709 from 720 lines up, else BT.601.

| file | pictures | shown as | rate | colour | sound | what is said |
|---|---|---|---|---|---|---|
"""


def table_row(path: Path, name: str, caplog: pytest.LogCaptureFixture) -> str:
    try:
        info = probe(path)
        caplog.clear()
        with ClipReader(path, size=(64, 64)) as reader:
            times = [frame.pts * frame.time_base for frame in reader]
    except VideoError as error:
        return f"| {name} | none | | | | | {str(error).removeprefix(f'{path} ')} |"
    steps = {after - before for before, after in itertools.pairwise(times)}
    even = len(steps) < 2 or max(steps) - min(steps) <= Fraction(2, 1000)
    rate = f"{float(info.frame_rate):.5g}" if info.frame_rate else "not stated"
    begin = f", from {float(times[0]):.4g} s" if times[0] else ""
    height, width = info.size
    turn = f", turned {info.rotation_degrees}°" if info.rotation_degrees else ""
    mirror = ", mirrored" if info.mirrored else ""
    colour = f"{info.codec}, {info.bits} bit, {info.matrix}, {'full' if info.full_range else 'limited'}"
    said = " ".join(record.getMessage().removeprefix(f"{path}: ") for record in caplog.records)
    return (
        f"| {name} | {len(times)} | {width}x{height}{turn}{mirror} | {rate}{'' if even else ', varies'}{begin} "
        f"| {colour} | {info.audio_codec or 'none'} | {said} |"
    )


def test_the_table_in_the_docs_is_fresh(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [table_row(data / name, name.removeprefix("awkward/"), caplog) for name in AWKWARD]
    text = HEADING + "\n".join(rows) + "\n"
    if os.environ.get("FLOWGUIDE_WRITE_DOCS"):
        TABLE.write_text(text, encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == text


ROUND_TRIPS = [
    "awkward/mp4/bbb_800x640_768kbps_30fps_avc_2b_firstpts_10_sec.mp4",
    "awkward/mp4/edit_list_positive_shift.mp4",
    "awkward/mp4/sample_android_slow_motion.mp4",
    "awkward/mp4/sample_edit_list_only_preroll_sync_sample.mp4",
    "awkward/mp4/testvid_1022ms.mp4",
    "awkward/avi/sample.avi",
    "awkward/flv/sample.flv",
    "awkward/ts/sample_h262_mpeg_audio.ts",
    "awkward/mkv/bbb_642x642_768kbps_30fps_vp9.webm",
    "awkward/vp9/bear-vp9-odd-dimensions.webm",
    "clips/flower.mp4",
    "clips/flower-fragmented.mp4",
    "clips/hand-gesture.mkv",
]


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_times_and_sound_survive_a_round_trip(data: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / "out.mp4"
    with ClipReader(data / name, size=(64, 96), max_frames=40) as reader:
        info = reader.info
        with ClipWriter(
            output, size=info.size, time_base=info.time_base, frame_rate=info.frame_rate, audio_from=reader
        ) as writer:
            expected: list[Fraction] = []
            for frame in reader:
                writer.write(frame)
                expected.append(frame.pts * frame.time_base)
    with ClipReader(output) as reader:
        assert [frame.pts * frame.time_base for frame in reader] == expected
    if info.audio_codec:
        assert abs(first_sound(output) - first_sound(data / name)) <= Fraction(1152, 22050)


def first_sound(path: Path) -> Fraction:
    with av.open(str(path)) as container:
        frame = next(container.decode(audio=0))
        return frame.pts * frame.time_base
