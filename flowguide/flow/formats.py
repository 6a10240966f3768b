"""Flow in files: Middlebury .flo, KITTI .png, OpenEXR .exr and NumPy .npy. Where a flow is not known it is NaN."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import BackendMissing, UnknownName, UsageError

Field = NDArray[np.float32]

FLO_MAGIC = 202021.25
FLO_UNKNOWN = 1e9
"""Middlebury marks unknown flow by anything longer than this."""
KITTI_ZERO, KITTI_SCALE = 2**15, 64.0
EXR_CHANNELS = ("u", "v")
"""Of the .exr files that are written, and of those that are read where no others are named."""


def read_flow(path: Path, channels: tuple[str, str] | None = None) -> Tensor:
    """float32 [2, H, W] in pixels; NaN where unknown.

    channels: of an .exr file, those of u (right) and v (down), each after a minus where it points the other way.
    Raises UsageError for what is no such file.
    """
    if not path.is_file():
        raise UsageError(f"There is no flow file {path}.")
    if channels is not None:
        if path.suffix.lower() != ".exr":
            raise UsageError(f"Only .exr files have channels with names, and {path} is none.")
        return torch.from_numpy(_read_exr(path, channels)).contiguous()
    return torch.from_numpy(_format(path)[0](path)).contiguous()


def write_flow(path: Path, uv: Tensor) -> None:
    """Write float [2, H, W] in pixels in the format that the ending names. NaN becomes the format's 'unknown'."""
    _format(path)[1](path, np.ascontiguousarray(uv.detach().float().cpu().numpy()))


def _format(path: Path) -> tuple[Callable[[Path], Field], Callable[[Path, Field], None]]:
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise UnknownName("flow file ending", ending, FORMATS)
    return FORMATS[ending]


def _read_flo(path: Path) -> Field:
    content = path.read_bytes()
    if len(content) < 12:
        raise UsageError(f"{path} is no .flo file: it has {len(content)} bytes.")
    magic, width, height = struct.unpack("<fii", content[:12])
    if magic != FLO_MAGIC:
        swapped = struct.unpack(">f", content[:4])[0] == FLO_MAGIC
        reason = "it is big-endian, .flo is little-endian" if swapped else f"it begins with {magic:g}, not {FLO_MAGIC}"
        raise UsageError(f"{path} is no .flo file: {reason}.")
    expected = 12 + 8 * width * height
    if width < 1 or height < 1 or len(content) != expected:
        raise UsageError(f"{path} says {height}x{width} pixels, {expected} bytes, and has {len(content)} bytes.")
    uv = np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2).transpose(2, 0, 1).astype(np.float32)
    uv[:, (np.abs(uv) > FLO_UNKNOWN).any(0)] = np.nan
    return uv


def _write_flo(path: Path, uv: Field) -> None:
    known = np.where(np.isfinite(uv).all(0), uv, np.float32(1.7e9))
    header = struct.pack("<fii", FLO_MAGIC, uv.shape[2], uv.shape[1])
    path.write_bytes(header + known.transpose(1, 2, 0).astype("<f4").tobytes())


def _read_kitti(path: Path) -> Field:
    picture = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    if picture is None or picture.dtype != np.uint16:
        raise UsageError(f"{path} is no KITTI flow: a PNG of three 16-bit channels was expected.")
    valid, v, u = np.moveaxis(picture.astype(np.float32), 2, 0)
    uv = np.asarray((np.stack([u, v]) - KITTI_ZERO) / KITTI_SCALE, dtype=np.float32)
    uv[:, valid == 0] = np.nan
    return uv


def _write_kitti(path: Path, uv: Field) -> None:
    known = np.isfinite(uv).all(0)
    levels = np.clip(np.rint(np.nan_to_num(uv) * KITTI_SCALE + KITTI_ZERO), 0, 2**16 - 1)
    picture = np.stack([known.astype(np.float32), levels[1], levels[0]], 2).astype(np.uint16)
    if not cv2.imwrite(str(path), picture):
        raise UsageError(f"The flow {path} could not be written.")


def _read_npy(path: Path) -> Field:
    try:
        stored = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UsageError(f"{path} is no NumPy array: {error}") from error
    if stored.ndim == 3 and stored.shape[0] != 2 and stored.shape[2] == 2:
        stored = stored.transpose(2, 0, 1)
    if stored.ndim != 3 or stored.shape[0] != 2 or stored.dtype.kind not in "fiu":
        raise UsageError(f"{path} should hold numbers [2, H, W] or [H, W, 2], got {stored.dtype} {stored.shape}.")
    return np.ascontiguousarray(stored, dtype=np.float32)


def _write_npy(path: Path, uv: Field) -> None:
    np.save(path, uv)


def _openexr() -> Any:
    try:
        import OpenEXR
    except ImportError as error:
        raise BackendMissing("Flow in .exr files needs OpenEXR: pip install 'flowguide[exr]'.") from error
    return OpenEXR


def _read_exr(path: Path, channels: tuple[str, str] = EXR_CHANNELS) -> Field:
    try:
        with _openexr().File(str(path), separate_channels=True) as file:
            header = dict(file.header())  # emptied when the file is closed
            stored = {name: np.asarray(channel.pixels) for name, channel in file.channels().items()}
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise UsageError(f"{path} is no OpenEXR file that can be read: {error}") from error
    parts = []
    for channel in channels:
        name = channel.removeprefix("-")
        if name not in stored or stored[name].ndim != 2:
            raise UsageError(f"{path} has no channel {name!r}; it has {', '.join(sorted(stored))}.")
        parts.append(-stored[name] if channel.startswith("-") else stored[name])
    (left, top), (right, bottom) = header["displayWindow"]
    uv = np.full((2, bottom - top + 1, right - left + 1), np.nan, np.float32)
    (first_x, first_y), (last_x, last_y) = header["dataWindow"]
    x, y = max(left, first_x), max(top, first_y)
    end_x, end_y = min(right, last_x) + 1, min(bottom, last_y) + 1
    inside = np.stack(parts)[:, y - first_y : end_y - first_y, x - first_x : end_x - first_x]
    uv[:, y - top : end_y - top, x - left : end_x - left] = inside
    uv[:, (np.abs(uv) > FLO_UNKNOWN).any(0)] = np.nan
    return uv


def _write_exr(path: Path, uv: Field) -> None:
    library = _openexr()
    header = {"compression": library.ZIP_COMPRESSION, "type": library.scanlineimage}
    named = {name: np.ascontiguousarray(part) for name, part in zip(EXR_CHANNELS, uv, strict=True)}
    library.File(header, named).write(str(path))


FORMATS: dict[str, tuple[Callable[[Path], Field], Callable[[Path, Field], None]]] = {
    ".flo": (_read_flo, _write_flo),
    ".png": (_read_kitti, _write_kitti),
    ".npy": (_read_npy, _write_npy),
    ".exr": (_read_exr, _write_exr),
}
