"""A run from file to file in every kind of output, and with every choice of frames."""

from __future__ import annotations

import itertools
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from coded_frames import SIZE, clicks_in, make_clicking
from going_on import decoded, resumed_equals_whole
from PIL import Image

import flowguide
from flowguide.cli import main
from flowguide.errors import UsageError
from flowguide.runs.request import Request
from flowguide.video import ClipReader, probe
from flowguide.video.images import read_exr

RESUME = Request(resume=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second with sound."""
    return make_clicking(tmp_path_factory.mktemp("clip") / "in.mp4", 0.48, [0.2])


@pytest.fixture
def options(tiny_checkpoint: Path) -> dict[str, Any]:
    return {"model": str(tiny_checkpoint), "dtype": "float32", "steps": 2, "segment_frames": 2, "max_frames": 5}


@pytest.mark.parametrize(
    ("name", "codec"),
    [("out.mkv", "ffv1-16"), ("out_%02d.png", "png16"), ("out_%02d.exr", None), ("out.mov", "prores")],
)
def test_outputs_of_more_than_eight_bits(
    clip: Path, tmp_path: Path, options: dict[str, Any], name: str, codec: str | None
) -> None:
    output = resumed_equals_whole(clip, tmp_path, name, {**options, "codec": codec})
    first = output.with_name(output.name % 1) if "%" in name else output
    with av.open(str(first)) as container:
        picture = next(container.decode(video=0))
    assert max(component.bits for component in picture.format.components) >= 10
    values = (
        picture.to_ndarray(format="gbrp16le") if first.suffix != ".exr" else read_exr(first, alpha=False).to_ndarray()
    )
    assert len(np.unique(values)) > 256


@pytest.mark.parametrize(("name", "codec"), [("out.mov", "prores4444"), ("out_%02d.png", None), ("out.webp", None)])
def test_opacity_of_the_source_comes_through(
    tmp_path: Path, options: dict[str, Any], name: str, codec: str | None
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(5):
        pixels = np.random.default_rng(index).integers(0, 255, (32, 48, 4), dtype=np.uint8)
        pixels[..., 3] = np.linspace(0, 255, 48).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    output = resumed_equals_whole(folder, tmp_path, name, {**options, "codec": codec, "input_rate": "25"})
    for _, _, alpha in decoded(output):
        assert alpha is not None
        found = np.frombuffer(alpha, np.uint16).reshape(32, 48) / 257
        assert np.abs(found - np.linspace(0, 255, 48).astype(np.uint8)).max() <= 2


def test_opacity_that_is_lost_is_said(
    tmp_path: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.full((32, 48, 4), 128, np.uint8)
    source = tmp_path / "in.mov"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("prores_ks", rate=25, options={"profile": "4444"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuva444p10le"
        for index in range(2):
            picture = av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format="yuva444p10le")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    assert probe(source).alpha
    flowguide.render(source, tmp_path / "out.mp4", **options)
    assert "its opacity is left out" in caplog.text


def test_a_folder_gets_numbered_pictures(clip: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    report = flowguide.render(clip, folder, **{**options, "max_frames": 2})
    assert report.output == folder / "converted_%06d.png"
    assert {"converted_000000.png", "converted_000001.png"} <= {path.name for path in folder.iterdir()}
    light = tmp_path / "light"
    light.mkdir()
    assert flowguide.render(clip, light, output_preset="light", **{**options, "max_frames": 1}).output.suffix == ".exr"
    with pytest.raises(UsageError, match="is the input itself"):
        flowguide.render(folder, folder, **options)


def test_presets(clip: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    flowguide.render(clip, tmp_path / "out.mkv", output_preset="archive", **options)
    info = probe(tmp_path / "out.mkv")
    assert (info.codec, info.bits) == ("ffv1", 16)
    for wrong, says in (
        ({"output_preset": "wbe"}, "Did you mean 'web'"),
        ({"output_preset": "web", "codec": "h264"}, "leave --codec out"),
        ({"output_preset": "edit"}, "do not take"),
    ):
        with pytest.raises(UsageError, match=says):
            flowguide.render(clip, tmp_path / "other.mp4", **wrong, **options)


@pytest.mark.parametrize(
    ("choice", "times", "click"),
    [
        ({"every": 2}, [Fraction(2 * n, 25) for n in range(6)], 0.2),
        ({"frame_rate": "10"}, [Fraction(n, 10) for n in range(5)], 0.2),
        ({"frame_rate": "50", "start_seconds": 0.08, "end_seconds": 0.4}, [Fraction(n, 50) for n in range(16)], 0.12),
    ],
)  # fmt: skip
def test_frame_choice_through_a_run(
    clip: Path, tmp_path: Path, options: dict[str, Any], choice: dict[str, Any], times: list[Fraction], click: float
) -> None:
    output = resumed_equals_whole(clip, tmp_path, "out.mp4", {**options, "max_frames": None, **choice})
    assert [time for time, _, _ in decoded(output)] == times
    assert clicks_in(output) == pytest.approx([click], abs=1024 / 48000)


@pytest.mark.parametrize("rate", ["24000/1001", "25", "30000/1001", "60"])
def test_times_of_common_rates_and_a_late_start_come_through(
    tmp_path: Path, options: dict[str, Any], rate: str
) -> None:
    """Also through the journal and the joining: pts are those of the input, exactly; the sound stays where it was."""
    step = 1 / Fraction(rate)
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w", options={"video_track_timescale": str(step.denominator)}) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate), options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        stream.time_base = stream.codec_context.time_base = step / step.numerator
        late = round(10 / (step / step.numerator))
        for index in range(5):
            picture = av.VideoFrame(SIZE[1], SIZE[0], "yuv420p")
            picture.pts, picture.time_base = late + step.numerator * index, step / step.numerator
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    flowguide.render(source, tmp_path / "out.mp4", **options)
    before, after = ([time for time, _, _ in decoded(path)] for path in (source, tmp_path / "out.mp4"))
    assert after == before
    assert before[0] == pytest.approx(10, abs=float(step))
    assert {later - earlier for earlier, later in itertools.pairwise(after)} == {step}


def test_raw_frames_from_standard_input_to_standard_output(clip: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    flags = ["--model", options["model"], "--dtype", "float32", "--steps", "2", "--max-frames", "3"]
    command = [sys.executable, "-c", "from flowguide.cli import main; main()", "render", "-", "-", *flags]
    with clip.open("rb") as piped:
        done = subprocess.run(command, stdin=piped, capture_output=True, check=True, cwd=tmp_path)
    flowguide.render(clip, tmp_path / "out.mkv", codec="ffv1", **{**options, "max_frames": 3})
    with ClipReader(tmp_path / "out.mkv") as reader:
        expected = b"".join(frame.rgb.permute(1, 2, 0).contiguous().numpy().tobytes() for frame in reader)
    assert done.stdout == expected
    assert b"-video_size 80x48 -framerate 25" in done.stderr
    for extra in ("--json", "--resume"):
        with pytest.raises(SystemExit) as ended:
            main(["render", str(clip), "-", extra, *flags])
        assert ended.value.code == 2


def test_a_batch_takes_the_suffix_of_its_codec(
    clip: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["render", str(clip), "--out-dir", "all", "--output-preset", "edit", "--max-frames", "1",
              "--model", options["model"], "--dtype", "float32", "--steps", "2"])  # fmt: skip
    assert ended.value.code == 0
    assert probe(tmp_path / "all" / "in.mov").codec == "prores"
