"""Bad input and bad output get one sentence, and nothing half-written."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from coded_frames import SIZE, coded, make_clicking, number_in, repainted, write

from flowguide.errors import FlowguideError, UnknownName, UsageError, VideoError
from flowguide.types import Frame
from flowguide.video import ClipReader, ClipWriter, check_output, codec_for, probe, source

RATE = Fraction(25)


def sentence(error: FlowguideError, path: Path) -> str:
    """The text of an error, checked to be one line that ends like a sentence and names the file."""
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    assert path.name in text
    return text


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.zeros((1, 9600), np.float32), "fltp", "mono")
        block.sample_rate, block.pts, block.time_base = 48000, 0, Fraction(1, 48000)
        container.mux(stream.encode(block))
        container.mux(stream.encode(None))


def cut_off(path: Path) -> None:
    """A recording whose index, at the end of the file, was never written."""
    whole = path.with_name("whole.mp4")
    make_clicking(whole, 0.8, [])
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])


UNREADABLE = {
    "missing": (lambda path: None, "does not exist"),
    "folder": (lambda path: path.mkdir(), "holds no picture"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "text": (lambda path: path.write_text("no video " * 500), "cannot be read as a video"),
    "sound only": (sound_only, "only audio"),
    "cut off": (cut_off, "has no index"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_input_is_one_sentence(tmp_path: Path, case: str) -> None:
    make, expected = UNREADABLE[case]
    path = tmp_path / "input clip.mp4"
    make(path)
    for attempt in (probe, ClipReader):
        with pytest.raises(VideoError) as caught:
            attempt(path)
        assert expected in sentence(caught.value, path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_forbidden_file_is_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", range(2), 1 / RATE)
    path.chmod(0)
    with pytest.raises(VideoError) as caught:
        probe(path)
    sentence(caught.value, path)


def test_a_truncated_file_gives_what_it_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write(tmp_path / "whole.mp4", range(100), 1 / RATE, rate=RATE)
    path = tmp_path / "truncated.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with ClipReader(path) as reader:
        found = [number_in(frame.rgb) for frame in reader]
        (loss,) = reader.losses
    assert 10 < len(found) < 100
    assert found[:20] == list(range(20))
    assert found == sorted(set(found))
    assert re.match(rf"stopped after {len(found)} of about 100 frames \(.+\)$", loss)
    assert loss in caplog.text


def test_damage_in_the_middle_loses_only_the_middle(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mkv", range(100), Fraction(1, 1000) * 40, rate=RATE, codec="ffv1")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60] = bytes(60)
    path.write_bytes(data)
    with ClipReader(path) as reader:
        found = [frame.index for frame in reader]
    assert len(found) >= 75


@pytest.mark.parametrize("name", ["out.xyz", "out", "out.mp5", ".mp4"])
def test_an_unknown_suffix_is_answered_with_the_list(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownName, match=r"\.mkv, \.mov, \.mp4"):
        ClipWriter(tmp_path / name, size=SIZE, time_base=1 / RATE, frame_rate=RATE)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_or_unfitting_codec_is_answered_with_the_list() -> None:
    with pytest.raises(UnknownName, match="h264"):
        codec_for("out.mp4", "h265x")
    with pytest.raises(UsageError, match="they take"):
        codec_for("out.webm", "h264")


def test_an_absent_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(VideoError) as caught:
        ClipWriter(tmp_path / "no" / "out.mp4", size=SIZE, time_base=1 / RATE, frame_rate=RATE)
    assert "does not exist" in sentence(caught.value, Path("out.mp4"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_not_writable_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(VideoError) as caught:
        ClipWriter(tmp_path / "out.mp4", size=SIZE, time_base=1 / RATE, frame_rate=RATE)
    sentence(caught.value, Path("out.mp4"))


def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    clip = write(tmp_path / "clip.mp4", range(3), 1 / RATE)
    before = clip.read_bytes()
    link = tmp_path / "link.mp4"
    link.hardlink_to(clip)
    symlink = tmp_path / "symlink.mp4"
    symlink.symlink_to(clip)
    for name in (clip, link, symlink, tmp_path / "." / "clip.mp4"):
        with pytest.raises(UsageError) as caught:
            check_output(name, [clip])
        assert "input itself" in sentence(caught.value, name)
        with pytest.raises(UsageError):
            ClipWriter(name, size=SIZE, time_base=1 / RATE, frame_rate=RATE, audio_from=clip)
    assert clip.read_bytes() == before


def test_an_output_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        ClipWriter(tmp_path / "out.mp4", size=SIZE, time_base=1 / RATE, frame_rate=RATE)


def fail_after_a_frame(path: Path) -> None:
    with ClipWriter(path, size=SIZE, time_base=1 / RATE, frame_rate=RATE) as writer:
        writer.write(Frame(coded(7), 0, 0, 1 / RATE))
        raise ZeroDivisionError


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(ZeroDivisionError):
        fail_after_a_frame(path)
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_former_output(tmp_path: Path) -> None:
    path = write(tmp_path / "out.mp4", range(3), 1 / RATE)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        fail_after_a_frame(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_no_frame_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with (
        pytest.raises(VideoError) as caught,
        ClipWriter(path, size=SIZE, time_base=1 / RATE, frame_rate=RATE),
    ):
        pass
    assert "no frame" in sentence(caught.value, path)
    assert list(tmp_path.iterdir()) == []


def test_trouble_with_the_sound_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with pytest.raises(VideoError, match="does not exist"):
        write(path, range(3), 1 / RATE, audio_from=tmp_path / "absent.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit on file sizes of a process stands for a full disk."""
    program = """
import resource, signal, sys
from fractions import Fraction
import torch
from flowguide.errors import VideoError
from flowguide.types import Frame
from flowguide.video import ClipWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    with ClipWriter(sys.argv[1], size=(128, 128), time_base=Fraction(1, 25), frame_rate=None) as writer:
        for n in range(60):
            writer.write(Frame(torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8), n, n, Fraction(1, 25)))
except VideoError as error:
    sys.stdout.write(str(error))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out.mp4")], capture_output=True, text=True, timeout=60
    )
    assert "cannot be written" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    program = """
import sys, time
from fractions import Fraction
import torch
from flowguide.types import Frame
from flowguide.video import ClipWriter
with ClipWriter(sys.argv[1], size=(64, 64), time_base=Fraction(1, 25), frame_rate=None) as writer:
    for n in range(100000):
        writer.write(Frame(torch.zeros((3, 64, 64), dtype=torch.uint8), n, n, Fraction(1, 25)))
        if n == 20:
            sys.stdout.write("going")
            sys.stdout.flush()
"""
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"going"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    assert not path.exists()
    assert all(left.name.endswith(".partial") for left in tmp_path.iterdir())


@pytest.mark.parametrize("start", [None, 2.5])
def test_damage_does_the_same_with_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: float | None
) -> None:
    data = bytearray(write(tmp_path / "whole.mp4", range(250), 1 / RATE, (64, 96), rate=RATE).read_bytes())
    draw = random.Random(1)
    for _ in range(12):
        data[draw.randrange(len(data) // 3, len(data) - 100)] ^= 0x55
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    results = []
    for threads in (1, 2, 8):
        monkeypatch.setattr(source, "FRAME_THREADS", threads)
        with ClipReader(path, start_seconds=start) as reader:
            results.append(([(frame.pts, frame.rgb.numpy().tobytes()) for frame in reader], reader.losses))
    assert results[0][1]
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".gif", ".webp"])
def test_damaged_bytes_never_crash_or_hang(tmp_path: Path, suffix: str) -> None:
    """Mutations of one small file: each decodes or raises one of our errors, in bounded time."""
    if suffix in (".mp4", ".mkv"):
        source = make_clicking(tmp_path / f"source{suffix}", 0.8, [0.2]).read_bytes()
    else:
        source = write(tmp_path / f"source{suffix}", range(8), 1 / RATE).read_bytes()
    draw = random.Random(suffix)
    path, output = tmp_path / f"mutated{suffix}", tmp_path / "out.mp4"
    for _ in range(40):
        data = bytearray(source)
        for _ in range(draw.choice((1, 4, 32))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        if draw.random() < 0.2:
            del data[draw.randrange(1, len(data)) :]
        path.write_bytes(data)
        begin = time.monotonic()
        try:
            repainted(path, output, max_frames=100)
        except FlowguideError as error:
            text = str(error)
            assert text.endswith(".")
            assert "\n" not in text
        assert time.monotonic() - begin < 20
    assert not [left for left in tmp_path.iterdir() if left.name.endswith(".partial")]
