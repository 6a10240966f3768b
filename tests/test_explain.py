"""`flowguide render --explain`: the strips show what guided, and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from flowguide.cli import main
from flowguide.renderer import Renderer
from flowguide.runs.compare import LEAST_LABEL_PX
from flowguide.runs.explain import HOLE_RGB, NAME, NOTHING
from flowguide.synthetic import crossing
from flowguide.types import Frame
from flowguide.video import ClipReader, ClipWriter

SIZE, FRAMES = (60, 90), 4
RENDER = ("--steps", 2, "--strength", 0.5)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "in.mkv"
    scene = crossing(SIZE, near=(4, 1), far=(-1, 0), frames=FRAMES)
    with ClipWriter(path, size=SIZE, time_base=Fraction(1, 25), frame_rate=Fraction(25), codec="ffv1") as writer:
        for frame in scene.frames():
            writer.write(Frame(frame.rgb, frame.index, frame.index, Fraction(1, 25)))
    return path


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(
    clip: Path,
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Command:
    """Renders the clip: exit code, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["render", str(clip), *map(str, arguments), "--model", str(tiny_checkpoint), *map(str, RENDER)])
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


def shown(path: Path) -> list[torch.Tensor]:
    with ClipReader(path) as reader:
        return [frame.rgb for frame in reader]


def columns(path: Path) -> dict[str, np.ndarray]:
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert picture.shape == (SIZE[0] + LEAST_LABEL_PX, 5 * SIZE[1], 3)
    parts = np.split(picture[LEAST_LABEL_PX:], 5, axis=1)
    return dict(zip(("source", "reference", "warped", "confidence", "result"), parts, strict=True))


def test_the_painted_frames_are_the_same_bit_for_bit(command: Command, clip: Path, tmp_path: Path) -> None:
    assert command("plain.mkv", "--codec", "ffv1")[0] == 0
    assert command("explained.mkv", "--codec", "ffv1", "--explain", "strips")[0] == 0
    plain, explained = shown(tmp_path / "plain.mkv"), shown(tmp_path / "explained.mkv")
    assert len(plain) == FRAMES
    assert all(torch.equal(a, b) for a, b in zip(plain, explained, strict=True))
    strips = sorted((tmp_path / "strips").iterdir())
    assert [path.name for path in strips] == [NAME.format(index) for index in range(FRAMES)]
    first, second, third = (columns(path) for path in strips[:3])
    assert (first["reference"] == NOTHING).all()
    assert (first["confidence"] == HOLE_RGB).all(), "the first frame is all hole"
    source = shown(clip)
    assert np.array_equal(third["source"], source[2].permute(1, 2, 0).numpy())
    assert np.array_equal(third["reference"], second["result"]), "the reference is the finished frame before"
    holes = (third["confidence"] == HOLE_RGB).all(2)
    assert 0 < holes.mean() < 0.5, "some holes, where the near thing left"
    difference = np.abs(third["warped"].astype(int) - third["result"]).mean(2)
    assert difference[~holes].mean() < 0.5 * difference[holes].mean(), "what is known was pasted"


def test_nothing_is_kept_for_it_where_it_is_off(clip: Path, tiny_checkpoint: Path) -> None:
    from flowguide.config import RenderConfig

    settings = RenderConfig(model=str(tiny_checkpoint), steps=1)
    with ClipReader(clip, max_frames=2) as reader:
        assert [styled.carried for styled in Renderer(settings)(reader)] == [None, None]


def test_the_first_systems_strategy_is_explained_too(command: Command, tmp_path: Path) -> None:
    code, _ = command("out.mkv", "--strategy", "seed-v1", "--explain", "strips", "--max-frames", 2)
    assert code == 0
    first, second = (columns(tmp_path / "strips" / NAME.format(index)) for index in (0, 1))
    assert (second["confidence"] == 255).all(), "it has no confidence"
    assert np.abs(second["reference"].astype(int) - first["result"]).max() <= 1, "in 8 bit, cut off and not rounded"


@pytest.mark.parametrize("strategy", ["anchors", "references", "joint", "source"])
def test_every_strategy_is_explained(command: Command, tmp_path: Path, strategy: str) -> None:
    code, errors = command("out.mkv", "--strategy", strategy, "--explain", "strips")
    assert code == 0, errors
    strips = [columns(path) for path in sorted((tmp_path / "strips").iterdir())]
    assert len(strips) == FRAMES
    assert (strips[0]["confidence"] == HOLE_RGB).all(), "the first frame is all hole"
    for strip in strips[1:]:
        holes = (strip["confidence"] == HOLE_RGB).all(2)
        assert holes.mean() < 0.5
        apart = np.abs(strip["warped"].astype(int) - strip["result"]).mean(2)
        assert apart[~holes].mean() < 8, "what is known was pasted"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["o.mkv", "--explain", "strips", "--no-guidance"], 2, "under --no-guidance nothing does"),
        (["o.mkv", "--explain", "strips", "--dry-run"], 2, "leave --dry-run, --out-dir and - out"),
        (["-", "--explain", "strips"], 2, "leave --dry-run, --out-dir and - out"),
        (["o.mkv", "--explain", "/proc/strips"], 1, "/proc/strips cannot be made"),
        (["o.mkv", "--explain", "file/strips"], 1, "file/strips cannot be made"),
    ],
)
def test_what_cannot_be_explained_is_refused_before_painting(
    command: Command, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    (tmp_path / "file").write_text("")
    ended, errors = command(*arguments)
    assert ended == code
    assert says in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "o.mkv").exists()


def test_strips_that_are_there_are_not_replaced_unasked(command: Command, tmp_path: Path) -> None:
    (tmp_path / "strips").mkdir()
    old = tmp_path / "strips" / NAME.format(0)
    old.write_text("old")
    code, errors = command("o.mkv", "--explain", "strips", "--max-frames", 1)
    assert code == 2
    assert "strips holds explained frames already" in errors
    assert old.read_text() == "old"
    assert command("o.mkv", "--explain", "strips", "--max-frames", 1, "--overwrite")[0] == 0
    assert "result" in columns(old)
