"""Trouble around a run: what vanishes, what cannot be written, clocks that jump. Nothing is lost; resuming works."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from coded_frames import make_clicking

import flowguide
from flowguide.cli import main
from flowguide.errors import FlowguideError, Interrupted
from flowguide.machine import cache_folder
from flowguide.runs.disk import SPARE_BYTES
from flowguide.runs.profiles import KEPT, Profile, note_profile, profile_of, profiles_file, read_profiles
from flowguide.runs.request import Request
from flowguide.video import ClipReader, source

RESUME = Request(resume=True)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clicking(tmp_path / "in.mp4", 0.36, [0.1])


@pytest.fixture
def options(tiny_checkpoint: Path) -> dict[str, Any]:
    return {"model": str(tiny_checkpoint), "dtype": "float32", "steps": 2, "segment_frames": 2}


def pixels(path: Path) -> list[bytes]:
    with ClipReader(path, pictures_per_second=Fraction(25)) as reader:
        return [frame.rgb.numpy().tobytes() for frame in reader]


def sentence(error: pytest.ExceptionInfo[FlowguideError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_an_input_that_vanishes_is_one_sentence_and_its_run_goes_on(
    clip: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    flowguide.render(clip, tmp_path / "whole.mp4", **options)
    hidden = tmp_path / "hidden.mp4"

    def hide(styled: Any) -> None:
        if styled.source.index == 3:
            clip.rename(hidden)

    with pytest.raises(FlowguideError, match=r"in\.mp4.*frames are kept; go on with: flowguide resume") as caught:
        flowguide.render(clip, tmp_path / "out.mp4", on_frame=hide, **options)
    sentence(caught)
    assert not (tmp_path / "out.mp4").exists()
    with pytest.raises(FlowguideError, match="does not exist"):
        flowguide.render(clip, tmp_path / "out.mp4", request=RESUME, **options)
    hidden.rename(clip)
    flowguide.render(clip, tmp_path / "out.mp4", request=RESUME, **options)
    assert pixels(tmp_path / "out.mp4") == pixels(tmp_path / "whole.mp4")


def test_a_picture_that_vanishes_is_not_left_out(tmp_path: Path, options: dict[str, Any], clip: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    flowguide.render(clip, folder / "p_%d.png", max_frames=6, **options)
    flowguide.render(folder, tmp_path / "whole.mp4", **options)
    hidden = (folder / "p_4.png").rename(tmp_path / "hidden.png")
    shutil.copy(hidden, folder / "p_4.png")

    def hide(styled: Any) -> None:
        if styled.source.index == 2:
            (folder / "p_4.png").unlink()

    with pytest.raises(FlowguideError, match=r"p_4\.png is no longer there.*\d frames are kept") as caught:
        flowguide.render(folder, tmp_path / "out.mp4", on_frame=hide, lookahead=0, **options)
    sentence(caught)
    hidden.rename(folder / "p_4.png")
    flowguide.render(folder, tmp_path / "out.mp4", request=RESUME, lookahead=0, **options)
    assert pixels(tmp_path / "out.mp4") == pixels(tmp_path / "whole.mp4")


def test_a_disk_that_goes_away_is_no_end_of_the_clip(
    clip: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flowguide.render(clip, tmp_path / "whole.mp4", **options)
    packets_of = source.packets_of

    def failing(*arguments: Any) -> Iterator[Any]:
        for count, packet in enumerate(packets_of(*arguments)):
            if count == 6:
                raise av.error.FFmpegError(errno.EIO, "Input/output error")
            yield packet

    with monkeypatch.context() as patch:
        patch.setattr(source, "packets_of", failing)
        with pytest.raises(FlowguideError, match="can no longer be read") as caught:
            flowguide.render(clip, tmp_path / "out.mp4", **options)
    sentence(caught)
    flowguide.render(clip, tmp_path / "out.mp4", request=RESUME, **options)
    assert pixels(tmp_path / "out.mp4") == pixels(tmp_path / "whole.mp4")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system that can be made read-only."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def test_a_folder_that_becomes_read_only_loses_nothing(
    clip: Path, tmp_path: Path, options: dict[str, Any], mounted: Path
) -> None:
    flowguide.render(clip, tmp_path / "whole.mp4", **options)
    output = mounted / "out.mp4"
    remount(mounted, "ro")
    with pytest.raises(FlowguideError, match="cannot be written") as caught:
        flowguide.render(clip, output, **options)
    sentence(caught)
    remount(mounted, "rw")
    with pytest.raises(Interrupted):
        flowguide.render(clip, output, should_stop=iter([False] * 4 + [True]).__next__, **options)
    remount(mounted, "ro")
    with pytest.raises(FlowguideError, match="cannot be written") as caught:
        flowguide.render(clip, output, request=RESUME, **options)
    sentence(caught)
    remount(mounted, "rw")
    report = flowguide.render(clip, output, request=RESUME, **options)
    assert report.painted == 5
    assert pixels(output) == pixels(tmp_path / "whole.mp4")


def test_a_clock_that_jumps_changes_nothing(
    clip: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flowguide.render(clip, tmp_path / "whole.mp4", **options)
    jumps = iter(range(10**9))

    def jumping() -> float:
        count = next(jumps)
        return 4e9 if count % 3 == 0 else 1000.0 * (count % 7)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
    with pytest.raises(Interrupted):
        flowguide.render(
            clip, tmp_path / "out.mp4", should_stop=iter([False] * 4 + [True]).__next__, noise="fixed", **options
        )
    flowguide.render(clip, tmp_path / "out.mp4", request=RESUME, **options)
    assert pixels(tmp_path / "out.mp4") == pixels(tmp_path / "whole.mp4")
    assert json.loads((tmp_path / "out.mp4.json").read_text())["seconds"] >= 0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWGUIDE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_dry_run_knows_earlier_runs(
    clip: Path, tmp_path: Path, options: dict[str, Any], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", options["model"], "--dtype", "float32", "--steps", "2", "--dry-run", "--json"]
    told = []
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(["render", str(clip), str(tmp_path / "out.mp4"), *flags])
        assert ended.value.code == 0
        told.append(json.loads(capsys.readouterr().out))
        flowguide.render(clip, tmp_path / "out.mp4", request=Request(overwrite=True), **options)
        known = read_profiles(profiles_file())
        assert len(known) == 1
    assert [entry["profiled_frames"] for entry in told] == [0, 8]
    for entry in told:
        low, high = entry["seconds"]
        assert 0 < low <= high
        assert 0 <= entry["generated_share"] <= 1
        assert entry["disk_bytes"] > 0
    (profile,) = known.values()
    assert profile.fast_seconds <= profile.slow_seconds


def test_a_disk_that_a_run_will_not_fit_on_is_told_before_the_work(
    clip: Path, tmp_path: Path, options: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flowguide.render(clip, tmp_path / "first.mp4", **options)
    (profile,) = read_profiles(profiles_file()).values()
    needed = profile.room_bytes(9, 2)
    assert needed > 9 * profile.segment_bytes
    usage = shutil.disk_usage(tmp_path)
    painted: list[Any] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed // 2 + SPARE_BYTES))
    with pytest.raises(FlowguideError, match=r"nearly full.*make room") as caught:
        flowguide.render(clip, tmp_path / "out.mp4", on_frame=painted.append, **options)
    sentence(caught)
    assert not painted
    assert not list(tmp_path.glob("out.mp4*"))


def test_profiles_are_a_cache(home: Path) -> None:
    profile = profile_of([9.0, *(0.1 * n for n in range(1, 11))], memory_bytes=None, segment_bytes=1.5, state_bytes=7)
    assert (profile.fast_seconds, profile.slow_seconds) == pytest.approx((0.2, 1.0))
    for number in range(KEPT + 3):
        note_profile(str(number), profile)
    known = read_profiles(profiles_file())
    assert list(known) == [str(number) for number in range(3, KEPT + 3)]
    assert known["5"] == profile
    note_profile("short", Profile(3, 0.1, 0.2, None, 1.0, 1))
    assert "short" not in read_profiles(profiles_file())
    for damaged in (b"", b"[]", b'{"profiles": 3}', b'{"profiles": {"a": {"frames": 1}}}', b"\xff"):
        profiles_file().write_bytes(damaged)
        assert read_profiles(profiles_file()) == {}
    note_profile("again", profile)
    assert list(read_profiles(profiles_file())) == ["again"]
    shutil.rmtree(cache_folder())
    cache_folder().write_text("a file where the folder should be")
    note_profile("nowhere", profile)
