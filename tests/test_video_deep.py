"""Outputs that keep more than 8 bits or opacity, and presets."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from flowguide.errors import UsageError
from flowguide.types import Frame
from flowguide.video import CODECS, CONTAINERS, ClipReader, ClipWriter, codec_for
from flowguide.video.formats import suffix_for
from flowguide.video.light import srgb_codes, srgb_light
from flowguide.video.presets import preset_codec, preset_names
from flowguide.video.segments import Segment, SegmentWriter, join

RATE = Fraction(25)
SIZE = (64, 96)
DEEP = [("out.mkv", "ffv1-16", 0), ("out_%03d.png", "png16", 0), ("out_%03d.exr", "exr", 40),
        ("out.mov", "prores", 700), ("out.mov", "prores4444", 400)]  # fmt: skip
CLEAR = [("out.mkv", "ffv1", 0), ("out.mkv", "ffv1-16", 1), ("out_%03d.png", "png", 0), ("out_%03d.png", "png16", 0),
         ("out_%03d.exr", "exr", 1), ("out.mov", "prores4444", 2), ("out.mkv", "prores4444", 2),
         ("out.webp", "webp", 0)]  # fmt: skip


def ramp(shift: int = 0) -> torch.Tensor:
    """A smooth picture whose 16-bit codes do not fit into 8 bits."""
    x = np.linspace(0, 65535, SIZE[1])[None].repeat(SIZE[0], 0)
    y = np.linspace(0, 65535, SIZE[0])[:, None].repeat(SIZE[1], 1)
    planes = np.stack([x, y, (x + y) / 2 * 0.9 + shift])
    return torch.from_numpy(planes.astype(np.uint16))


def opacity() -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE[0]), torch.linspace(-1, 1, SIZE[1]), indexing="ij")
    return ((1.2 - x.hypot(y)).clamp(0, 1) * 255).to(torch.uint8)


def written(path: Path, name: str, frames: list[Frame], *, alpha: bool = False) -> Path:
    codec = codec_for(path, name)
    codec = codec.with_alpha() if alpha else codec
    with ClipWriter(path, size=SIZE, time_base=1 / RATE, frame_rate=RATE, codec=codec) as writer:
        for frame in frames:
            writer.write(frame)
    return path


@pytest.mark.parametrize(("name", "codec", "most"), DEEP)
def test_more_than_eight_bits_come_back(tmp_path: Path, name: str, codec: str, most: int) -> None:
    assert CODECS[codec].deep
    pictures = [ramp(), ramp(500)]
    path = written(tmp_path / name, codec, [Frame(p, i, i, 1 / RATE) for i, p in enumerate(pictures)])
    for index, picture in enumerate(pictures):
        found = read_16(path, index)
        error = np.abs(found.astype(int) - picture.numpy().astype(int))
        assert error.mean() <= most
        if name.endswith(("mkv", "png", "exr")):
            assert len(np.unique(found)) > 256


def read_16(path: Path, index: int) -> np.ndarray:
    """A picture as 16-bit RGB by the plain decoder where it is PNG, else by the reader."""
    if path.suffix == ".png":
        with av.open(str(path.with_name(path.name % index))) as container:
            picture = next(container.decode(video=0))
            assert picture.format.name == "rgb48be"
            return picture.to_ndarray(format="rgb48le").transpose(2, 0, 1)
    with ClipReader(path, deep=True, pictures_per_second=RATE) as reader:
        return list(reader)[index].rgb.numpy()


def test_exr_holds_light() -> None:
    assert srgb_light()[0] == 0
    assert srgb_light()[65535] == 1
    assert srgb_light()[round(0.5 * 65535)] == pytest.approx(0.21404, abs=1e-4)
    assert np.array_equal(srgb_codes(srgb_light()), np.arange(65536))


@pytest.mark.parametrize(("name", "codec", "most"), CLEAR)
def test_opacity_comes_back(tmp_path: Path, name: str, codec: str, most: int) -> None:
    eight = torch.from_numpy((ramp().numpy() >> 8).astype(np.uint8))
    alpha = opacity()
    if CODECS[codec].deep:
        wide = torch.from_numpy(alpha.numpy().astype(np.uint16) * 257)
        frames = [Frame(ramp(shift), i, i, 1 / RATE, wide) for i, shift in enumerate((0, 500))]
    else:
        frames = [Frame(eight, 0, 0, 1 / RATE, alpha), Frame(eight // 2, 1, 1, 1 / RATE, alpha)]
    path = written(tmp_path / name, codec, frames, alpha=True)
    with ClipReader(path, alpha=True, pictures_per_second=RATE) as reader:
        assert reader.info.alpha
        found = list(reader)
    assert len(found) == 2
    for frame in found:
        assert frame.alpha is not None
        assert int((frame.alpha.int() - alpha.int()).abs().max()) <= most
    seen = alpha > 200
    assert float((found[0].rgb.float() - eight.float())[:, seen].abs().mean()) < 6
    with ClipReader(path, pictures_per_second=RATE) as reader:
        assert all(frame.alpha is None for frame in reader)


def test_opacity_survives_joining(tmp_path: Path) -> None:
    output, codec = tmp_path / "out.mov", CODECS["prores4444"].with_alpha()
    segments: list[Segment] = []
    for number in range(2):
        path = tmp_path / f"{number}.mov"
        with SegmentWriter(path, output, codec, size=SIZE, time_base=1 / RATE, rate=RATE) as writer:
            wide = torch.from_numpy(opacity().numpy().astype(np.uint16) * 257)
            writer.write(Frame(ramp(), number, number, 1 / RATE, wide))
            segments.append(writer.finish())
    join(segments, output, codec, size=SIZE, time_base=1 / RATE, rate=RATE)
    with ClipReader(output, alpha=True) as reader:
        found = list(reader)
    assert len(found) == 2
    assert all(int((frame.alpha.int() - opacity().int()).abs().max()) <= 2 for frame in found)


def test_opacity_of_webm_survives_joining(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is told by a tag, and read here by libvpx: FFmpeg's own decoder, which the reader takes, leaves it out."""
    output, codec, base = tmp_path / "out.webm", CODECS["vp9"].with_alpha(), Fraction(1, 1000)
    segments: list[Segment] = []
    for number in range(2):
        path = tmp_path / f"{number}.webm"
        with SegmentWriter(path, output, codec, size=SIZE, time_base=base, rate=RATE) as writer:
            writer.write(Frame(torch.zeros(3, *SIZE, dtype=torch.uint8), number, 40 * number, base, opacity()))
            segments.append(writer.finish())
    join(segments, output, codec, size=SIZE, time_base=base, rate=RATE)
    with av.open(str(output)) as container:
        stream = container.streams.video[0]
        assert b"\x53\xc0\x81\x01" in output.read_bytes(), "Matroska's element AlphaMode"
        decoder = av.CodecContext.create("libvpx-vp9", "r")
        found = [frame for packet in container.demux(stream) for frame in decoder.decode(packet)]
    assert len(found) == 2
    for frame in found:
        assert frame.format.name == "yuva420p"
        plane = np.frombuffer(frame.planes[3], np.uint8).reshape(-1, frame.planes[3].line_size)[: SIZE[0], : SIZE[1]]
        assert np.abs(plane.astype(int) - opacity().numpy()).mean() < 3
    with ClipReader(output) as reader:
        assert len(list(reader)) == 2
    assert "its opacity is not read" in caplog.text


def test_transparent_pictures_are_black_only_where_opacity_is_not_asked_for(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[..., 0], pixels[:16, :, 3] = 200, 128
    Image.fromarray(pixels).save(tmp_path / "a_0.png")
    with ClipReader(tmp_path / "a_%d.png", alpha=True) as reader:
        frame = next(reader)
    assert frame.rgb[0].unique().tolist() == [200]
    assert frame.alpha is not None
    assert frame.alpha.unique().tolist() == [0, 128]
    with ClipReader(tmp_path / "a_%d.png") as reader:
        assert next(reader).rgb[0].unique().tolist() == [0, 100]


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_names_a_codec_that_opens(tmp_path: Path, name: str) -> None:
    from flowguide.video.presets import read_preset

    suffix = suffix_for(read_preset(name)[0])
    numbered = CONTAINERS[suffix].format == "pictures"
    path = tmp_path / (f"out_%03d{suffix}" if numbered else f"out{suffix}")
    codec = preset_codec(path, name)
    picture = ramp() if codec.deep else torch.zeros(3, *SIZE, dtype=torch.uint8)
    with ClipWriter(path, size=SIZE, time_base=1 / RATE, frame_rate=RATE, codec=codec) as writer:
        writer.write(Frame(picture, 0, 0, 1 / RATE))
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "says"),
    [("codec = 3", "should say codec"), ("codec = 'h264'\nsuffix = 'x'", "should say codec"), ("codec =", "be read"),
     ("codec = 'nosuch'", "Unknown video codec"), ("codec = 'prores'", "do not take")],
)  # fmt: skip
def test_a_preset_that_is_none_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        preset_codec(tmp_path / "out.mp4", str(path))


def test_a_users_preset_goes_over_the_codec(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('codec = "h264"\n[options]\ncrf = 30\n')
    codec = preset_codec(tmp_path / "out.mp4", str(path))
    assert codec.options["crf"] == "30"
    assert codec.options["preset"] == CODECS["h264"].options["preset"]
    with pytest.raises(UsageError, match="Did you mean 'web'"):
        preset_codec(tmp_path / "out.mp4", "wbe")


def test_the_page_of_outputs_has_every_codec_and_preset() -> None:
    page = (Path(__file__).parents[1] / "docs" / "outputs.md").read_text(encoding="utf-8")
    for name in (*CODECS, *preset_names(), *CONTAINERS):
        assert f"`{name}`" in page or (name.startswith(".") and name in page), name
