"""The command line as a user meets it: a process, its output, its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from flowguide.config import RenderConfig
from flowguide.types import Frame
from flowguide.video import ClipWriter, probe

COMMAND = [sys.executable, "-c", "from flowguide.cli import main; main()"]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=240, env={**os.environ, **environment}
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "in.mp4"
    generator = np.random.default_rng(3)
    texture = generator.integers(0, 255, (3, 64, 96), dtype=np.uint8)
    with ClipWriter(path, size=(64, 64), time_base=Fraction(1, 25), frame_rate=Fraction(25)) as writer:
        for index in range(8):
            rgb = torch.from_numpy(np.ascontiguousarray(texture[:, :, index : index + 64]))
            writer.write(Frame(rgb, index, index, Fraction(1, 25)))
    return path


@pytest.mark.parametrize(
    "words",
    [
        ("steady", "{clip}", "{clip}", "{out}", "--anchors", "3"),
        ("render", "{clip}", "{out}", "--strategy", "anchors", "--anchors", "3", "--steps", "2"),
        ("render", "{clip}", "{out}", "--strategy", "joint", "--joint-every", "3", "--steps", "2", "--window", "2"),
    ],
    ids=lambda words: " ".join(words[:1] + words[4:6]),
)
def test_a_command_that_shares_its_work_among_threads_ends(words: tuple[str, ...], clip: Path, tmp_path: Path) -> None:
    """As its own process, which waits for every thread: an idle one of a pool would keep it for ever."""
    out = tmp_path / "out.mp4"
    command = [sys.executable, "-m", "flowguide", *(word.format(clip=clip, out=out) for word in words)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert out.exists()


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['flowguide', '--help']\n"
        "try:\n    from flowguide.cli import main; main()\n"
        "finally:\n    print([m for m in ('torch', 'diffusers', 'cv2', 'av', 'triton') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip().endswith("[]")
    assert "render" in result.stdout


def test_every_command_says_what_it_does() -> None:
    for line in run("--help").stdout.splitlines():
        cell = line.strip("│").rstrip()
        if line.startswith("│ ") and cell[1:2].isalpha():
            assert len(cell.split(maxsplit=1)) == 2, f"{cell.strip()} has no sentence"


def test_every_option_is_in_the_help() -> None:
    text = run("render", "--help", COLUMNS="100").stdout  # in 80 columns the longest names are wrapped
    for name in RenderConfig.model_fields:
        assert f"--{name.replace('_', '-')}" in text


def test_a_render_and_its_progress_lines(clip: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = run("render", clip, tmp_path / "out.mp4", "--model", tiny_checkpoint, "--max-frames", 3)
    assert result.returncode == 0, result.stderr
    assert "3 frames, 1 shot" in result.stderr
    assert result.stdout == ""
    assert probe(tmp_path / "out.mp4").frames == 3
    assert (tmp_path / "out.mp4.json").exists()


def test_json_lines_for_programs(clip: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = run("render", clip, tmp_path / "out.mp4", "--model", tiny_checkpoint, "--max-frames", 3, "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["start", "frame", "frame", "frame", "done"]
    assert events[-1]["frames"] == 3
    failed = run("render", tmp_path / "absent.mp4", tmp_path / "out.mp4", "--json")
    assert json.loads(failed.stdout)["event"] == "error"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["render", "absent.mp4", "out.mp4"], 1, "does not exist"),
        (["render", "in.mp4"], 2, "OUTPUT"),
        (["render", "in.mp4", "out.mp4", "--strenght", "1"], 2, "Did you mean --strength"),
        (["render", "in.mp4", "out.mp4", "--strength", "2"], 2, "--strength"),
        (["render", "in.mp4", "out.mp4", "--steps", "many"], 2, "--steps"),
        (["render", "in.mp4", "out.mp4", "--config", "absent.toml"], 2, "absent.toml does not exist"),
        (["rendr"], 2, 'Did you mean "render"'),
        (["metrics", "in.mp4"], 2, "at least one"),
    ],
)
def test_wrong_use_is_one_line_and_a_code(arguments: list[str], code: int, says: str) -> None:
    result = run(*arguments)
    assert result.returncode == code
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


def test_settings_come_from_file_environment_and_flags_in_that_order(
    clip: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "my.toml").write_text('[render]\nprompt = "from file"\nsteps = 4\nseed = 1\nmax_frames = 1\n')
    result = run(
        "render", clip, tmp_path / "out.mp4", "--config", tmp_path / "my.toml", "--seed", 3,
        FLOWGUIDE_RENDER_STEPS="5", FLOWGUIDE_RENDER_MODEL=str(tiny_checkpoint), FLOWGUIDE_RENDER_SEED="2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    settings = json.loads((tmp_path / "out.mp4.json").read_text())["settings"]
    assert (settings["prompt"], settings["steps"], settings["seed"]) == ("from file", 5, 3)


def test_a_wrong_word_in_the_file_is_named(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('[render]\npromt = "x"\n')
    result = run("render", clip, tmp_path / "out.mp4", "--config", tmp_path / "my.toml")
    assert result.returncode == 2
    assert "Did you mean 'prompt'" in result.stderr


def test_ctrl_c_stops_after_the_frame_with_130_and_leaves_nothing(
    clip: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [*COMMAND, "render", str(clip), str(tmp_path / "out.mp4"), "--model", str(tiny_checkpoint), "--json",
         "--steps", "600", "--strength", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "frame":
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Stopped after" in errors
    assert list(tmp_path.iterdir()) == [], "nothing was kept yet"


def test_doctor_names_costs_and_cures() -> None:
    text = run("doctor").stdout
    assert "compiled operations" in text
    assert "model painter" in text
    content = json.loads(run("doctor", "--json").stdout)
    findings = content["findings"]
    assert content["ready"] is True
    assert {"name", "state", "found", "cost", "cure", "needed"} == set(findings[0])
    for finding in findings:
        if finding["state"] == "missing":
            assert finding["cost"], finding["name"]


def test_metrics_of_a_clip_against_itself(clip: Path) -> None:
    result = run("metrics", clip, clip, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert [entry["name"] for entry in report["clips"]] == ["source", "in.mp4"]
    source, same = (entry["warp_error"]["1"]["l1"] for entry in report["clips"])
    assert same == pytest.approx(source, rel=1e-5)
    assert "farneback" in run("metrics", clip, clip).stdout


def test_the_process_ends_with_the_exit_code() -> None:
    def code(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-m", "flowguide", *arguments], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    assert code("--version")[0] == 0
    status, said = code("render", "nowhere.mp4", "out.mp4")
    assert (status, "nowhere.mp4 does not exist" in said) == (1, True)
    assert "Traceback" not in said


def test_an_interrupt_while_loading_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "cyclopts.py").write_text(
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nsignal.raise_signal(signal.SIGINT)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "flowguide", "--help"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "flowguide: stopped.\n")
