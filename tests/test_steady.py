"""`steady` from file to file, and how two clips are brought together."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from flowguide.alignment import Alignment, align, pairs
from flowguide.cli import main
from flowguide.config import SteadyConfig
from flowguide.errors import UsageError
from flowguide.metrics import measure
from flowguide.runs.steady import steady_clip
from flowguide.types import Flow, Frame
from flowguide.video import ClipReader, ClipWriter, probe

HEIGHT, WIDTH, COUNT = 64, 96, 24


def wandering(count: int = COUNT) -> list[Frame]:
    """A camera that wanders over a texture of blobs."""
    generator = torch.Generator().manual_seed(4)
    coarse = torch.rand(1, 3, 40, 60, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, (160, 240), mode="bicubic")[0].clamp(0, 1)
    wide = (wide * 255).to(torch.uint8)
    frames = []
    for index in range(count):
        left, top = 60 + round(30 * np.sin(0.13 * index)), 40 + round(20 * np.cos(0.11 * index))
        frames.append(Frame(wide[:, top : top + HEIGHT, left : left + WIDTH].contiguous(), index, index))
    return frames


def painted_from(source: list[Frame]) -> list[Frame]:
    """Inverted, with strokes of noise that differ from frame to frame: colours and detail tell nothing."""
    frames = []
    for frame in source:
        generator = torch.Generator().manual_seed(frame.index)
        strokes = torch.nn.functional.interpolate(
            torch.randn(1, 3, HEIGHT // 2, WIDTH // 2, generator=generator), (HEIGHT, WIDTH), mode="bicubic"
        )[0]
        picture = (255 - frame.rgb.float() * 0.7 + 25 * strokes).clamp(0, 255).to(torch.uint8)
        frames.append(replace(frame, rgb=picture))
    return frames


@pytest.fixture(scope="module")
def source() -> list[Frame]:
    return wandering()


@pytest.fixture(scope="module")
def painted(source: list[Frame]) -> list[Frame]:
    return painted_from(source)


def write(path: Path, frames: list[Frame], rate: int = 25, codec: str = "ffv1") -> Path:
    with ClipWriter(
        path, size=frames[0].size, time_base=Fraction(1, rate), frame_rate=Fraction(rate), codec=codec
    ) as writer:
        for index, frame in enumerate(frames):
            writer.write(Frame(frame.rgb, index, index, Fraction(1, rate)))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, source: list[Frame], painted: list[Frame]) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("steady")
    return write(folder / "source.mkv", source), write(folder / "painted.mkv", painted)


@pytest.mark.parametrize(("source_skips", "painted_skips"), [(0, 0), (0, 3), (4, 0)])
def test_the_offset_is_found(source: list[Frame], painted: list[Frame], source_skips: int, painted_skips: int) -> None:
    found = align(source[source_skips:], painted[painted_skips:], same_rate=True)
    assert found.offset == painted_skips - source_skips
    assert found.by == "number"


def test_times_are_believed_where_the_rates_differ(source: list[Frame], painted: list[Frame]) -> None:
    thinned = [replace(frame, pts=40 * frame.index) for frame in painted[::2]]
    timed = [replace(frame, pts=40 * frame.index) for frame in source]
    assert align(timed, thinned, same_rate=False) == Alignment(0, "time", pytest.approx(0.6, abs=0.4))


def test_counting_is_believed_where_it_fits_better(source: list[Frame], painted: list[Frame]) -> None:
    """Numbered pictures have no times; a reader makes up a rate for them."""
    timed = [replace(frame, pts=33 * frame.index) for frame in source]
    slow = [replace(frame, pts=80 * frame.index) for frame in painted]
    found = align(timed, slow, same_rate=False)
    assert (found.offset, found.by) == (0, "number")


def test_a_still_clip_has_no_offset() -> None:
    still = [Frame(wandering(1)[0].rgb, index, index) for index in range(12)]
    assert align(still, painted_from(still), same_rate=True).offset == 0


def shown(source: list[Frame], painted: list[Frame], alignment: Alignment) -> list[tuple[int, int]]:
    """(painted, source) numbers that `pairs` puts together, told by their first pixel."""
    ours = [replace(frame, rgb=torch.full((3, 2, 2), n, dtype=torch.uint8)) for n, frame in enumerate(source)]
    theirs = [replace(frame, rgb=torch.full((3, 2, 2), n, dtype=torch.uint8)) for n, frame in enumerate(painted)]
    found = list(pairs(ours, theirs, alignment))
    assert [given.index for _, given in found] == list(range(len(found)))
    assert all(frame.pts == given.pts for frame, given in found)
    return [(int(given.rgb[0, 0, 0]), int(frame.rgb[0, 0, 0])) for frame, given in found]


def timed(count: int, milliseconds: int) -> list[Frame]:
    return [Frame(torch.zeros(3, 2, 2, dtype=torch.uint8), index, index * milliseconds) for index in range(count)]


def test_pairs_by_number() -> None:
    assert shown(timed(5, 40), timed(5, 40), Alignment()) == [(n, n) for n in range(5)]
    assert shown(timed(5, 40), timed(9, 40), Alignment(2)) == [(0, 2), (1, 3), (2, 4)]
    assert shown(timed(5, 40), timed(5, 40), Alignment(-2)) == [(2, 0), (3, 1), (4, 2)]
    assert shown(timed(2, 40), timed(5, 40), Alignment(7)) == []


def test_pairs_by_time() -> None:
    assert shown(timed(9, 40), timed(3, 120), Alignment(0, "time")) == [(0, 0), (1, 3), (2, 6)]
    assert shown(timed(9, 40), timed(9, 120), Alignment(0, "time")) == [(0, 0), (1, 3), (2, 6)]
    assert shown(timed(3, 80), timed(6, 40), Alignment(0, "time")) == [(0, 0), (2, 1), (4, 2)]
    assert shown(timed(9, 40), timed(3, 80), Alignment(3, "time")) == [(0, 3), (1, 5), (2, 7)]


def test_a_painted_clip_becomes_steadier_and_stays_sharp(files: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "steady.mkv"
    report = steady_clip(*files, output, config=SteadyConfig(codec="ffv1"))
    assert report.frames == COUNT
    assert report.notes == []
    with ClipReader(files[0]) as original, ClipReader(files[1]) as before, ClipReader(output) as after:
        clips = {"painted": before, "steady": after}
        measured = measure(original, clips, estimator="farneback", unguided="painted")
    errors = {clip.name: clip.warp_error[1].l1 or 0.0 for clip in measured.clips}
    assert errors["steady"] < 0.4 * errors["painted"]
    assert 0.85 < (measured["steady"].sharpness or 0.0) < 1.1


def test_differences_are_told(files: tuple[Path, Path], tmp_path: Path, painted: list[Frame]) -> None:
    later = write(tmp_path / "later.mkv", painted[5:])
    report = steady_clip(files[0], later, tmp_path / "a.mkv")
    assert report.alignment.offset == 5
    assert report.frames == COUNT - 5
    assert "begins 5 frames after" in report.notes[0]
    longer = steady_clip(later, files[1], tmp_path / "b.mkv")
    assert "begins 5 frames before" in longer.notes[0]
    thinned = write(tmp_path / "thinned.mkv", painted[::2], rate=12)
    slow = steady_clip(files[0], thinned, tmp_path / "c.mkv")
    assert "12 frames per second" in slow.notes[0]
    assert slow.frames == COUNT // 2
    half = [replace(frame, rgb=frame.rgb[:, ::2, ::2].contiguous()) for frame in painted]
    smaller = steady_clip(files[0], write(tmp_path / "half.mkv", half), tmp_path / "d.mkv")
    assert "scaled to the painted 48x32" in smaller.notes[0]
    assert probe(tmp_path / "d.mkv").size == (32, 48)


def test_the_shorter_clip_ends_it(files: tuple[Path, Path], tmp_path: Path, source: list[Frame]) -> None:
    short = write(tmp_path / "short.mkv", source[:10])
    report = steady_clip(short, files[1], tmp_path / "a.mkv")
    assert report.frames == 10
    assert f"its last {COUNT - 10} frames are left out" in report.notes[-1]
    other = steady_clip(files[0], write(tmp_path / "few.mkv", painted_from(source)[:10]), tmp_path / "b.mkv")
    assert "is longer than" in other.notes[-1]


def test_refusals_are_sentences(files: tuple[Path, Path], tmp_path: Path, painted: list[Frame]) -> None:
    wide = [replace(frame, rgb=frame.rgb[:, :32].contiguous()) for frame in painted]
    with pytest.raises(UsageError, match="another aspect"):
        steady_clip(files[0], write(tmp_path / "wide.mkv", wide), tmp_path / "o.mkv")
    with pytest.raises(UsageError, match="is the input itself"):
        steady_clip(*files, files[1])
    told = [write(tmp_path / f"{index}.mp4", frames, codec="h264") for index, frames in enumerate((painted, painted))]
    with pytest.raises(UsageError, match=f"frame 99, but the clip has frames 0 to {COUNT - 1}"):
        steady_clip(*told, tmp_path / "o.mkv", config=SteadyConfig(anchors="frames:0,99"))
    with pytest.raises(UsageError, match="no frame in common at an offset of 400"):
        steady_clip(*files, tmp_path / "o.mkv", config=SteadyConfig(offset=400))
    assert not (tmp_path / "o.mkv").exists()
    (tmp_path / "there.mkv").touch()
    with pytest.raises(UsageError, match="there already"):
        steady_clip(*files, tmp_path / "there.mkv")


def test_anchors_of_a_clip_that_is_shorter_than_it_was_known_are_told(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Matroska does not say how many frames there are."""
    report = steady_clip(*files, tmp_path / "o.mkv", anchors="frames:0,99", max_frames=4)
    assert report.notes == ["The anchors name frame 99, but the clip has frames 0 to 3. Those were left out."]
    assert report.anchors == [0, 3]


def test_what_could_not_be_steadied_is_told(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No confident pixel anywhere, and a cut at every frame: the frames as given, and a sentence."""

    def nowhere(self: object, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        nothing = torch.full((2, *at.size), torch.nan)
        return Flow(nothing, at.index, to.index), Flow(nothing, to.index, at.index)

    monkeypatch.setattr("flowguide.flow.FilledDIS.both", nowhere)
    report = steady_clip(*files, tmp_path / "a.mkv", config=SteadyConfig(max_frames=5))
    assert report.confident_share == 0.0
    assert "comes out as it went in" in report.notes[-1]
    monkeypatch.setattr("flowguide.steady.CutDetector.is_cut", lambda self, frame: True)
    report = steady_clip(*files, tmp_path / "b.mkv", config=SteadyConfig(max_frames=5))
    assert (report.frames, report.shots) == (5, 5)
    assert "a shot of its own" in report.notes[-1]


def test_the_command(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "steady.mp4"
    with pytest.raises(SystemExit) as left:
        main(["steady", *map(str, files), str(output), "--anchors", "8", "--max-frames", "9"])
    assert left.value.code == 0
    assert "9 frames, 1 shot, " in capsys.readouterr().err
    assert probe(output).frames == 9
    with pytest.raises(SystemExit) as refused:
        main(["steady", *map(str, files), str(output), "--anchors", "coverige", "--overwrite"])
    assert refused.value.code == 2
    assert "Did you mean 'coverage'" in capsys.readouterr().err
