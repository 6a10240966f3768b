"""Around a run: manifests, batches, estimates, settings files, full disks, damaged files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flowguide
from flowguide.cli import main
from flowguide.config import RenderConfig, read_toml, render_config
from flowguide.errors import FlowguideError
from flowguide.run_commands import frame_range, seconds_of
from flowguide.runs.durable import read_json, write_text
from flowguide.runs.journal import Journal
from flowguide.runs.manifest import read_manifest
from flowguide.runs.request import Request
from flowguide.types import Frame
from flowguide.video import ClipReader, ClipWriter

FUZZ = int(os.environ.get("FLOWGUIDE_TEST_FUZZ", "150"))


def write_clip(path: Path, frames: int = 5) -> Path:
    texture = np.random.default_rng(2).integers(0, 255, (3, 48, 110), dtype=np.uint8)
    with ClipWriter(path, size=(48, 64), time_base=Fraction(1, 25), frame_rate=Fraction(25)) as writer:
        for index in range(frames):
            writer.write(
                Frame(torch.from_numpy(texture[:, :, index : index + 64].copy()), index, index, Fraction(1, 25))
            )
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a clip."""
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "in.mp4")
    return tmp_path


@pytest.fixture
def model(tiny_checkpoint: Path) -> list[str]:
    return ["--model", str(tiny_checkpoint), "--dtype", "float32", "--steps", "2"]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def pixels(path: Path) -> list[bytes]:
    with ClipReader(path) as reader:
        return [frame.rgb.numpy().tobytes() for frame in reader]


def test_show_and_rerun_from_the_video_alone(place: Path, model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("render", "in.mp4", "out.mp4", *model, "--seed", 4, "--prompt", "ink „wash“") == 0
    shutil.copy("out.mp4", "alone.mp4")
    capsys.readouterr()
    assert run("show", "alone.mp4") == 0
    told = capsys.readouterr().out
    assert "prompt: ink „wash“" in told
    assert "seed: 4" in told
    assert run("show", "alone.mp4", "--json") == 0
    assert json.loads(capsys.readouterr().out)["settings"]["seed"] == 4
    assert run("rerun", "alone.mp4", "again.mp4") == 0
    assert pixels(Path("again.mp4")) == pixels(Path("out.mp4"))
    write_clip(Path("in.mp4"), frames=4)
    assert run("rerun", "alone.mp4", "third.mp4") == 2
    assert run("show", "in.mp4") == 1
    assert run("resume", "in.mp4") == 2


def test_a_batch_goes_on_after_a_failure(place: Path, model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("clips").mkdir()
    write_clip(Path("clips/a.mp4"), frames=2)
    Path("clips/b.mp4").write_bytes(b"no video")
    write_clip(Path("clips/c.mp4"), frames=3)
    assert run("render", "clips/*.mp4", "--out-dir", "painted", *model) == 1
    report = json.loads(Path("painted/report.json").read_text())["clips"]
    assert [entry["frames"] for entry in report] == [2, None, 3]
    assert "cannot be read" in report[1]["error"]
    assert "2 of 3 clips painted" in capsys.readouterr().err
    write_clip(Path("clips/b.mp4"), frames=1)
    assert run("render", "clips/*.mp4", "--out-dir", "painted", "--resume", *model) == 0
    assert len(pixels(Path("painted/b.mp4"))) == 1
    assert run("render", "absent/*.mp4", "--out-dir", "painted", *model) == 2
    shutil.copy("clips/a.mp4", "clips/a.mov")
    assert run("render", "clips/*", "--out-dir", "other", *model) == 2
    assert not Path("other").exists()


def test_a_dry_run_says_what_would_be_and_writes_nothing(
    place: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("render", "in.mp4", "out.mp4", "--dry-run", *model) == 0
    told = capsys.readouterr().out
    for word in ("frames:      5 of 64x48", "shots:       1,", "model calls: 10", "time:", "memory:", "disk:"):
        assert word in told
    assert [path.name for path in place.iterdir()] == ["in.mp4"]


def test_init_writes_a_file_that_render_takes(place: Path, model: list[str]) -> None:
    assert run("init", "in.mp4") == 0
    text = Path("in.toml").read_text()
    assert "64x48, 5 frames at 25.000" in text
    assert "1 shot(s)" in text
    assert tomllib.loads(text)["render"] == {"prompt": RenderConfig().prompt}
    for name in RenderConfig.model_fields:
        assert f"\n# {name} =" in text or f"\n{name} = " in text
    assert run("render", "in.mp4", "out.mp4", "--config", "in.toml", "--max-frames", 1, *model) == 0
    assert run("init", "in.mp4") == 2


def test_try_paints_a_part_and_replaces_its_last_try(place: Path, model: list[str]) -> None:
    for _ in range(2):
        assert run("try", "in.mp4", "--at", "0.08s", "--frames", 2, *model) == 0
    assert len(pixels(Path("in-try.mp4"))) == 2


def test_try_takes_the_settings_file_and_the_part_that_it_names(place: Path, model: list[str]) -> None:
    Path("my.toml").write_text('[render]\nprompt = "mosaic"\nstart_seconds = 0.12\nmax_frames = 1\n')
    assert run("try", "in.mp4", "--config", "my.toml", *model) == 0
    tried = read_manifest(Path("in-try.mp4"))
    assert tried["settings"]["prompt"] == "mosaic"
    assert tried["settings"]["start_seconds"] == 0.12
    assert len(pixels(Path("in-try.mp4"))) == 1


def test_names_that_are_taken_or_absent_are_told(
    place: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(Path("mine.mp4"), frames=1)
    before = Path("mine.mp4").read_bytes()
    assert run("render", "in.mp4", "out.mp4", "--max-frames", 1, *model) == 0
    for words, told in (
        (["try", "in.mp4", "mine.mp4"], "choose another name, or remove it"),
        (["try", "in.mp4", "--frames", 0], "--frames should be at least 1"),
        (["rerun", "out.mp4", "mine.mp4"], "choose another name, or remove it"),
        (["rerun", "out.mp4", "again.mp4", "--source", "absent.mp4"], "absent.mp4 does not exist"),
        (["init", "in.mp4", "absent/in.toml"], "the folder absent does not exist"),
        (["show", "."], "is a folder"),
        (["resume", ".."], "holds 0 runs"),
        (["render", "in.mp4", "new.mp4", "--config", "."], "Is a directory."),
        (["demo", "--frames", 0], "--frames should be at least 1"),
        (["demo", "--clip", "absent.mp4"], "absent.mp4 does not exist"),
        (["demo", "--frames", 1, "--out-dir", "mine.mp4"], "mine.mp4 cannot be made"),
        (["engines", "build", "--runtime", "onnx", "--dtype", "int3"], "Unknown dtype 'int3'"),
        (["training", "train", "--data", "absent", "--work", "work"], "absent/photos holds nothing to train on"),
        (["training", "plot", "--work", "absent", "--to", "plot.png"], "no training log"),
    ):
        capsys.readouterr()
        assert run(*words) in (1, 2)
        assert told in capsys.readouterr().err
    assert Path("mine.mp4").read_bytes() == before
    assert not any(Path(made).exists() for made in ("out", "work", "plot.png", "again.mp4", "in-try.mp4"))
    Path("pictures").mkdir()
    assert run("render", "in.mp4", "pictures", "--max-frames", 1, *model) == 0
    assert run("resume", "pictures") == 0


def test_words_for_times_and_ranges() -> None:
    assert [seconds_of(text) for text in ("12s", "12.5", "1:02", "1:00:02.5")] == [12.0, 12.5, 62.0, 3602.5]
    assert frame_range("120-180") == (120, 180)
    for wrong in ("", "s", "-1", "1:2:3:4", "nan", "inf"):
        with pytest.raises(FlowguideError):
            seconds_of(wrong)
    for wrong in ("", "1", "-", "a-b", "1-2-3", "-1-2"):
        with pytest.raises(FlowguideError):
            frame_range(wrong)


def test_contradictions_are_refused(place: Path, model: list[str]) -> None:
    assert run("render", "in.mp4", "out.mp4", "--resume", "--overwrite", *model) == 2
    assert run("render", "in.mp4", "out.mp4", "--redo", "1-2", *model) == 2
    assert run("render", "in.mp4", "out.mp4", "--out-dir", "x", *model) == 2
    assert run("render", "in.mp4", "out.mp4", "--segment-frames", "0", *model) == 2
    assert run("render", "-", "out.mp4", "--resume", *model) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing(tiny_checkpoint: Path, tmp_path: Path, small_disk: Path) -> None:
    options: dict[str, Any] = {"model": str(tiny_checkpoint), "dtype": "float32", "steps": 2, "segment_frames": 2}
    clip, output, filler = write_clip(tmp_path / "in.mp4", frames=8), small_disk / "out.mp4", small_disk / "filler"

    def fill(styled: Any) -> None:
        if styled.source.index == 5:
            filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 40_000))

    with pytest.raises(FlowguideError, match=r"(nearly full|cannot be written).*4 frames are kept") as caught:
        flowguide.render(clip, output, on_frame=fill, **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(FlowguideError):
        flowguide.render(clip, output, request=Request(resume=True), **options)
    filler.unlink()
    flowguide.render(clip, output, request=Request(resume=True), **options)
    flowguide.render(clip, tmp_path / "whole.mp4", **options)
    assert pixels(output) == pixels(tmp_path / "whole.mp4")


@pytest.mark.parametrize("moment", range(6))
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    calls = 0

    def failing(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > moment:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("flowguide.runs.durable.os.fsync", failing)
    try:
        write_text(path, "after")
    except FlowguideError:
        assert path.read_text() in ("before", "after")
    else:
        assert path.read_text() == "after"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.fixture(scope="module")
def finished(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_clip(folder / "in.mp4", frames=3)
    options: dict[str, Any] = {"model": str(tiny_checkpoint), "dtype": "float32", "steps": 2, "segment_frames": 2}
    flowguide.render(folder / "in.mp4", folder / "out.mp4", **options)
    return folder / "out.mp4"


TEXTS = [b"{}", b"[]", b"null", b"1e999", b"\xff\xfe", b'"' * 50, b"[" * 3000, b"0", b"-1", b'"\\ud800"', b"\0", b""]


def mutated(whole: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """`whole` with pieces replaced: (where as a share, how many bytes, by what)."""
    for share, length, piece in edits:
        place = int(share * len(whole))
        whole = whole[:place] + piece + whole[place + length :]
    return whole


EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from([0, 1, 3, 20, 10**6]), st.sampled_from(TEXTS) | st.binary(max_size=4)),
    min_size=1, max_size=3,
)  # fmt: skip


@given(edits=EDITS)
@settings(deadline=2000, max_examples=FUZZ, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_manifests_records_and_settings_are_one_sentence(
    finished: Path, tmp_path: Path, edits: list[tuple[float, int, bytes]]
) -> None:
    """FLOWGUIDE_TEST_FUZZ=10000 for the long form."""
    record = Journal(finished).folder / "segments" / "000000.json"
    damaged = tmp_path / "damaged.json"
    damaged.write_bytes(mutated(finished.with_name("out.mp4.json").read_bytes(), edits))
    copy = Journal(tmp_path / "copy.mp4")
    segments = copy.folder / "segments"
    segments.mkdir(parents=True, exist_ok=True)
    (segments / "000000.json").write_bytes(mutated(record.read_bytes(), edits))
    (copy.folder / "run.json").write_bytes(mutated((Journal(finished).folder / "run.json").read_bytes(), edits))
    (tmp_path / "my.toml").write_bytes(mutated(b'[render]\nprompt = "a"\nsteps = 4\nlora = ["b@1"]\n', edits))
    for read in (
        lambda: render_config(read_manifest(damaged)["settings"]),
        lambda: render_config(copy.run["settings"]),
        lambda: read_json(damaged),
        lambda: render_config(read_toml(tmp_path / "my.toml")),
    ):
        with contextlib.suppress(FlowguideError):
            read()
    for found in copy.records():
        assert found.pts
        assert len(found.pts) == len(found.order)
        assert isinstance(sum(found.stage_seconds.values()) + found.seconds + found.carried, int | float)
