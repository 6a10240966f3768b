"""High dynamic range to BT.709: known points of the standards, and properties that any such mapping has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from coded_frames import make_raw
from test_video_colour import to_yuv

from flowguide.video import ClipReader
from flowguide.video.hdr import PEAK, TO_BT709, WHITE, highlight_curve, hlg_light, pq_light, to_bt709

TRANSFERS = ["pq", "hlg"]


def pq_code(nits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """SMPTE ST 2084 as printed in the standard."""
    y = (np.asarray(nits, np.float64) / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def greys(count: int = 1024) -> npt.NDArray[np.uint16]:
    """All shades of grey from black to the largest code, [3, 1, count]."""
    ramp = np.linspace(0, 65535, count).round().astype(np.uint16)
    return np.broadcast_to(ramp, (3, 1, count)).copy()


@pytest.mark.parametrize("nits", [0.1, 1, 58.1, 100, 203, 1000, 4000, 10000])
def test_pq_is_the_standards(nits: float) -> None:
    code = int((pq_code(nits) * 65535).round())
    assert pq_light()[code] * WHITE == pytest.approx(nits, rel=2e-3)


def test_hlg_reference_white_is_203() -> None:
    """BT.2408: 75 % HLG shows as 203 cd/m² on a display of 1000, and full HLG as 1000."""
    codes = np.array([[0.75, 1.0, 0.0]] * 3) * 65535
    light = hlg_light(codes.round().astype(np.uint16))[0] * WHITE
    assert light == pytest.approx([203, PEAK, 0], rel=5e-3, abs=1e-3)


def test_white_stays_white_and_primaries_of_bt709_become_pure() -> None:
    assert TO_BT709.sum(1) == pytest.approx([1, 1, 1], abs=2e-5)
    red_709_in_2020 = np.array([0.627404, 0.069097, 0.016391])
    assert TO_BT709 @ red_709_in_2020 == pytest.approx([1, 0, 0], abs=1e-4)


def test_the_curve_keeps_dark_tones_and_ends_at_white() -> None:
    light = np.linspace(0, PEAK / WHITE, 5000)
    mapped = highlight_curve(light)
    assert mapped[light < 0.4] == pytest.approx(light[light < 0.4], rel=1e-6)
    assert mapped[-1] == pytest.approx(1, abs=1e-6)
    assert (np.diff(mapped) > 0).all()
    assert np.diff(mapped, 2).max() < 1e-6, "the slope never grows again"


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_grey_stays_grey_and_brighter_is_never_darker(transfer: str) -> None:
    mapped = to_bt709(greys(), transfer)[:, 0].astype(int)
    assert np.abs(mapped - mapped[:1]).max() <= 1
    assert (np.diff(mapped[0]) >= 0).all()
    assert mapped[0, 0] == 0
    assert mapped[0, -1] == 255


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_hues_of_highlights_do_not_turn(transfer: str) -> None:
    """The ratio of the channels' light is the same before and after the curve, where all three are in gamut."""
    codes = np.array([[0.72], [0.66], [0.62]]) * 65535
    source = codes.round().astype(np.uint16)[:, :, None]
    light = pq_light()[source] if transfer == "pq" else hlg_light(source)
    before = (TO_BT709 @ light.reshape(3, -1)).ravel()
    after = (to_bt709(source, transfer).ravel() / 255.0) ** 2.4
    assert after / after.max() == pytest.approx(before / before.max(), abs=0.02)


def test_a_pq_file_shows_the_light_it_holds(tmp_path: Path) -> None:
    """Colours of BT.709 below the curve's knee, stored as PQ of BT.2020, come back as BT.709 with gamma 2.4."""
    linear = torch.rand((3, 1, 12), dtype=torch.float64) * 0.4
    wide = np.linalg.inv(TO_BT709.astype(np.float64)) @ linear.reshape(3, -1).numpy()
    codes = pq_code(np.maximum(wide, 0) * WHITE)
    bars = torch.from_numpy(codes).reshape(3, 1, 12).repeat_interleave(8, 2).repeat_interleave(32, 1) * 255
    path = make_raw(tmp_path / "pq.mkv", to_yuv(bars, "bt2020", False, 10), "yuv444p10le", tags=(9, 1), transfer=16)
    with ClipReader(path) as reader:
        found = next(reader).rgb[:, 16, 4::8].float()
    expected = linear[:, 0] ** (1 / 2.4) * 255
    assert (found - expected).abs().max() < 6
    assert (found - expected).abs().mean() < 2
