"""Pictures as clips: folders, globs, numbered names, animations; and out again."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from coded_frames import SIZE, coded, number_in, write
from PIL import Image

from flowguide.errors import VideoError
from flowguide.video import ClipReader, probe
from flowguide.video.images import natural

RATE = Fraction(30000, 1001)


def picture(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray(coded(number, size).permute(1, 2, 0).numpy())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven pictures named without leading zeros, and a file that is none."""
    where = tmp_path / "some shots"
    where.mkdir()
    for number in range(11):
        picture(number).save(where / f"shot {number}.{'PNG' if number % 2 else 'png'}")
    (where / "notes.txt").write_text("not a picture")
    return where


def numbers(path: Path | str, **options: object) -> list[int]:
    with ClipReader(path, **options) as reader:  # type: ignore[arg-type]
        return [number_in(frame.rgb) for frame in reader]


def test_a_folder_is_read_in_natural_order(folder: Path) -> None:
    assert numbers(folder) == list(range(11))


def test_a_glob_and_a_numbered_name(folder: Path) -> None:
    assert numbers(folder / "shot ?.png") == [0, 2, 4, 6, 8]
    assert numbers(str(folder / "shot %d.png")) == [0, 2, 4, 6, 8, 10]


def test_pictures_get_exact_times(folder: Path) -> None:
    with ClipReader(folder, pictures_per_second=RATE, start_seconds=0.1, max_frames=3) as reader:
        found = list(reader)
        assert reader.info.frame_rate == RATE
        assert reader.info.frames == 11
    assert [number_in(frame.rgb) for frame in found] == [3, 4, 5]
    assert [frame.pts * frame.time_base for frame in found] == [n / RATE for n in range(3)]


def test_the_assumed_rate_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert probe(folder).frame_rate == 24
    assert "24 frames per second" in caplog.text


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (31, 45, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with ClipReader(tmp_path, pictures_per_second=Fraction(1)) as reader:
        assert torch.equal(next(reader).rgb, torch.from_numpy(pixels).permute(2, 0, 1))


def test_transparent_parts_are_black_and_photographs_upright(tmp_path: Path) -> None:
    clear = np.zeros((32, 48, 4), np.uint8)
    clear[..., :3] = 200
    clear[:16, :, 3] = 255
    Image.fromarray(clear).save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(clear[..., :3]).save(tmp_path / "b.jpg", exif=exif)
    with ClipReader(tmp_path / "*.png", pictures_per_second=Fraction(1)) as reader:
        rgb = next(reader).rgb
    assert (rgb[:, 8].unique().tolist(), rgb[:, 24].unique().tolist()) == ([200], [0])
    assert probe(tmp_path / "*.jpg", pictures_per_second=Fraction(1)).size == (48, 32)


def test_a_damaged_picture_is_left_out_and_said(folder: Path) -> None:
    (folder / "shot 4.png").write_bytes(b"nonsense")
    whole = (folder / "shot 6.png").read_bytes()
    (folder / "shot 6.png").write_bytes(whole[: len(whole) // 2])
    with ClipReader(folder, pictures_per_second=RATE) as reader:
        found = list(reader)
        losses = reader.losses
    assert [number_in(frame.rgb) for frame in found] == [0, 1, 2, 3, 5, 7, 8, 9, 10]
    assert [frame.pts for frame in found] == [0, 1, 2, 3, 5, 7, 8, 9, 10]
    assert len(losses) == 2
    assert "shot 4.png could not be read" in losses[0]


def test_pictures_of_other_sizes_are_resized(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    picture(3, (96, 160)).save(folder / "shot 3.PNG")
    assert numbers(folder) == list(range(11))
    assert "size changes to 160x96" in caplog.text


def test_an_empty_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"holds no picture \(\.bmp"):
        probe(tmp_path)
    with pytest.raises(VideoError, match="holds no picture"):
        probe(tmp_path / "*.png")


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_keep_their_delays(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"moving{suffix}"
    delays = [40, 120, 200, 50]
    first, *others = [picture(n) for n in range(4)]
    first.save(path, save_all=True, append_images=others, duration=delays, loop=0, lossless=True)
    with ClipReader(path) as reader:
        found = list(reader)
    assert [number_in(frame.rgb) for frame in found] == list(range(4))
    assert [frame.seconds for frame in found] == [0, 0.04, 0.16, 0.36]


def test_a_damaged_animation_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"GIF89a nothing")
    with pytest.raises(VideoError, match=r"a\.gif"):
        probe(tmp_path / "a.gif")


def test_pictures_become_a_video(folder: Path, tmp_path: Path) -> None:
    with ClipReader(folder, pictures_per_second=RATE) as reader:
        path = write(tmp_path / "out.mp4", [f.pts for f in reader], reader.info.time_base, audio_from=reader)
    assert numbers(path) == list(range(11))


def test_natural_order() -> None:
    names = ["b2", "a10", "a9", "A1", "a01b", "a1"]
    assert sorted(names, key=natural) == ["A1", "a1", "a01b", "a9", "a10", "b2"]
