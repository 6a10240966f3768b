"""Colours: what was tagged is what is read, what is written is tagged as it is; pictures stand upright."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from coded_frames import make_raw
from torch import Tensor

from flowguide.types import Frame
from flowguide.video import ClipReader, ClipWriter, probe
from flowguide.video.orientation import Orientation

LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593), "smpte240m": (0.212, 0.087)}
TAGS = {"bt709": 1, "bt601": 6, "bt2020": 9, "smpte240m": 7}
BARS = torch.tensor(
    [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255),
     (128, 128, 128), (200, 100, 50), (16, 16, 16), (235, 235, 235), (60, 180, 90), (90, 60, 180), (250, 220, 190),
     (10, 40, 20)], dtype=torch.uint8
)  # fmt: skip
SIDE = 16


def colour_bars(height: int = 32) -> Tensor:
    """uint8 [3, height, 256], 16 flat colours side by side."""
    return BARS.T.repeat_interleave(SIDE, 1)[:, None].expand(3, height, SIDE * len(BARS)).contiguous()


def to_yuv(rgb: Tensor, matrix: str, full: bool, bits: int = 8) -> np.ndarray:
    """The textbook conversion (BT.601/709/2020), [3, H, W] in the integers of `bits`."""
    kr, kb = LUMA[matrix]
    red, green, blue = rgb.double() / 255
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = [(blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))]
    unit = 2 ** (bits - 8)
    if full:
        values = [luma * (256 * unit - 1), *(c * (256 * unit - 1) + 128 * unit for c in chroma)]
    else:
        values = [(16 + 219 * luma) * unit, *((128 + 224 * c) * unit for c in chroma)]
    limit = 256 * unit - 1
    dtype = np.uint8 if bits == 8 else np.uint16
    return torch.stack(values).round().clamp(0, limit).numpy().astype(dtype)


def colours_of(rgb: Tensor) -> Tensor:
    """The flat colour in the middle of each bar, int [16, 3]."""
    height, width = rgb.shape[1:]
    columns = (torch.arange(len(BARS)) * 2 + 1) * width // (2 * len(BARS))
    return rgb[:, height // 2, columns].T.int()


def first_frame(path: Path, **selection: object) -> Tensor:
    with ClipReader(path, **selection) as reader:  # type: ignore[arg-type]
        return next(reader).rgb


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", TAGS)
def test_tagged_colours_are_read_right(tmp_path: Path, matrix: str, full: bool, bits: int) -> None:
    planes = to_yuv(colour_bars(), matrix, full, bits)
    pixel_format = "yuv444p" if bits == 8 else "yuv444p10le"
    path = make_raw(tmp_path / "bars.mkv", planes, pixel_format, tags=(TAGS[matrix], 2 if full else 1))
    info = probe(path)
    assert (info.matrix, info.full_range, info.bits) == (matrix, full, bits)
    assert (colours_of(first_frame(path)) - BARS).abs().max() <= 2


@pytest.mark.parametrize("chroma", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
def test_subsampled_colours_are_read_right(tmp_path: Path, matrix: str, chroma: str) -> None:
    y, u, v = to_yuv(colour_bars(), matrix, False, 10 if "10" in chroma else 8)
    path = make_raw(tmp_path / "bars.mkv", [y, u[::2, ::2], v[::2, ::2]], chroma, tags=(TAGS[matrix], 1))
    assert (colours_of(first_frame(path)) - BARS).abs().max() <= 3


@pytest.mark.parametrize(("height", "matrix"), [(480, "bt601"), (718, "bt601"), (720, "bt709")])
def test_untagged_colours_go_by_height(tmp_path: Path, height: int, matrix: str) -> None:
    path = make_raw(tmp_path / "bars.mkv", to_yuv(colour_bars(height), matrix, False), "yuv444p")
    info = probe(path)
    assert (info.matrix, info.full_range) == (matrix, False)
    assert (colours_of(first_frame(path)) - BARS).abs().max() <= 2


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_written_colours_are_tagged_and_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bars{suffix}"
    bars = colour_bars(64)
    with ClipWriter(path, size=(64, 256), time_base=Fraction(1, 25), frame_rate=None) as writer:
        for index in range(3):
            writer.write(Frame(bars, index, index, Fraction(1, 25)))
    assert (colours_of(first_frame(path)) - BARS).abs().max() <= 4
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0))
        assert (picture.colorspace, picture.color_range) == (1, 1)
        assert (picture.color_primaries, picture.color_trc) == (1, 1)
        luma = torch.from_numpy(picture.to_ndarray()[32, torch.arange(16) * SIDE + 8].astype(np.int32))
    expected = torch.from_numpy(to_yuv(bars, "bt709", False)[0][32, 8::16].astype(np.int32))
    assert (luma - expected).abs().max() <= 2


def test_grey_ramps_do_not_drift(tmp_path: Path) -> None:
    """Reading and writing again and again keeps brightness: the mean moves by less than half a level."""
    ramp = torch.arange(256, dtype=torch.uint8).expand(3, 64, 256).contiguous()
    picture = ramp
    for turn in range(3):
        path = tmp_path / f"{turn}.mp4"
        with ClipWriter(path, size=(64, 256), time_base=Fraction(1, 25), frame_rate=None) as writer:
            writer.write(Frame(picture, 0, 0, Fraction(1, 25)))
        picture = first_frame(path)
    assert abs(picture.float().mean() - ramp.float().mean()) < 0.5


def test_an_unknown_matrix_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make_raw(tmp_path / "bars.mkv", to_yuv(colour_bars(), "bt601", False), "yuv444p", tags=(8, 1))
    assert probe(path).matrix == "bt601"
    assert "colour matrix 8 is not known" in caplog.text


QUARTERS = [
    (a, b, c, d)
    for a, b, c, d in itertools.product((-1, 0, 1), repeat=4)
    if abs(a * d - b * c) == 1 and (a == d == 0 or b == c == 0)
]


@pytest.mark.parametrize("turn", QUARTERS, ids=str)
def test_a_display_matrix_equals_its_upright_twin(tmp_path: Path, turn: tuple[int, int, int, int]) -> None:
    a, b, c, d = turn
    stored = torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8)
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    planes = to_yuv(stored, "bt709", False)
    turned = make_raw(tmp_path / "turned.mp4", planes, "yuv444p", codec="libx264", tags=(1, 1), matrix=matrix)
    plain = first_frame(make_raw(tmp_path / "plain.mp4", planes, "yuv444p", codec="libx264", tags=(1, 1)))
    found = first_frame(turned)
    height, width = (48, 32) if b else (32, 48)
    assert found.shape == (3, height, width)
    assert probe(turned).size == (height, width)
    for x, y in [(0, 0), (47, 0), (0, 31), (47, 31), (10, 20)]:
        shown_x = a * x + c * y + (width - 1 if min(a, c) < 0 else 0)
        shown_y = b * x + d * y + (height - 1 if min(b, d) < 0 else 0)
        assert torch.equal(found[:, shown_y, shown_x], plain[:, y, x])


@pytest.mark.parametrize(
    ("turn", "degrees", "mirrored"),
    [((1, 0, 0, 1), 0, False), ((0, 1, -1, 0), 90, False), ((-1, 0, 0, -1), 180, False), ((0, -1, 1, 0), 270, False),
     ((-1, 0, 0, 1), 0, True), ((0, -1, -1, 0), 90, True), ((1, 0, 0, -1), 180, True), ((0, 1, 1, 0), 270, True)],
)  # fmt: skip
def test_turns_are_named_clockwise_after_mirroring(
    turn: tuple[int, int, int, int], degrees: int, mirrored: bool
) -> None:
    a, b, c, d = turn
    orientation = Orientation(transpose=bool(b), flip_rows=min(b, d) < 0, flip_columns=min(a, c) < 0)
    assert (orientation.rotation_degrees, orientation.mirrored) == (degrees, mirrored)
    picture = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    twin = np.rot90(picture[:, :, ::-1] if mirrored else picture, -degrees // 90, axes=(1, 2))
    assert np.array_equal(orientation.apply(picture), twin)


def test_the_output_carries_no_rotation(tmp_path: Path) -> None:
    planes = to_yuv(colour_bars(), "bt709", False)
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    turned = make_raw(tmp_path / "turned.mp4", planes, "yuv444p", codec="libx264", tags=(1, 1), matrix=matrix)
    path = tmp_path / "upright.mp4"
    with ClipReader(turned) as reader:
        info = reader.info
        with ClipWriter(path, size=info.size, time_base=info.time_base, frame_rate=info.frame_rate) as writer:
            for frame in reader:
                writer.write(frame)
    assert (info.rotation_degrees, probe(path).rotation_degrees) == (90, 0)
    assert probe(path).size == (256, 32)


def test_a_slanted_display_matrix_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    planes = to_yuv(colour_bars(), "bt709", False)
    slanted = [60000, 20000, 0, -20000, 60000, 0, 0, 0, 1 << 30]
    path = make_raw(tmp_path / "slanted.mp4", planes, "yuv444p", codec="libx264", tags=(1, 1), matrix=slanted)
    assert probe(path).size == (32, 256)
    assert "no quarter turn" in caplog.text


def test_pixels_become_square(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    planes = to_yuv(colour_bars(), "bt709", False)
    path = make_raw(tmp_path / "wide.mp4", planes, "yuv444p", codec="libx264", tags=(1, 1), aspect=Fraction(4, 3))
    rgb = first_frame(path)
    assert rgb.shape == (3, 32, 342)
    assert (colours_of(rgb) - BARS).abs().max() <= 3
    assert "width resized from 256 to 342" in caplog.text


def test_high_dynamic_range_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "pq.mkv"
    make_raw(path, to_yuv(colour_bars(), "bt2020", False, 10), "yuv444p10le", tags=(9, 1), transfer=16)
    assert probe(path).transfer == "pq"
    assert "(PQ) is mapped to BT.709" in caplog.text


def test_shrinking_averages(tmp_path: Path) -> None:
    """A fine checkerboard becomes even grey when made four times smaller, no moiré."""
    board = (torch.arange(64)[:, None] + torch.arange(96)) % 2 * 255
    planes = to_yuv(board.to(torch.uint8).expand(3, 64, 96), "bt709", False)
    path = make_raw(tmp_path / "board.mkv", planes, "yuv444p", tags=(1, 1))
    rgb = first_frame(path, size=(16, 24)).float()
    assert (rgb - 127.5).abs().max() < 3
