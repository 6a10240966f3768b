"""Flow that was found once is not searched again: a folder of compact files, keyed by what they were found from.

The key is made of the estimator, its settings and version, and the pixels of both frames; so renaming, trimming or
re-encoding a clip without loss keeps it, and any change of what matters misses it. Vectors are kept to 1/32 px and
confidence to 1/255, and what is given back is the same whether it was in the cache or not.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..types import Flow, Frame
from .protocol import PairEstimator

MAGIC = b"FLOWGD01"
HEADER = struct.Struct("<8sII?")
"""Magic with the version of the format, height, width, whether confidence follows."""
STEPS_PER_PX = 32
UNKNOWN = -(2**15)
"""Stored for vectors that are not finite, or longer than 1023 px."""
ENDING = ".flowcache"


class CachedFlow:
    """`estimator` with its flows kept in `folder`, at most `limit_bytes` of them; the longest unused go first.

    Serves wherever the estimator does. Raises UsageError for an estimator whose results cannot be told by its name,
    such as a user's function. Damaged files count as absent; several processes may share a folder.
    """

    def __init__(self, estimator: PairEstimator, folder: Path, limit_bytes: int = 2 * 1024**3):
        if estimator.key is None:
            raise UsageError(f"Flow by {estimator.name} cannot be cached: nothing says when its results change.")
        self.estimator = estimator
        self.folder = folder
        self.limit_bytes = limit_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._held_bytes = sum(size for _, size, _ in self._files())

    @property
    def name(self) -> str:
        return self.estimator.name

    def __call__(self, at: Frame, to: Frame) -> Flow:
        path = self._path(at, to)
        return self._stored(path, at, to) or self._store(path, self.estimator(at, to), at)

    def both(self, at: Frame, to: Frame) -> tuple[Flow, Flow]:
        there, back = self._path(at, to), self._path(to, at)
        forward, backward = self._stored(there, at, to), self._stored(back, to, at)
        if forward is None or backward is None:
            forward, backward = self.estimator.both(at, to)
            forward, backward = self._store(there, forward, at), self._store(back, backward, to)
        return forward, backward

    def __repr__(self) -> str:
        return f"<{self.name}, cached>"

    def _path(self, at: Frame, to: Frame) -> Path:
        key = hashlib.blake2b(f"{MAGIC!r} {self.estimator.key} {at.size} {to.size}".encode(), digest_size=20)
        for frame in (at, to):
            key.update(frame.rgb.contiguous().cpu().numpy().tobytes())
        digest = key.hexdigest()
        return self.folder / digest[:2] / f"{digest[2:]}{ENDING}"

    def _stored(self, path: Path, at: Frame, to: Frame) -> Flow | None:
        try:
            found = _decoded(path.read_bytes(), at.size)
            os.utime(path)
        except (OSError, ValueError, struct.error, zlib.error):
            return None
        return self._flow(found, at, to.index)

    def _store(self, path: Path, flow: Flow, at: Frame) -> Flow:
        content = _encoded(flow)
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        unfinished.write_bytes(content)
        unfinished.replace(path)
        self._held_bytes += len(content)
        if self._held_bytes > self.limit_bytes:
            self._make_room()
        return self._flow(_decoded(content, at.size), at, flow.to)

    def _flow(self, found: tuple[Tensor, Tensor | None], at: Frame, to: int) -> Flow:
        uv, confidence = (None if part is None else part.to(at.rgb.device) for part in found)
        assert uv is not None
        return Flow(uv, at.index, to, confidence)

    def _files(self) -> list[tuple[float, int, Path]]:
        """(time of last use, bytes, path) of every file."""
        found = []
        for path in self.folder.glob(f"*/*{ENDING}"):
            try:
                status = path.stat()
            except OSError:  # another process made room
                continue
            found.append((status.st_mtime, status.st_size, path))
        return found

    def _make_room(self) -> None:
        """Down to nine tenths of the limit, so that it is not done for every file."""
        files = sorted(self._files())
        self._held_bytes = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._held_bytes <= 0.9 * self.limit_bytes:
                break
            path.unlink(missing_ok=True)
            self._held_bytes -= size


def _encoded(flow: Flow) -> bytes:
    steps = (flow.uv.float().cpu() * STEPS_PER_PX).round()
    known = steps.isfinite() & (steps.abs() < 2**15)
    levels = torch.where(known, steps, torch.full_like(steps, UNKNOWN)).numpy().astype(np.int16)
    # Neighbours differ little: differences along the rows, low and high bytes apart, leave little to store.
    along = np.diff(levels, axis=2, prepend=np.int16(0)).astype("<i2")
    payload = along.view(np.uint8).reshape(*along.shape, 2).transpose(3, 0, 1, 2).tobytes()
    if flow.confidence is not None:
        payload += (flow.confidence.float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy().tobytes()
    return HEADER.pack(MAGIC, *flow.size, flow.confidence is not None) + zlib.compress(payload, 1)


def _decoded(content: bytes, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """Raises ValueError, struct.error or zlib.error for what is no whole file of this size."""
    magic, height, width, has_confidence = HEADER.unpack_from(content)
    payload = zlib.decompress(content[HEADER.size :])
    pixels = height * width
    if magic != MAGIC or (height, width) != size or len(payload) != pixels * (5 if has_confidence else 4):
        raise ValueError("another format, or another size")
    halves = np.frombuffer(payload, np.uint8, 4 * pixels).reshape(2, 2, height, width).transpose(1, 2, 3, 0)
    along = np.ascontiguousarray(halves).view("<i2")[..., 0]
    levels = np.cumsum(along, axis=2, dtype=np.int16)
    uv = np.where(levels == UNKNOWN, np.float32(np.nan), levels.astype(np.float32) / STEPS_PER_PX)
    confidence = None
    if has_confidence:
        stored = np.frombuffer(payload, np.uint8, pixels, 4 * pixels).reshape(height, width)
        confidence = torch.from_numpy(stored.astype(np.float32) / 255)
    return torch.from_numpy(uv), confidence
