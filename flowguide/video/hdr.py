"""High dynamic range to BT.709: light by the transfer function, the narrower colours, and a curve for highlights.

Follows ITU-R BT.2100 (PQ and HLG), BT.2408 (diffuse white at 203 cd/m²), BT.2087 (BT.2020 to BT.709 primaries),
BT.2390 annex 5 (the curve) and BT.1886 (display gamma 2.4). The curve acts on the largest of the three channels, so
hues stay; highlights up to 1000 cd/m², what such clips are commonly graded for, keep their detail.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Light = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint16]

WHITE, PEAK = 203.0, 1000.0
"""cd/m² of diffuse white, which becomes nearly BT.709 white, and of the brightest highlight kept apart."""
_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073
_HLG_GAMMA = 1.2
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)
"""Linear RGB of BT.2020 to linear RGB of BT.709."""
_GAMMA = 2.4
_STEPS = 4096
"""Entries of the table from light to 8-bit codes; more than twice what the steepest part needs."""


def to_bt709(codes: Codes, transfer: str) -> npt.NDArray[np.uint8]:
    """Full-range BT.2020 R'G'B' in 16 bits [3, H, W], of transfer 'pq' or 'hlg', to BT.709 R'G'B' in 8 bits."""
    light = pq_light()[codes] if transfer == "pq" else hlg_light(codes)
    shape = light.shape
    narrow = np.maximum(TO_BT709 @ light.reshape(3, -1), 0)
    brightest = np.maximum(narrow.max(0), 1e-6)
    grid, mapped = _curve_table()
    scale = np.interp(brightest, grid, mapped).astype(np.float32) / brightest
    level = np.sqrt(np.clip(narrow * scale, 0, 1)) * (_STEPS - 1) + 0.5
    eight_bits: npt.NDArray[np.uint8] = _codes()[level.astype(np.uint16)]
    return eight_bits.reshape(shape)


@cache
def pq_light() -> Light:
    """cd/m² over WHITE for every 16-bit PQ code: the EOTF of SMPTE ST 2084."""
    return np.asarray(_pq_to_light(np.arange(65536) / 65535) / WHITE, np.float32)


def hlg_light(codes: Codes) -> Light:
    """cd/m² over WHITE of HLG codes [3, …] on a display of PEAK: inverse OETF, then the OOTF with gamma 1.2."""
    scene = _hlg_scene()[codes]
    luminance = np.tensordot(_LUMA_2020, scene, 1)
    return np.asarray(scene * (PEAK / WHITE) * np.maximum(luminance, 1e-6) ** np.float32(_HLG_GAMMA - 1), np.float32)


def highlight_curve(light: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """BT.2390's curve: light over WHITE, up to PEAK, to light of BT.709, 1 at most; dark and middle tones unchanged."""
    peak = _light_to_pq(np.array(PEAK))
    target = _light_to_pq(np.array(WHITE)) / peak
    knee = 1.5 * target - 0.5
    level = np.minimum(_light_to_pq(light * WHITE) / peak, 1)
    t = np.clip((level - knee) / (1 - knee), 0, 1)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * target
    return np.asarray(_pq_to_light(np.where(level < knee, level, bent) * peak) / WHITE)


def _pq_to_light(code: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    power = np.asarray(code) ** (1 / _M2)
    return np.asarray(10000 * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1))


def _light_to_pq(light: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    power = (np.maximum(light, 0) / 10000) ** _M1
    return np.asarray(((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2)


@cache
def _hlg_scene() -> Light:
    code = np.arange(65536) / 65535
    return np.asarray(np.where(code <= 0.5, code**2 / 3, (np.exp((code - _HLG_C) / _HLG_A) + _HLG_B) / 12), np.float32)


@cache
def _curve_table() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    grid = np.concatenate([[0.0], np.geomspace(1e-4, PEAK / WHITE, 2048)])
    return grid, np.minimum(highlight_curve(grid), 1)


@cache
def _codes() -> npt.NDArray[np.uint8]:
    """8-bit code by the square root of light, 0…1 in _STEPS steps."""
    return np.asarray((np.linspace(0, 1, _STEPS) ** (2 / _GAMMA)) * 255 + 0.5, np.uint8)
