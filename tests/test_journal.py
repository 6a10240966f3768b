"""A run that cannot be lost: stopped anywhere, gone on with, and the same frames in the end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from going_on import decoded, resumed_equals_whole, stop_after
from kill_server import Job, KillServer, killed_at_points, killed_at_random, killed_before_each_call

import flowguide
from flowguide.errors import FlowguideError, Interrupted, UsageError
from flowguide.runs.journal import Journal
from flowguide.runs.request import Request
from flowguide.types import Frame
from flowguide.video import ClipReader, ClipWriter

COMMAND = [sys.executable, "-c", "from flowguide.cli import main; main()"]
RESUME = Request(resume=True)
FRAMES, SEGMENT = 14, 4
KILLS = int(os.environ.get("FLOWGUIDE_TEST_KILLS", "4"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pan with a cut and uneven times."""
    path = tmp_path_factory.mktemp("clip") / "in.mp4"
    textures = np.random.default_rng(2).integers(0, 255, (2, 3, 48, 110), dtype=np.uint8)
    with ClipWriter(path, size=(48, 64), time_base=Fraction(1, 600), frame_rate=Fraction(25)) as writer:
        for index in range(FRAMES):
            rgb = textures[int(index > 8)][:, :, 2 * index : 2 * index + 64]
            writer.write(Frame(torch.from_numpy(rgb.copy()), index, 24 * index + index % 3, Fraction(1, 600)))
    return path


@pytest.fixture(scope="module")
def options(tiny_checkpoint: Path) -> dict[str, Any]:
    return {"model": str(tiny_checkpoint), "dtype": "float32", "noise": "carried", "eta": 1.0, "steps": 4}


@pytest.fixture(scope="module")
def undisturbed(clip: Path, options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out.mp4"
    flowguide.render(clip, output, segment_frames=SEGMENT, **options)
    return output


def frames_of(path: Path) -> list[tuple[Fraction, str]]:
    with ClipReader(path) as reader:
        return [(f.pts * f.time_base, hashlib.sha256(f.rgb.numpy().tobytes()).hexdigest()) for f in reader]


def copied(undisturbed: Path, folder: Path) -> Path:
    """A finished run that a test may spoil."""
    shutil.copytree(undisturbed.parent, folder, dirs_exist_ok=True)
    return folder / undisturbed.name


def test_an_undisturbed_run_keeps_every_time_and_little_else(clip: Path, undisturbed: Path) -> None:
    assert [at for at, _ in frames_of(undisturbed)] == [at for at, _ in frames_of(clip)]
    kept = Journal(undisturbed).folder
    assert not list((kept / "segments").glob("*.mp4"))
    assert sorted(path.name for path in undisturbed.parent.iterdir()) == ["out.mp4", "out.mp4.json", "out.mp4.run"]
    with av.open(str(undisturbed)) as container:
        inside = json.loads(container.metadata["comment"])
    assert inside == json.loads(undisturbed.with_name("out.mp4.json").read_text())
    assert str(clip.parent) not in json.dumps(inside)


@pytest.mark.parametrize("count", [5, 12])
def test_a_stopped_run_goes_on_to_the_same_frames(
    clip: Path, options: dict[str, Any], undisturbed: Path, tmp_path: Path, count: int
) -> None:
    kept = count // SEGMENT * SEGMENT
    with pytest.raises(Interrupted, match=rf"after {count} frames.* {kept} frames are kept.*flowguide resume"):
        flowguide.render(clip, tmp_path / "out.mp4", segment_frames=SEGMENT, **stop_after(count), **options)
    assert not (tmp_path / "out.mp4").exists()
    report = flowguide.render(clip, tmp_path / "out.mp4", segment_frames=SEGMENT, request=RESUME, **options)
    assert report.painted == FRAMES - kept
    assert frames_of(tmp_path / "out.mp4") == frames_of(undisturbed)
    again = flowguide.render(clip, tmp_path / "out.mp4", segment_frames=SEGMENT, request=RESUME, **options)
    assert (again.painted, again.frames) == (0, FRAMES)


def test_other_settings_and_another_input_are_refused_with_the_difference(
    clip: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    source = Path(shutil.copy(clip, tmp_path / "in.mp4"))
    output = tmp_path / "out.mp4"
    with pytest.raises(Interrupted):
        flowguide.render(source, output, segment_frames=SEGMENT, **stop_after(5), **options)
    with pytest.raises(UsageError, match=r"holds 4 frames of an unfinished run.*--resume"):
        flowguide.render(source, output, **options)
    with pytest.raises(UsageError, match=r"settings\.seed: 0 before, 7 now; segment_frames: 4 before, 5 now"):
        flowguide.render(source, output, segment_frames=5, request=RESUME, **{**options, "seed": 7})
    source.write_bytes(source.read_bytes() + b"more")
    with pytest.raises(UsageError, match=r"source\.sha256: "):
        flowguide.render(source, output, segment_frames=SEGMENT, request=RESUME, **options)
    source.unlink()
    with pytest.raises(FlowguideError, match="does not exist"):
        flowguide.render(source, output, segment_frames=SEGMENT, request=RESUME, **options)
    assert len(Journal(output).records()) == 1


def test_a_finished_output_is_not_replaced_unasked(clip: Path, options: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    output.write_bytes(b"precious")
    for request in (Request(), RESUME):
        with pytest.raises(UsageError, match=r"is there already.*--overwrite"):
            flowguide.render(clip, output, request=request, **options)
    with pytest.raises(Interrupted):
        flowguide.render(
            clip, output, request=Request(overwrite=True), segment_frames=2, **stop_after(3), max_frames=4, **options
        )
    assert output.read_bytes() == b"precious"
    flowguide.render(clip, output, request=RESUME, segment_frames=2, max_frames=4, **options)
    assert len(frames_of(output)) == 4


def test_an_output_changed_by_hand_is_not_replaced(
    clip: Path, options: dict[str, Any], undisturbed: Path, tmp_path: Path
) -> None:
    output = copied(undisturbed, tmp_path)
    output.write_bytes(output.read_bytes() + b"edited")
    with pytest.raises(UsageError, match="is not what this run wrote"):
        flowguide.render(clip, output, segment_frames=SEGMENT, request=RESUME, **options)


def test_a_range_painted_again_leaves_the_rest_alone(clip: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = copied(undisturbed, tmp_path)
    flowguide.render(clip, output, request=Request(redo=(5, 6)))
    assert frames_of(output) == frames_of(undisturbed)
    stopper = stop_after(3)
    with pytest.raises(Interrupted):
        flowguide.render(clip, output, request=Request(redo=(5, 9)), strength=0.9, seed=3, **stopper)
    assert frames_of(output) == frames_of(undisturbed)
    known = Journal(output).run
    report = flowguide.render(clip, output, request=RESUME, segment_frames=SEGMENT, **known["settings"])
    assert report.painted == 8
    same = [a == b for a, b in zip(frames_of(output), frames_of(undisturbed), strict=True)]
    assert same == [True] * 4 + [False] * 8 + [True] * 2
    assert [at for at, _ in frames_of(output)] == [at for at, _ in frames_of(undisturbed)]
    told = json.loads(output.with_name("out.mp4.json").read_text())["painted_again"]
    assert told[-1] == {"frames": [5, 9], "settings": {"strength": 0.9, "seed": 3}}
    for wrong in ((9, 5), (0, FRAMES)):
        with pytest.raises(UsageError, match="0-13"):
            flowguide.render(clip, output, request=Request(redo=wrong))
    with pytest.raises(UsageError, match="size cannot change"):
        flowguide.render(clip, output, request=Request(redo=(1, 2)), size="32")


def test_a_damaged_segment_or_state_is_painted_again(
    clip: Path, options: dict[str, Any], undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.mp4"
    with pytest.raises(Interrupted):
        flowguide.render(clip, output, segment_frames=SEGMENT, **stop_after(13), **options)
    folder = Journal(output).folder
    segment = folder / "segments" / "000002.mp4"
    segment.write_bytes(segment.read_bytes()[:-7])
    (folder / "states" / "000002.safetensors").write_bytes(b"torn")
    report = flowguide.render(clip, output, segment_frames=SEGMENT, request=RESUME, **options)
    assert report.painted == FRAMES - 2 * SEGMENT
    assert frames_of(output) == frames_of(undisturbed)


@pytest.mark.parametrize("name", ["out.gif", "out.webp", "out_%03d.png", "out.mkv"])
def test_every_kind_of_output_resumes(clip: Path, options: dict[str, Any], tmp_path: Path, name: str) -> None:
    short = {**options, "segment_frames": 2, "max_frames": 5}
    assert len(decoded(resumed_equals_whole(clip, tmp_path, name, short))) == 5


def test_a_run_begins_clean_after_a_clearing_that_was_cut_off(
    clip: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    output = tmp_path / "out.mp4"
    with pytest.raises(Interrupted):
        flowguide.render(clip, output, segment_frames=2, **stop_after(3), **options)
    (Journal(output).folder / "run.json").unlink()
    report = flowguide.render(clip, output, segment_frames=2, request=RESUME, **{**options, "seed": 9}, max_frames=3)
    assert report.painted == report.frames == 3


def test_two_processes_do_not_write_one_run(clip: Path, options: dict[str, Any], tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.mp4")
    with journal.locked(), pytest.raises(UsageError, match="Another flowguide"):
        flowguide.render(clip, tmp_path / "out.mp4", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def tiny(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a run that is short, and yet has several segments."""
    return {**options, "steps": 2, "max_frames": 5, "segment_frames": 2}


@pytest.fixture(scope="module")
def job(clip: Path, tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Job:
    output = tmp_path_factory.mktemp("tiny") / "out.mp4"
    flowguide.render(clip, output, **tiny)
    return Job([clip], tiny, decoded(output))


def test_runs_killed_at_every_kind_of_point_resume_to_the_same_frames(
    job: Job, server: KillServer, tmp_path: Path
) -> None:
    """Start-up, journal writes, joining, publishing, clearing up: each killed run is gone on with by the next."""
    killed_at_points(server, job, tmp_path)


def test_runs_killed_at_random_moments_resume_to_the_same_frames(job: Job, server: KillServer, tmp_path: Path) -> None:
    killed_at_random(server, job, tmp_path, KILLS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif("FLOWGUIDE_TEST_KILLS" not in os.environ, reason="FLOWGUIDE_TEST_KILLS asks for the long form")
def test_runs_killed_before_each_call_of_the_file_system_resume_to_the_same_frames(
    job: Job, server: KillServer, tmp_path: Path
) -> None:
    assert killed_before_each_call(server, job, tmp_path) > 50


def command(clip: Path, output: Path, options: dict[str, Any]) -> list[str]:
    flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return [*COMMAND, "render", str(clip), str(output), "--threads", "1", *flags]


@pytest.mark.slow
@pytest.mark.timeout(60 * KILLS)
@pytest.mark.skipif("FLOWGUIDE_TEST_KILLS" not in os.environ, reason="FLOWGUIDE_TEST_KILLS says how many to kill")
def test_commands_killed_at_random_moments_resume_to_the_same_frames(
    clip: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    """The same for the whole command, its start included."""
    moments, killed, round_number = random.Random(5), 0, 0
    began = time.monotonic()
    subprocess.run(command(clip, tmp_path / "whole.mp4", tiny), check=True, capture_output=True)
    whole, expected = time.monotonic() - began, frames_of(tmp_path / "whole.mp4")
    while killed < KILLS:
        folder = tmp_path / str(round_number)
        folder.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [*command(clip, folder / "out.mp4", tiny), "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0.1, 1.0) * whole)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            killed += 1
        else:
            assert process.returncode == 0
            assert frames_of(folder / "out.mp4") == expected
            round_number += 1
    subprocess.run([*command(clip, folder / "out.mp4", tiny), "--resume"], check=True, capture_output=True)
    assert frames_of(folder / "out.mp4") == expected
