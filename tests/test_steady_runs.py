"""`steady` as a run: options from everywhere, a manifest, and frames that no interruption changes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from coded_frames import clicks_in, make_clicking
from going_on import decoded, stop_after
from kill_server import Job, KillServer, killed_at_points, killed_at_random, killed_before_each_call

import flowguide
from flowguide.cli import main
from flowguide.config import SteadyConfig, read_toml, steady_config
from flowguide.errors import FlowguideError, Interrupted, UnknownName, UsageError
from flowguide.runs.journal import Journal
from flowguide.runs.manifest import read_manifest
from flowguide.runs.request import Request
from flowguide.synthetic import demo
from flowguide.synthetic.film import LAKE_FRAMES
from flowguide.types import Frame
from flowguide.video import ClipReader, ClipWriter

COMMAND = [sys.executable, "-c", "from flowguide.cli import main; main()"]
RESUME = Request(resume=True)
FRAMES, CUT, SEGMENT = 14, 9, 4
KILLS = int(os.environ.get("FLOWGUIDE_TEST_KILLS", "3"))


def painted(frame: Frame) -> Frame:
    """Another picture each time: inverted, under strokes of noise."""
    generator = torch.Generator().manual_seed(frame.index)
    height, width = frame.size
    strokes = torch.randn(1, 3, height // 4, width // 4, generator=generator)
    strokes = torch.nn.functional.interpolate(strokes, frame.size, mode="bicubic")[0]
    return replace(frame, rgb=(255 - frame.rgb * 0.7 + 25 * strokes).clamp(0, 255).to(torch.uint8))


def write(path: Path, frames: list[Frame]) -> Path:
    with ClipWriter(
        path, size=frames[0].size, time_base=Fraction(1, 1000), frame_rate=Fraction(25), codec="ffv1"
    ) as writer:
        for frame in frames:
            writer.write(frame)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two shots of the synthetic film, with uneven times, and the same painted."""
    folder = tmp_path_factory.mktemp("clips")
    scene = demo(size=(64, 96), frames=LAKE_FRAMES + FRAMES)
    frames = [
        Frame(scene.frame(LAKE_FRAMES - CUT + index), index, 40 * index + index % 3, Fraction(1, 1000))
        for index in range(FRAMES)
    ]
    return write(folder / "in.mkv", frames), write(folder / "painted.mkv", [painted(frame) for frame in frames])


@pytest.fixture(scope="module")
def options() -> dict[str, Any]:
    return {"anchors": "3", "threads": 1, "segment_frames": SEGMENT}


@pytest.fixture(scope="module")
def undisturbed(clips: tuple[Path, Path], options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out.mp4"
    flowguide.steady_clip(*clips, output, **options)
    return output


@pytest.fixture(scope="module")
def job(clips: tuple[Path, Path], options: dict[str, Any], undisturbed: Path) -> Job:
    return Job(clips, options, decoded(undisturbed))


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_the_manifest_tells_all_and_stands_inside_too(
    clips: tuple[Path, Path], undisturbed: Path, options: dict[str, Any]
) -> None:
    told = json.loads(undisturbed.with_name("out.mp4.json").read_text())
    with av.open(str(undisturbed)) as container:
        assert json.loads(container.metadata["comment"]) == told
    for part, clip in zip(("source", "stylised"), clips, strict=True):
        assert told[part] == {"name": clip.name, "sha256": hashlib.sha256(clip.read_bytes()).hexdigest()}
    assert told["settings"] == SteadyConfig(anchors="3", threads=1).model_dump()
    assert (told["frames"], told["shots"], told["segment_frames"]) == (FRAMES, 2, SEGMENT)
    assert told["anchors"] == [0, 3, 6, 7, 8, 9, 11, 13]
    assert told["alignment"]["offset"] == 0
    assert told["alignment"]["by"] == "number"
    assert told["flow"] == "dis-balanced-filled"
    assert told["machine"]["threads"] == 1
    assert {"torch", "opencv-python-headless"} <= told["packages"].keys()
    assert {"flow", "glue", "read", "write"} <= told["stage_seconds"].keys()
    assert 0 < sum(told["stage_seconds"].values()) < 1.05 * told["seconds"]
    assert told["flowguide"] == flowguide.__version__
    assert str(clips[0].parent) not in json.dumps(told)
    assert "notes" not in told


def test_an_undisturbed_run_keeps_every_time_and_little_else(clips: tuple[Path, Path], undisturbed: Path) -> None:
    assert [frame[0] for frame in decoded(undisturbed)] == [frame[0] for frame in decoded(clips[1])]
    assert sorted(path.name for path in undisturbed.parent.iterdir()) == ["out.mp4", "out.mp4.json", "out.mp4.run"]
    kept = Journal(undisturbed).folder
    assert not list((kept / "segments").glob("*.mp4"))
    assert not list((kept / "states").iterdir())


def test_notes_are_in_the_manifest_without_paths(clips: tuple[Path, Path], tmp_path: Path) -> None:
    with ClipReader(clips[1]) as reader:
        later = write(tmp_path / "later.mkv", list(reader)[3:])
    report = flowguide.steady_clip(clips[0], later, tmp_path / "out.mp4", offset=3, anchors="frames:0,5")
    told = read_manifest(tmp_path / "out.mp4")
    assert told["notes"] == report.notes == ["later.mkv begins 3 frames after in.mkv."]
    assert told["alignment"] == {"offset": 3, "by": "number", "correlation": None}


@pytest.mark.parametrize("count", [1, 4, 6, 10, 13])
def test_a_stopped_run_goes_on_to_the_same_frames(
    clips: tuple[Path, Path], options: dict[str, Any], undisturbed: Path, tmp_path: Path, count: int
) -> None:
    output, kept = tmp_path / "out.mp4", count // SEGMENT * SEGMENT
    hint = rf"{kept} frames are kept; go on with: flowguide resume " if kept else ""
    with pytest.raises(Interrupted, match=rf"after {count} frames\. ?{hint}"):
        flowguide.steady_clip(*clips, output, **options, **stop_after(count))
    assert [path.name for path in tmp_path.iterdir()] == (["out.mp4.run"] if kept else [])
    report = flowguide.steady_clip(*clips, output, request=RESUME, **options)
    assert report.painted == FRAMES - kept
    assert decoded(output) == decoded(undisturbed)
    told, expected = read_manifest(output), read_manifest(undisturbed)
    for name in ("anchors", "frames", "shots", "alignment", "settings"):
        assert told[name] == expected[name]
    again = flowguide.steady_clip(*clips, output, request=RESUME, **options)
    assert (again.painted, again.frames) == (0, FRAMES)
    assert again.confident_share == report.confident_share > 0


@pytest.mark.parametrize(
    ("anchors", "segment", "count"),
    [("coverage", 4, 6), ("edges", 4, 9), ("coverage", CUT, 11), ("frames:2,10", 5, 11), ("2", 1, 7)],
)
def test_every_rule_for_anchors_goes_on(
    clips: tuple[Path, Path], tmp_path: Path, anchors: str, segment: int, count: int
) -> None:
    """Also where a segment ends with its shot."""
    options: dict[str, Any] = {"anchors": anchors, "threads": 1, "segment_frames": segment}
    whole = flowguide.steady_clip(*clips, tmp_path / "whole.mkv", **options)
    with pytest.raises(Interrupted):
        flowguide.steady_clip(*clips, tmp_path / "parts.mkv", **options, **stop_after(count))
    parts = flowguide.steady_clip(*clips, tmp_path / "parts.mkv", **options, request=RESUME)
    assert parts.painted == FRAMES - count // segment * segment
    assert (parts.anchors, parts.shots, parts.confident_share) == (whole.anchors, 2, whole.confident_share)
    assert decoded(parts.output) == decoded(whole.output)


def test_runs_killed_at_every_kind_of_point_resume_to_the_same_frames(
    job: Job, server: KillServer, tmp_path: Path
) -> None:
    killed_at_points(server, job, tmp_path)


def test_runs_killed_at_random_moments_resume_to_the_same_frames(job: Job, server: KillServer, tmp_path: Path) -> None:
    """FLOWGUIDE_TEST_KILLS=50 for the long form."""
    killed_at_random(server, job, tmp_path, KILLS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif("FLOWGUIDE_TEST_KILLS" not in os.environ, reason="FLOWGUIDE_TEST_KILLS asks for the long form")
def test_runs_killed_before_each_call_of_the_file_system_resume_to_the_same_frames(
    job: Job, server: KillServer, tmp_path: Path
) -> None:
    assert killed_before_each_call(server, job, tmp_path) > 50


def test_ctrl_c_ends_with_130_and_the_command_goes_on(
    clips: tuple[Path, Path], undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mp4"
    words = ["steady", *map(str, clips), str(output), "--anchors", "3", "--threads", "1", "--segment-frames", "4"]
    process = subprocess.Popen(
        [*COMMAND, *words, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("index") == 5:
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "frames are kept; go on with: flowguide resume" in errors
    assert not output.exists()
    assert run("resume", output, "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["event"] == "start"
    assert events[0]["done"] >= SEGMENT
    assert events[0]["model"] is None
    assert events[-1]["event"] == "done"
    assert events[-1]["alignment"]["offset"] == 0
    assert decoded(output) == decoded(undisturbed)


def test_rerun_and_show_from_the_video_alone(
    clips: tuple[Path, Path], undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (*clips, undisturbed):
        shutil.copy(file, tmp_path)
    alone, again = tmp_path / "out.mp4", tmp_path / "again.mp4"
    assert run("rerun", alone, again) == 0
    assert decoded(again) == decoded(undisturbed)
    assert read_manifest(again)["settings"] == read_manifest(alone)["settings"]
    capsys.readouterr()
    assert run("show", alone) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:3] == ["steadied: painted.mkv", "source: in.mkv", "anchors: 3"]
    assert {"frames: 14", "shots: 2", "flow: dis-balanced-filled"} <= set(told)
    moved = (tmp_path / "painted.mkv").rename(tmp_path / "elsewhere.mp4")
    for words, code, says in (
        ([], 2, "painted.mkv does not exist; name it with --stylised"),
        (["--stylised", clips[0]], 2, "is not the stylised that"),
        (["--stylised", moved], 0, "14 frames"),
    ):
        assert run("rerun", alone, tmp_path / "third.mp4", *words) == code
        assert says in capsys.readouterr().err


def test_options_come_from_file_environment_and_flags_in_that_order(
    clips: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "my.toml"
    file.write_text(
        '[render]\nprompt = "x"\n[steady]\nanchors = "4"\nfeather_px = 2\nanchor_frames = 5\nmax_frames = 3\n'
    )
    monkeypatch.setenv("FLOWGUIDE_STEADY_FEATHER_PX", "3")
    monkeypatch.setenv("FLOWGUIDE_STEADY_ANCHOR_FRAMES", "6")
    output = tmp_path / "out.mp4"
    assert run("steady", *clips, output, "--config", file, "--anchor-frames", 7) == 0
    settings = read_manifest(output)["settings"]
    names = ("anchors", "feather_px", "anchor_frames", "max_frames")
    assert [settings[name] for name in names] == ["4", 3, 7, 3]
    file.write_text("feather_px = 4\nmax_frames = 2\n")
    assert run("steady", *clips, output, "--config", file, "--overwrite") == 0
    assert read_manifest(output)["settings"]["feather_px"] == 3
    assert read_manifest(output)["settings"]["max_frames"] == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[steady]\nanchor = 3\n", "Unknown option 'anchor'. Did you mean 'anchors'?"),
        ("[steady]\nfeather_px = 99\n", "Option feather_px: Input should be less than or equal to 64, got 99."),
        ("[render]\nseed = 3\n", "has a table [render] and none for this command; write its options in [steady]."),
        ("steady = 3\n", "[steady] in my.toml should be a table."),
        ("[steady", "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text(text)
    assert run("steady", "in.mkv", "painted.mkv", "out.mp4", "--config", "my.toml") == 2
    assert says in capsys.readouterr().err


def test_a_file_for_steady_alone_is_not_render_s(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("[steady]\nfeather_px = 3\n")
    with pytest.raises(UsageError, match=r"a table \[steady\] and none for this command"):
        read_toml(tmp_path / "my.toml")
    assert steady_config(read_toml(tmp_path / "my.toml", "steady")).feather_px == 3
    with pytest.raises(UnknownName):
        steady_config(prompt="x")


def test_another_run_is_refused_with_the_difference(
    clips: tuple[Path, Path], options: dict[str, Any], tmp_path: Path
) -> None:
    source, stylised = (Path(shutil.copy(clip, tmp_path)) for clip in clips)
    output = tmp_path / "out.mp4"
    with pytest.raises(Interrupted):
        flowguide.steady_clip(source, stylised, output, **options, **stop_after(5))
    with pytest.raises(UsageError, match=r"holds 4 frames of an unfinished run.*--resume"):
        flowguide.steady_clip(source, stylised, output, **options)
    with pytest.raises(UsageError, match=r"settings\.feather_px: 1 before, 3 now"):
        flowguide.steady_clip(source, stylised, output, request=RESUME, **options, feather_px=3)
    with pytest.raises(UsageError, match="is a run of flowguide steady, not render"):
        flowguide.render(source, output, request=RESUME, segment_frames=SEGMENT, flow="dis", guidance=False)
    stylised.write_bytes(stylised.read_bytes() + b"more")
    with pytest.raises(UsageError, match=r"stylised\.sha256: "):
        flowguide.steady_clip(source, stylised, output, request=RESUME, **options)
    for request, says in (
        (Request(redo=(0, 3)), "No range of a steadied clip can be steadied again"),
        (Request(resume=True), "standard input"),
    ):
        with pytest.raises(UsageError, match=says):
            flowguide.steady_clip(source, "-" if request.resume else stylised, output, request=request)
    assert len(Journal(output).records()) == 1


def test_numbered_pictures_resume_too(clips: tuple[Path, Path], options: dict[str, Any], tmp_path: Path) -> None:
    short = {**options, "max_frames": 6}
    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    flowguide.steady_clip(*clips, tmp_path / "whole" / "%03d.png", **short)
    with pytest.raises(Interrupted):
        flowguide.steady_clip(*clips, tmp_path / "stopped" / "%03d.png", **short, **stop_after(5))
    assert run("resume", tmp_path / "stopped") == 0
    made = [
        (tmp_path / folder / f"{index:03d}.png").read_bytes() for index in range(6) for folder in ("whole", "stopped")
    ]
    assert made[::2] == made[1::2]


def test_the_sound_is_the_painted_clip_s_and_ends_with_the_pictures(tmp_path: Path) -> None:
    source = make_clicking(tmp_path / "in.mp4", 1.0, [])
    painted = make_clicking(tmp_path / "painted.mp4", 1.0, [0.2, 0.76])
    flowguide.steady_clip(source, painted, tmp_path / "whole.mp4", offset=0, segment_frames=10)
    assert clicks_in(tmp_path / "whole.mp4") == pytest.approx([0.2, 0.76], abs=0.03)
    flowguide.steady_clip(source, painted, tmp_path / "part.mp4", offset=0, max_frames=10)
    assert clicks_in(tmp_path / "part.mp4") == pytest.approx([0.2], abs=0.03)
    silent = flowguide.steady_clip(source, painted, tmp_path / "silent.mp4", offset=0, max_frames=2, audio=False)
    with ClipReader(silent.output) as reader:
        assert reader.info.audio_codec is None


def test_a_damaged_run_is_a_sentence(clips: tuple[Path, Path], undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed.parent, tmp_path, dirs_exist_ok=True)
    file = Journal(tmp_path / "out.mp4").folder / "run.json"
    known = json.loads(file.read_text())
    for left_out in ("stylised", "stylised_path", "settings"):
        file.write_text(json.dumps({name: value for name, value in known.items() if name != left_out}))
        with pytest.raises(FlowguideError, match="or is damaged; begin anew with --overwrite"):
            flowguide.steady_clip(*clips, tmp_path / "out.mp4", request=RESUME)
        assert run("resume", tmp_path / "out.mp4") == 1
