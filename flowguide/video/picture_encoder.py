"""Numbered pictures as an output: PNG in 8 or 16 bits, OpenEXR."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.codec import CodecContext
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc
from torch import Tensor

from .colour import FromRgb
from .encoders import explained, replace_durably, unfinished_name
from .formats import Codec
from .light import srgb_light
from .source import log

_PLANES = (1, 2, 0, 3)
"""The channel of RGB, then opacity, that each plane of FFmpeg's gbrapf32le holds."""


class PictureEncoder:
    """One file for each picture, numbered from 0 on; they appear together when all are written.

    EXR files hold light, in half floats: linear RGB of BT.709's primaries, by the curve of sRGB.
    """

    def __init__(self, path: Path, codec: Codec, size: tuple[int, int]) -> None:
        self._path, self._codec, self._size = path, codec, size
        self._from_rgb = FromRgb(size, codec.pixel_format)
        self._count = 0
        self._unfinished = unfinished_name(path)
        self.abandon()
        with explained(path):
            self._unfinished.mkdir()

    def add_sound(self, path: str, start: Fraction, *, ends_with_pictures: bool, only: int | None = None) -> None:
        log.warning("%s: numbered pictures have no sound; it is left out.", self._path)

    def write(self, rgb: Tensor, pts: int, alpha: Tensor | None = None) -> None:
        """Encode uint8 or uint16 [3, H, W], with opacity [H, W] or without."""
        with explained(self._path):
            (self._unfinished / (self._path.name % self._count)).write_bytes(self._encoded(rgb, alpha))
        self._count += 1

    def _encoded(self, rgb: Tensor, alpha: Tensor | None) -> bytes:
        if self._codec.encoder == "exr":
            picture = light_of(rgb, alpha, self._codec.pixel_format)
        else:
            picture = self._from_rgb(rgb, alpha)
        # Untagged, as pictures are: with a tag, viewers that manage colours would show another tone curve.
        picture.color_trc, picture.color_primaries = ColorTrc.UNSPECIFIED, ColorPrimaries.UNSPECIFIED
        context = CodecContext.create(self._codec.encoder, "w")
        assert isinstance(context, VideoCodecContext)
        context.height, context.width = self._size
        context.pix_fmt, context.thread_count = self._codec.pixel_format, 1
        context.framerate = Fraction(1)
        context.options = dict(self._codec.options)
        return b"".join(bytes(packet) for packet in [*context.encode(picture), *context.encode(None)])

    def finish(self) -> None:
        """All is written already."""

    def publish(self) -> None:
        """Give the pictures their final names."""
        with explained(self._path):
            for number in range(self._count):
                name = self._path.name % number
                replace_durably(self._unfinished / name, self._path.with_name(name))
            self._unfinished.rmdir()

    def abandon(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self._unfinished, ignore_errors=True)


def light_of(rgb: Tensor, alpha: Tensor | None, pixel_format: str) -> VideoFrame:
    """uint8 or uint16 codes [3, H, W] as light in a picture of floats, `gbrpf32le` or `gbrapf32le`; alpha stays."""
    codes = rgb.cpu().numpy()
    most = np.iinfo(codes.dtype).max
    channels = [*srgb_light()[codes.astype(np.uint16) * (65535 // most)]]
    if pixel_format == "gbrapf32le":
        opaque = np.full(codes.shape[1:], most, codes.dtype)
        channels.append((opaque if alpha is None else alpha.cpu().numpy()).astype(np.float32) / np.float32(most))
    height, width = codes.shape[1:]
    picture = VideoFrame(width, height, pixel_format)
    for plane, channel in zip(picture.planes, _PLANES, strict=False):
        lines = np.frombuffer(memoryview(plane), np.float32).reshape(-1, plane.line_size // 4)
        lines[:height, :width] = channels[channel]
    return picture
