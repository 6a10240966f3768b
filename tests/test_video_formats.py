"""Every line of the table of output formats writes what can be read back, the same each time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from coded_frames import SIZE, coded, make_clicking, number_in, write
from PIL import Image

from flowguide.errors import UsageError
from flowguide.types import Frame
from flowguide.video import CODECS, CONTAINERS, ClipReader, ClipWriter, probe
from flowguide.video.formats import PICTURES

RATE = Fraction(25)
PAIRS = [(suffix, codec) for suffix, kind in CONTAINERS.items() for codec in kind.codecs]
SMOOTH = (64, 96)
"""A size that all encoders take."""


def named(folder: Path, suffix: str, stem: str = "clip") -> Path:
    return folder / (f"{stem}_%03d{suffix}" if CONTAINERS[suffix].format == PICTURES else f"{stem}{suffix}")


def read(path: Path) -> list[Frame]:
    with ClipReader(path, pictures_per_second=RATE if "%" in path.name else None) as reader:
        return list(reader)


def test_every_codec_is_of_some_container() -> None:
    assert {codec for kind in CONTAINERS.values() for codec in kind.codecs} == set(CODECS)


@pytest.mark.parametrize(("suffix", "codec"), PAIRS)
def test_number_order_time_and_colour_come_back(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write(named(tmp_path, suffix), range(8), 1 / RATE, SMOOTH, rate=RATE, codec=codec)
    found = read(path)
    assert [number_in(frame.rgb) for frame in found] == list(range(8))
    assert [frame.pts * frame.time_base for frame in found] == [n / RATE for n in range(8)]
    errors = [(frame.rgb.float() - coded(n, SMOOTH).float()).abs().mean() for n, frame in enumerate(found)]
    assert max(errors) < 4


@pytest.mark.parametrize(("suffix", "codec"), PAIRS)
def test_the_same_frames_decode_the_same(tmp_path: Path, suffix: str, codec: str) -> None:
    first, second = (
        read(write(named(tmp_path, suffix, stem), range(8), 1 / RATE, SMOOTH, codec=codec)) for stem in ("a", "b")
    )
    assert all(torch.equal(one.rgb, other.rgb) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "hevc"), (".mov", "hevc")])
def test_hevc_is_named_as_players_want(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write(named(tmp_path, suffix), range(3), 1 / RATE, SMOOTH, codec=codec)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "ffv1"), (".png", "png")])
def test_lossless_is_lossless(tmp_path: Path, suffix: str, codec: str) -> None:
    picture = torch.randint(0, 256, (3, 33, 47), dtype=torch.uint8)
    path = named(tmp_path, suffix)
    with ClipWriter(path, size=(33, 47), time_base=1 / RATE, frame_rate=RATE, codec=codec) as writer:
        writer.write(Frame(picture, 0, 0, 1 / RATE))
    assert torch.equal(read(path)[0].rgb, picture)


def test_metadata_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with ClipWriter(
        path, size=SIZE, time_base=1 / RATE, frame_rate=RATE, metadata={"comment": "prompt: öl", "title": "a clip"}
    ) as writer:
        writer.write(Frame(coded(0), 0, 0, 1 / RATE))
    with av.open(str(path)) as container:
        assert container.metadata["comment"] == "prompt: öl"
        assert container.metadata["title"] == "a clip"


def test_numbered_pictures_appear_together(tmp_path: Path) -> None:
    path = tmp_path / "shot_%04d.png"
    with ClipWriter(path, size=SIZE, time_base=1 / RATE, frame_rate=RATE) as writer:
        for index in range(3):
            writer.write(Frame(coded(index), index, index, 1 / RATE))
        assert list(tmp_path.glob("shot*")) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"shot_000{n}.png" for n in range(3)]


def test_numbered_pictures_of_a_failed_run_are_removed(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path / "shot_%04d.png", size=SIZE, time_base=1 / RATE, frame_rate=RATE)
    writer.write(Frame(coded(0), 0, 0, 1 / RATE))
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_one_picture_is_not_a_clip(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"number them, such as clip_%06d\.png"):
        ClipWriter(tmp_path / "clip.png", size=SIZE, time_base=1 / RATE, frame_rate=RATE)


def test_numbered_pictures_are_not_written_over_themselves(tmp_path: Path) -> None:
    path = write(tmp_path / "shot_%03d.png", range(3), 1 / RATE)
    with ClipReader(path, pictures_per_second=RATE) as reader, pytest.raises(UsageError, match="input itself"):
        ClipWriter(path, size=SIZE, time_base=1 / RATE, frame_rate=RATE, audio_from=reader)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".exr"])
def test_files_without_sound_say_so(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    clip = make_clicking(tmp_path / "clicks.mp4", 0.4, [0.1])
    assert len(read(write(named(tmp_path, suffix), range(3), 1 / RATE, audio_from=clip))) == 3
    assert "left out" in caplog.text


def shaded(shift: int) -> torch.Tensor:
    """A smooth many-coloured picture in whose middle a small square moves; the rest stands still."""
    y, x = torch.meshgrid(torch.linspace(0, 255, 64), torch.linspace(0, 255, 96), indexing="ij")
    picture = torch.stack([x, y, (x + y) / 2]).to(torch.uint8)
    picture[:, 28:36, 30 + shift : 38 + shift] = torch.tensor([250, 20, 240], dtype=torch.uint8)[:, None, None]
    return picture


def flicker(pictures: list[torch.Tensor]) -> float:
    """Mean change from frame to frame in the part that stands still."""
    still = torch.stack([picture[:, :24].float() for picture in pictures])
    return float((still[1:] - still[:-1]).abs().mean())


def test_one_palette_flickers_less_than_one_for_each_frame(tmp_path: Path) -> None:
    path = tmp_path / "one.gif"
    pictures = [shaded(4 * n) for n in range(6)]
    with ClipWriter(path, size=(64, 96), time_base=1 / RATE, frame_rate=RATE) as writer:
        for index, picture in enumerate(pictures):
            writer.write(Frame(picture, index, index, 1 / RATE))
    found = [frame.rgb for frame in read(path)]
    stills = [Image.fromarray(p.permute(1, 2, 0).contiguous().numpy()).quantize(256) for p in pictures]
    each = [torch.from_numpy(np.array(still.convert("RGB"))).permute(2, 0, 1) for still in stills]
    assert flicker(found) == 0
    assert flicker(each) > 0.1
    assert torch.stack([(a.float() - b.float()).abs().mean() for a, b in zip(found, pictures, strict=True)]).max() < 12


def test_a_gif_has_one_palette(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.gif", range(5), 1 / RATE)
    assert _local_palettes(path.read_bytes()) == 0


def _local_palettes(data: bytes) -> int:
    """Number of images in a GIF that bring a colour table of their own."""
    position = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    found = 0
    while data[position] != 0x3B:
        if data[position] == 0x21:
            position += 2
        else:
            flags = data[position + 9]
            found += flags >> 7
            position += 11 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
        while data[position]:
            position += data[position] + 1
        position += 1
    return found


def test_gif_times_do_not_drift(tmp_path: Path) -> None:
    """At 30 fps no delay is whole in hundredths of a second, yet second 2 is at second 2."""
    path = write(tmp_path / "clip.gif", range(61), Fraction(1, 30))
    found = read(path)
    assert len(found) == 61
    assert all(abs(frame.seconds - frame.index / 30) < 0.0051 for frame in found)
    assert [number_in(frame.rgb) for frame in found] == list(range(61))


def test_a_gif_of_more_pictures_than_it_can_time(tmp_path: Path) -> None:
    found = read(write(tmp_path / "clip.gif", range(48), Fraction(1, 240)))
    assert 10 <= len(found) <= 11
    assert all(abs(frame.seconds - number_in(frame.rgb) / 240) < 0.0051 for frame in found)
    numbers = [number_in(frame.rgb) for frame in found]
    assert numbers == sorted(set(numbers))


def test_a_gif_that_fails_leaves_nothing(tmp_path: Path) -> None:
    writer = ClipWriter(tmp_path / "clip.gif", size=SIZE, time_base=1 / RATE, frame_rate=RATE)
    writer.write(Frame(coded(0), 0, 0, 1 / RATE))
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_only_the_output_is_left(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.gif", range(3), 1 / RATE)
    assert list(tmp_path.iterdir()) == [path]
    assert probe(path).frames == 3
