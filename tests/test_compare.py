"""`flowguide compare`: what is shown, when, with which sound, and what is refused."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from coded_frames import make_clicking, reference_times
from test_video_sound import sound_packets

from flowguide.cli import main
from flowguide.errors import UnknownName, UsageError
from flowguide.runs.compare import GAIN, LINE_PX, compare, difference, drawable, short_names, wipe
from flowguide.types import Frame
from flowguide.video import ClipReader, ClipWriter, probe

SIZE = (48, 80)
BANNER_PX = 28
GREYS = {"a": 40, "b": 120, "c": 200}


def grey_clip(
    path: Path,
    level: int,
    *,
    frames: int = 5,
    size: tuple[int, int] = SIZE,
    rate: Fraction = Fraction(25),
    pts: list[int] | None = None,
) -> Path:
    times = list(range(frames)) if pts is None else pts
    with ClipWriter(path, size=size, time_base=1 / rate, frame_rate=rate) as writer:
        for index, at in enumerate(times):
            writer.write(Frame(torch.full((3, *size), level, dtype=torch.uint8), index, at, 1 / rate))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {name: grey_clip(folder / f"{name}.mkv", level) for name, level in GREYS.items()}


def shown(path: Path) -> list[torch.Tensor]:
    with ClipReader(path) as reader:
        return [frame.rgb for frame in reader]


def test_side_by_side_shows_each_clip_under_its_label(clips: dict[str, Path], tmp_path: Path) -> None:
    done = compare(clips, tmp_path / "out.mkv")
    assert (done.frames, done.labels, done.notes) == (5, ["a", "b", "c"], [])
    pictures = shown(done.output)
    assert len(pictures) == 5
    assert pictures[0].shape == (3, SIZE[0] + BANNER_PX, 3 * SIZE[1])
    for column, level in enumerate(GREYS.values()):
        part = pictures[2][:, BANNER_PX + 4 :, column * 80 + 8 : column * 80 + 72].float()
        assert part.mean().item() == pytest.approx(level, abs=3)
        label = pictures[2][:, :BANNER_PX, column * 80 : column * 80 + 80]
        assert label.max() > 180, "bright letters"
        assert label.float().median() < 50, "on a dark strip"


def test_a_wipe_shows_each_clip_everywhere_in_time() -> None:
    pictures = [torch.full((3, 4, 60), level, dtype=torch.uint8) for level in GREYS.values()]
    still = wipe(pictures, 0.0)
    assert still[0, 0, 5] == 40
    assert still[0, 0, 30] == 120
    assert still[0, 0, 55] == 200
    assert (still[0, 0] == 255).sum() == 2 * LINE_PX
    for several, levels in ((pictures[:2], {40, 120}), (pictures, {40, 120, 200})):
        for x in (1, 30, 58):
            assert {int(wipe(several, t / 10)[0, 0, x]) for t in range(40)} >= levels
    assert torch.equal(wipe([pictures[0]] * 2, 1.0)[:, :, :-LINE_PX], pictures[0][:, :, :-LINE_PX])


def test_the_difference_is_from_the_first_and_enlarged() -> None:
    first, second = torch.full((3, 2, 2), 100, dtype=torch.uint8), torch.full((3, 2, 2), 93, dtype=torch.uint8)
    assert difference([first, second], 0).unique().tolist() == [7 * GAIN]
    assert difference([first, first], 0).unique().tolist() == [0]
    assert difference([torch.zeros_like(first), first + 100, second], 0).unique().tolist() == [255]
    assert difference([first, second, first], 0).shape == (3, 2, 4)


@pytest.mark.parametrize("mode", ["wipe", "difference"])
def test_the_other_modes_are_written_too(clips: dict[str, Path], tmp_path: Path, mode: str) -> None:
    done = compare(clips, tmp_path / "out.mkv", mode=mode)
    columns = {"wipe": 1, "difference": 2}[mode]
    assert probe(done.output).size == (SIZE[0] + BANNER_PX, columns * SIZE[1])


def test_times_are_those_of_the_first_even_where_they_are_uneven(tmp_path: Path) -> None:
    rate = Fraction(30000, 1001)
    first = grey_clip(tmp_path / "a.mp4", 40, rate=rate, pts=[0, 1, 3, 4, 8])
    other = grey_clip(tmp_path / "b.mp4", 90, rate=rate, pts=[0, 1, 3, 4, 8])
    compare({"a": first, "b": other}, tmp_path / "out.mp4")
    assert reference_times(tmp_path / "out.mp4") == reference_times(first)


def test_the_sound_of_the_first_is_kept_and_ends_with_the_pictures(tmp_path: Path) -> None:
    first = make_clicking(tmp_path / "a.mp4", 3.2, [0.5, 1.5, 2.5])
    compare({"a": first, "b": first}, tmp_path / "same.mp4")
    assert sound_packets(tmp_path / "same.mp4") == sound_packets(first)
    info = probe(first)
    assert info.frame_rate is not None
    short = grey_clip(tmp_path / "b.mp4", 90, frames=10, size=info.size, rate=info.frame_rate)
    done = compare({"a": first, "b": short}, tmp_path / "out.mp4")
    assert done.frames == 10
    assert done.notes == ["b ended before the others; 10 frames are shown."]
    last, _ = sound_packets(done.output)[-1]
    assert last < 10 / info.frame_rate + Fraction(1, 10)


def test_another_size_and_another_rate_are_fitted_and_told(tmp_path: Path) -> None:
    first = grey_clip(tmp_path / "a.mp4", 40, frames=10)
    other = grey_clip(tmp_path / "b.mp4", 120, frames=20, size=(96, 160), rate=Fraction(50))
    done = compare({"a": first, "b": other}, tmp_path / "out.mkv")
    assert done.frames == 10
    assert done.notes == [
        "b is 160x96 and a 80x48: it is scaled.",
        "b has 50 and a 25 frames per second: its frames are shown at the times of a.",
    ]
    longer = grey_clip(tmp_path / "c.mp4", 120, frames=30, rate=Fraction(50))
    assert "a ended before the others; 10" in compare({"a": first, "c": longer}, tmp_path / "o.mkv").notes[-1]
    assert shown(done.output)[9][:, BANNER_PX + 4 :, 88:152].float().mean().item() == pytest.approx(120, abs=3)


def test_a_single_frame_is_compared(tmp_path: Path) -> None:
    clips = {name: grey_clip(tmp_path / f"{name}.mkv", 90, frames=1) for name in "ab"}
    assert compare(clips, tmp_path / "out.mkv").frames == 1


def test_what_cannot_be_compared_is_refused(clips: dict[str, Path], tmp_path: Path) -> None:
    square = grey_clip(tmp_path / "square.mkv", 90, frames=2, size=(64, 64))
    with pytest.raises(UsageError, match="square is 64x64 and a 80x48: clips of different shape"):
        compare({"a": clips["a"], "square": square}, tmp_path / "out.mkv")
    with pytest.raises(UsageError, match="at least two"):
        compare({"a": clips["a"]}, tmp_path / "out.mkv")
    with pytest.raises(UnknownName, match="Did you mean 'difference'"):
        compare(clips, tmp_path / "out.mkv", mode="diference")
    with pytest.raises(UsageError, match="is the input itself"):
        compare(clips, clips["b"], overwrite=True)
    assert not (tmp_path / "out.mkv").exists()


def test_names_and_labels() -> None:
    assert short_names([Path("x/a.mp4"), Path("y/a.mp4"), Path("y/b.mp4")]) == ["x/a.mp4", "y/a.mp4", "b.mp4"]
    assert drawable("Café ½") == "Cafe 1?2"
    assert drawable("plain_1.mp4") == "plain_1.mp4"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["a.mkv", "--out", "o.mkv"], 2, "at least two clips"),
        (["a.mkv", "absent.mkv", "--out", "o.mkv"], 1, "absent.mkv does not exist"),
        (["a.mkv", "b.mkv"], 2, "--out"),
        (["a.mkv", "b.mkv", "--out", "o.mkv", "--mode", "wype"], 2, "Did you mean 'wipe'"),
        (["a.mkv", "b.mkv", "--out", "o.mkv", "--labels", "one"], 2, "a name for each of 2 clips, got 1"),
        (["a.mkv", "b.mkv", "--out", "o.mkv", "--labels", "one,one"], 2, "words that differ"),
        (["a.mkv", "b.mkv", "--out", "c.mkv"], 2, "is there already"),
        (["a.mkv", "b.mkv", "--out", "absent/o.mkv"], 1, "the folder absent does not exist"),
        (["a.mkv", "b.mkv", "--out", "/proc/o.mkv"], 1, "cannot be written"),
        (["a.mkv", "b.mkv", "--out", "o.doc"], 2, ".doc"),
    ],
)
def test_wrong_use_is_one_sentence(
    clips: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(clips["a"].parent)
    with pytest.raises(SystemExit) as ended:
        main(["compare", *arguments])
    errors = capsys.readouterr().err
    assert ended.value.code == code
    assert says in errors
    assert errors.count("\n") == 1
    assert not Path("o.mkv").exists()


def test_the_command_says_what_it_wrote(
    clips: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["compare", str(clips["a"]), str(clips["b"]), "--out", str(tmp_path / "o.mkv"), "--labels", "one, two"]
    with pytest.raises(SystemExit):
        main([*ask, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told == {"output": str(tmp_path / "o.mkv"), "frames": 5, "labels": ["one", "two"], "notes": []}
    with pytest.raises(SystemExit):
        main([*ask, "--overwrite", "--max-frames", "2"])
    assert "o.mkv: 2 frames, side-by-side of one, two" in capsys.readouterr().out
