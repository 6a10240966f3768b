"""From file to file: times, sound, determinism, what is written when, and every bad input."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import flowguide
from flowguide.config import render_config
from flowguide.errors import FlowguideError, Interrupted, ModelError, ScheduleError, UnknownName, UsageError, VideoError
from flowguide.types import Frame
from flowguide.video import ClipReader, ClipWriter

RATE = Fraction(30000, 1001)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames of a moving texture at 29.97 fps, 66 x 98 pixels."""
    path = tmp_path_factory.mktemp("clip") / "eine kleine Szene.mp4"
    rows, columns = np.mgrid[0:66, 0:98]
    with ClipWriter(path, size=(66, 98), time_base=1 / RATE, frame_rate=RATE) as writer:
        for index in range(6):
            wave = np.sin((columns + 2 * index) / 5.0) * np.cos(rows / 7.0)
            rgb = np.stack([wave, wave**2, -wave]) * 100 + 128
            writer.write(Frame(torch.from_numpy(rgb.astype(np.uint8)), index, index, 1 / RATE))
    return path


@pytest.fixture
def options(tiny_checkpoint: Path) -> dict[str, object]:
    return {"model": str(tiny_checkpoint), "dtype": "float32", "noise": "per-frame"}


def frames_of(path: Path) -> list[Frame]:
    with ClipReader(path) as reader:
        return list(reader)


def digest(path: Path) -> str:
    return hashlib.sha256(b"".join(frame.rgb.numpy().tobytes() for frame in frames_of(path))).hexdigest()


def test_every_frame_keeps_its_time_and_the_size_stays(clip: Path, tmp_path: Path, options: dict) -> None:
    report = flowguide.render(clip, tmp_path / "out.mp4", **options)
    before, after = frames_of(clip), frames_of(tmp_path / "out.mp4")
    assert report.frames == len(after) == 6
    assert [f.pts * f.time_base for f in after] == [f.pts * f.time_base for f in before]
    assert after[0].size == (66, 98)


def test_the_same_command_twice_gives_the_same_frames(clip: Path, tmp_path: Path, options: dict) -> None:
    for name in ("a.mp4", "b.mp4"):
        flowguide.render(clip, tmp_path / name, **options)
    assert digest(tmp_path / "a.mp4") == digest(tmp_path / "b.mp4")
    flowguide.render(clip, tmp_path / "c.mp4", **{**options, "seed": 1})
    assert digest(tmp_path / "a.mp4") != digest(tmp_path / "c.mp4")


def test_zero_weight_equals_no_guidance_in_the_file(clip: Path, tmp_path: Path, options: dict) -> None:
    flowguide.render(clip, tmp_path / "a.mp4", **options, guidance=False)
    flowguide.render(clip, tmp_path / "b.mp4", **options, flow_weight="0", paste=0.0)
    assert digest(tmp_path / "a.mp4") == digest(tmp_path / "b.mp4")


def test_the_manifest_tells_settings_model_and_versions(clip: Path, tmp_path: Path, options: dict) -> None:
    report = flowguide.render(clip, tmp_path / "out.mp4", prompt="ink drawing", **options)
    manifest = json.loads(report.manifest.read_text())
    assert manifest["settings"]["prompt"] == "ink drawing"
    assert render_config(manifest["settings"]).prompt == "ink drawing"
    assert len(manifest["model"]["sha256"]) == 64
    assert manifest["packages"]["torch"] == torch.__version__.split("+")[0] or "+" in manifest["packages"]["torch"]
    assert manifest["operations"]["warp"] in ("cpu", "reference")
    assert manifest["frames"] == 6


def test_callbacks_and_stopping(clip: Path, tmp_path: Path, options: dict) -> None:
    seen: list[int] = []
    with pytest.raises(Interrupted, match="after 2 frames") as caught:
        flowguide.render(
            clip, tmp_path / "out.mp4", **options, on_start=lambda start: seen.append(-start.frames),
            on_frame=lambda styled: seen.append(styled.source.index), should_stop=lambda: len(seen) == 3,
        )  # fmt: skip
    assert seen == [-6, 0, 1]
    assert caught.value.exit_code == 130
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_the_clip(clip: Path, tmp_path: Path, options: dict) -> None:
    report = flowguide.render(clip, tmp_path / "out.mp4", **options, start_seconds=0.05, max_frames=2)
    assert report.frames == 2


def leaves_nothing(folder: Path, *expected: str) -> bool:
    return sorted(path.name for path in folder.iterdir()) == sorted(expected)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"source": "absent.mp4"}, VideoError, "does not exist"),
        ({"source": "notes.txt"}, VideoError, "notes.txt"),
        ({"source": "empty.mp4"}, VideoError, "empty.mp4"),
        ({"output": "absent/out.mp4"}, VideoError, "folder .* does not exist"),
        ({"output": "out.xyz"}, UnknownName, "xyz"),
        ({"codec": "prores"}, UsageError, "do not take the codec"),
        ({"sampler": "ddmi"}, UnknownName, "Did you mean 'ddim'"),
        ({"model": "paintre"}, UnknownName, "Did you mean 'painter'"),
        ({"model": "./absent"}, ModelError, "does not exist"),
        ({"flow": "diss"}, UnknownName, "Did you mean 'dis'"),
        ({"size": "huge"}, UsageError, "huge"),
        ({"size": "3"}, UsageError, "between 16 and"),
        ({"strength": -0.1}, UsageError, "strength"),
        ({"flow_weight": "shares"}, UnknownName, "Did you mean 'share'"),
        ({"start_seconds": 99.0}, UsageError, "no frame in the part"),
        ({"codec": "h265x"}, UnknownName, "codec"),
        ({"promt": "x"}, UnknownName, "Did you mean 'prompt'"),
        ({"device": "cuda"}, FlowguideError, "no CUDA device"),
        ({"device": "toaster"}, UsageError, "auto, cpu, cuda"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    clip: Path, tmp_path: Path, options: dict, changes: dict, error: type[Exception], says: str
) -> None:
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    (tmp_path / "notes.txt").write_text("this is not a video")
    (tmp_path / "empty.mp4").touch()
    arguments = {**options, **changes}
    source = tmp_path / arguments.pop("source") if "source" in changes else clip
    output = tmp_path / arguments.pop("output", "out.mp4")
    with pytest.raises(error, match=says) as caught:
        flowguide.render(source, output, **arguments)
    assert "\n" not in str(caught.value)
    assert leaves_nothing(tmp_path, "notes.txt", "empty.mp4")


def test_output_over_input_is_refused(clip: Path, tmp_path: Path, options: dict) -> None:
    source = Path(shutil.copy(clip, tmp_path / "in.mp4"))
    os.link(source, tmp_path / "same.mp4")
    before = source.read_bytes()
    for output in (source, tmp_path / "same.mp4"):
        with pytest.raises(UsageError, match="is the input itself"):
            flowguide.render(source, output, **options)
    assert source.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(clip: Path, tmp_path: Path, options: dict) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(VideoError, match="cannot be written"):
        flowguide.render(clip, tmp_path / "out.mp4", **options)


def test_a_users_schedule_that_raises_names_its_line(clip: Path, tmp_path: Path, options: dict) -> None:
    schedule = tmp_path / "mine.py"
    schedule.write_text("def weight(progress, aux):\n    return aux['missing']\n")
    with pytest.raises(ScheduleError, match=r"KeyError.*mine\.py:2"):
        flowguide.render(clip, tmp_path / "out.mp4", **options, flow_weight=f"{schedule}:weight")
    assert leaves_nothing(tmp_path, "mine.py")


def test_a_truncated_clip_renders_what_decodes_and_says_what_is_lost(tmp_path: Path, options: dict) -> None:
    whole, part = tmp_path / "whole.mkv", tmp_path / "part.mkv"
    generator = np.random.default_rng(0)
    with ClipWriter(whole, size=(64, 64), time_base=Fraction(1, 25), frame_rate=Fraction(25)) as writer:
        for index in range(40):
            rgb = torch.from_numpy(generator.integers(0, 255, (3, 64, 64), dtype=np.uint8))
            writer.write(Frame(rgb, index, index, Fraction(1, 25)))
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    report = flowguide.render(part, tmp_path / "out.mp4", **options, guidance=False, steps=1)
    assert 0 < report.frames < 40
    assert len(report.losses) == 1
    assert str(report.frames) in report.losses[0] or "before its stated end" in report.losses[0]


def test_running_out_of_memory_is_a_sentence(
    clip: Path, tmp_path: Path, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*arguments: object, **keywords: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr("flowguide.diffusion.latents.Autoencoder.encode", exhausted)
    with pytest.raises(FlowguideError, match="Out of memory at 98x66"):
        flowguide.render(clip, tmp_path / "out.mp4", **options)
    assert leaves_nothing(tmp_path)


@pytest.mark.real
def test_sound_and_times_of_a_real_clip_survive(data: Path, tmp_path: Path, options: dict) -> None:
    import av

    source = data / "clips" / "flower.mp4"
    flowguide.render(source, tmp_path / "out.mp4", **options, size="96", max_frames=12, steps=1)
    before, after = frames_of(source)[:12], frames_of(tmp_path / "out.mp4")
    assert [f.pts * f.time_base for f in after] == [f.pts * f.time_base for f in before]
    with av.open(str(tmp_path / "out.mp4")) as result:
        assert result.streams.audio[0].codec_context.name == "aac"
        assert result.streams.video[0].average_rate == RATE
