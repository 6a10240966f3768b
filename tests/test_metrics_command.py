"""`flowguide metrics`: the report of files, as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from textures import panned, texture

from flowguide import metrics_plot
from flowguide.cli import main
from flowguide.metrics import Report, measure
from flowguide.runs.clip import render
from flowguide.runs.manifest import read_manifest
from flowguide.runs.request import Request
from flowguide.types import Frame
from flowguide.video import ClipWriter

SIZE, FRAMES = (96, 150), 7


def write(path: Path, frames: list[Frame]) -> Path:
    with ClipWriter(path, size=frames[0].size, time_base=Fraction(1, 25), frame_rate=Fraction(25)) as writer:
        for frame in frames:
            writer.write(Frame(frame.rgb, frame.index, frame.index, Fraction(1, 25)))
    return path


def noisy(frames: list[Frame], deviation: float) -> list[Frame]:
    generator = torch.Generator().manual_seed(0)
    noise = (torch.randn(f.rgb.shape, generator=generator) * deviation for f in frames)
    return [
        Frame((f.rgb + n).round().clamp(0, 255).to(torch.uint8), f.index) for f, n in zip(frames, noise, strict=True)
    ]


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    """Two shots: one that moves, and another picture that stands still."""
    moving = panned(texture(140, 220, 1), SIZE, FRAMES, 3, 2)
    still = [Frame(255 - texture(*SIZE, 7), 0)] * FRAMES
    return [Frame(f.rgb, i, i, Fraction(1, 25)) for i, f in enumerate([*moving, *still])]


@pytest.fixture(scope="module")
def clips(frames: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write(folder / "in.mkv", frames)
    write(folder / "out.mkv", noisy(frames, 5))
    write(folder / "unguided.mkv", noisy(frames, 25))
    write(folder / "short.mkv", frames[:4])
    write(folder / "small.mkv", [Frame(f.rgb[:, :32, :64].contiguous(), f.index) for f in frames[:3]])
    return folder


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(clips: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `flowguide …` in the folder of the clips: exit code, output, errors."""
    monkeypatch.chdir(clips)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return run


def test_the_table_has_every_lag_and_says_who_found_the_flow(command: Command) -> None:
    code, table, _ = command("metrics", "in.mkv", "out.mkv", "--unguided", "unguided.mkv")
    assert code == 0
    for told in ("E_warp(1)", "E_warp(4)", "E_warp(16)", "E_warp(first)", "flow by farneback", "begin at 0, 7"):
        assert told in table
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if ".mkv" in line}
    assert float(rows["out.mkv"][0]) < float(rows["unguided.mkv"][0])


def test_the_json_has_curves_as_long_as_the_clip(command: Command) -> None:
    code, text, _ = command("metrics", "in.mkv", "out.mkv", "--unguided", "unguided.mkv", "--json", "--lags", "2,first")
    assert code == 0
    report = json.loads(text)
    assert report["shots"] == [0, FRAMES]
    out = report["clips"][2]
    assert set(out["warp_error"]) == {"2", "first"}
    assert set(out["curves"]) == {"flicker", "sharpness", "colour_drift", "psnr_db", "ssim"}
    assert {len(curve) for curve in out["curves"].values()} == {2 * FRAMES}


def test_a_line_per_frame_marks_where_shots_begin(command: Command) -> None:
    code, text, _ = command("metrics", "in.mkv", "out.mkv", "--per-frame", "--lags", "1")
    assert code == 0
    lines = [line.split() for line in text.splitlines() if line.split()[1:2] == ["out.mkv"] and line[:1] == " "]
    lines = [line for line in lines if line[0].isdecimal()]
    assert [int(line[0]) for line in lines] == list(range(2 * FRAMES))
    assert [int(line[0]) for line in lines if line[-1] == "shot"] == [0, FRAMES]


def test_the_plot_shows_each_clip_in_its_colour(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "curves.png"
    ask = ("metrics", "in.mkv", "out.mkv", "--unguided", "unguided.mkv", "--plot", plot, "--lags", "1,first")
    assert command(*ask)[0] == 0
    picture = cv2.imread(str(plot))
    assert picture is not None
    for bgr in ((0xB4, 0x77, 0x1F), (0x0E, 0x7F, 0xFF), (0x2C, 0xA0, 0x2C)):  # matplotlib's first three colours
        assert int((np.abs(picture.astype(int) - bgr).sum(2) < 12).sum()) > 100
    code, _, errors = command(*ask)
    assert code == 2
    assert "is there already" in errors
    assert command(*ask, "--overwrite")[0] == 0


def report_of(frames: list[Frame], **more: object) -> Report:
    return measure(frames, {"a": noisy(frames, 8)}, lags=(1, 4, "first"), **more)  # type: ignore[arg-type]


def test_each_measure_with_a_value_has_a_panel_and_a_cut_breaks_the_line(frames: list[Frame]) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    report = report_of(frames, anchors={"a": [3]})
    panels = metrics_plot._panels(report)
    assert [label.split("\n")[0].rstrip(",") for label in panels] == [
        "E_warp(1)", "E_warp(4)", "E_warp(first)", "flicker of what", "sharpness", "colour drift",
    ]  # fmt: skip
    axes = Figure().subplots()
    metrics_plot._draw(axes, "sharpness", panels["sharpness,\nrelative"], report)
    shots, (curve, dots) = axes.lines[:2], axes.lines[2:]
    assert [line.get_xdata()[0] for line in shots] == [0, FRAMES]
    gap = list(curve.get_xdata()).index(FRAMES - 0.5)
    assert np.isnan(curve.get_ydata()[gap])
    assert list(dots.get_xdata()) == [3]


def test_a_single_frame_is_plotted_as_points(frames: list[Frame], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    metrics_plot.write_plot(report_of(frames[:1]), tmp_path / "one.png")
    assert cv2.imread(str(tmp_path / "one.png")) is not None


def test_without_matplotlib_it_says_what_to_install(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, errors = command("metrics", "in.mkv", "out.mkv", "--plot", "curves.png")
    assert code == 1
    assert "pip install 'flowguide[plot]'" in errors


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["absent.mkv", "out.mkv"], 1, "absent.mkv does not exist"),
        (["in.mkv", "absent.mkv"], 1, "absent.mkv does not exist"),
        (["in.mkv", "out.mkv", "small.mkv"], 2, "'small.mkv' is 32x64 and the source 96x150"),
        (["in.mkv", "out.mkv", "--lags", "1,0"], 2, "positive numbers of frames or 'first'"),
        (["in.mkv", "out.mkv", "--lags", "1,frist"], 2, "got 'frist'"),
        (["in.mkv", "out.mkv", "--flow", "farnback"], 2, "Did you mean 'farneback'"),
        (["in.mkv", "out.mkv", "--plot", "curves.jpg"], 2, "name ending in .png"),
        (["in.mkv", "out.mkv", "--plot", "absent/curves.png"], 1, "the folder absent does not exist"),
    ],
)
def test_wrong_use_is_one_sentence(command: Command, arguments: list[str], code: int, says: str) -> None:
    if "--plot" in arguments:
        pytest.importorskip("matplotlib")
    ended, _, errors = command("metrics", *arguments)
    assert ended == code
    assert says in errors
    assert errors.count("\n") == 1


def test_a_plot_that_cannot_be_written_is_one_sentence(command: Command) -> None:
    pytest.importorskip("matplotlib")
    code, _, errors = command("metrics", "in.mkv", "short.mkv", "--plot", "/proc/curves.png")
    assert code == 1
    assert "/proc/curves.png cannot be written" in errors


def test_a_shorter_clip_is_told(command: Command) -> None:
    code, _, errors = command("metrics", "in.mkv", "out.mkv", "short.mkv")
    assert code == 0
    assert "short.mkv ended before the others; 4 frames are measured." in errors


def test_a_clip_of_another_shape_is_told(command: Command) -> None:
    code, _, errors = command("metrics", "in.mkv", "small.mkv")
    assert code == 0
    assert "in.mkv is 150x96 and the painted clip 64x32, of another shape" in errors
    assert "shape" not in command("metrics", "in.mkv", "out.mkv")[2]


def test_anchors_of_a_run_are_in_its_manifest_and_in_the_report(
    command: Command, clips: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = {"model": str(tiny_checkpoint), "strategy": "anchors", "anchors": "3", "steps": 1}
    painted = tmp_path / "painted.mkv"
    render(clips / "in.mkv", painted, request=Request(), segment_frames=5, **settings)
    anchors = read_manifest(painted)["anchors"]
    assert anchors[0] == 0
    assert FRAMES in anchors, "each shot begins with one"
    assert 3 in anchors
    assert len(anchors) < 2 * FRAMES
    code, text, _ = command("metrics", "in.mkv", painted)
    assert code == 0
    assert f"{len(anchors)} anchors, at 0, 3" in text
