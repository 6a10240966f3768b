"""From a decoded picture to RGB and back. YUV and its matrices exist in this file and nowhere else.

The conversion is swscale's with exact rounding and full chroma interpolation: flat colours come back within two
levels, which its faster default does not give (it darkens by one level on average).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from torch import Tensor

from .hdr import to_bt709
from .orientation import Orientation

Number = TypeVar("Number", np.uint8, np.uint16)
Planes: TypeAlias = np.ndarray[tuple[int, int, int], np.dtype[Number]]

_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_PLANES = (1, 2, 0, 3)
"""The channel of RGB, then opacity, that each plane of FFmpeg's gbrp and gbrap holds."""
_SWSCALE = {
    "bt601": Colorspace.ITU601,
    "bt709": Colorspace.ITU709,
    "bt2020": Colorspace.BT2020,
    "smpte240m": Colorspace.SMPTE240M,
    "fcc": Colorspace.FCC,
}
_TAGGED = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
_UNSPECIFIED = (0, 2, 3)
"""Matrix numbers that say nothing of a YUV picture: RGB, unspecified, reserved."""
_TAG_RGB, _TAG_BT709 = 0, 1
_HDR_TRANSFERS = {int(ColorTrc.SMPTE2084): "pq", int(ColorTrc.ARIB_STD_B67): "hlg"}


@dataclass(frozen=True)
class Colour:
    """What the numbers of a decoded picture mean."""

    matrix: str
    """'bt601', 'bt709', 'bt2020', 'smpte240m' or 'fcc'."""
    full_range: bool
    transfer: str
    """'sdr', or of high dynamic range: 'pq', 'hlg'."""
    understood: bool = True
    """False where the picture is tagged with a matrix that is not among these, and the default was taken."""


def colour_of(picture: VideoFrame) -> Colour:
    """The colour of `picture` by its tags. Unspecified matrix: BT.709 from 720 lines up, else BT.601; unspecified
    range: limited, but full for RGB and the yuvj formats."""
    tag = picture.colorspace
    fallback = "bt709" if picture.height >= 720 else "bt601"
    rgb = picture.format.is_rgb or picture.format.has_palette
    implied_full = rgb or picture.format.name.startswith(("yuvj", "gray", "mono", "ya"))
    full = picture.color_range == ColorRange.JPEG or (picture.color_range != ColorRange.MPEG and implied_full)
    return Colour(
        matrix=_TAGGED.get(tag, fallback),
        full_range=full,
        transfer=_HDR_TRANSFERS.get(picture.color_trc, "sdr"),
        understood=rgb or tag in _TAGGED or tag in _UNSPECIFIED,
    )


def bits_of(format_name: str) -> int:
    """Bits per component of a pixel format."""
    return max((component.bits for component in VideoFormat(format_name).components), default=8)


def has_alpha(format_name: str) -> bool:
    """Whether a pixel format holds opacity."""
    return any(component.is_alpha for component in VideoFormat(format_name).components)


class ToRgb:
    """Decoded pictures to [3, H, W] of `size` = (height, width), turned upright by `orientation`.

    High dynamic range becomes BT.709. deep: in uint16 instead of uint8. alpha: with the opacity [H, W] of pictures
    that have it.
    """

    def __init__(
        self, size: tuple[int, int], orientation: Orientation, *, deep: bool = False, alpha: bool = False
    ) -> None:
        self._orientation = orientation
        self._size = orientation.size(size)
        self._deep, self._alpha = deep, alpha
        self._reformatter = VideoReformatter()

    def __call__(self, picture: VideoFrame) -> tuple[Tensor, Tensor | None]:
        colour = colour_of(picture)
        planar = "gbrap" if self._alpha and has_alpha(picture.format.name) else "gbrp"
        planes: Planes[np.uint8] | Planes[np.uint16]
        if colour.transfer != "sdr":
            mapped = to_bt709(self._planes(picture, colour, "gbrp16le", np.uint16), colour.transfer)
            planes = mapped * np.uint16(257) if self._deep else mapped
        elif self._deep:
            planes = self._planes(picture, colour, planar + "16le", np.uint16)
        else:
            planes = self._planes(picture, colour, planar, np.uint8)
        upright = torch.from_numpy(self._orientation.apply(planes))
        return upright[:3], upright[3] if len(upright) > 3 else None

    def _planes(self, picture: VideoFrame, colour: Colour, planar: str, dtype: type[Number]) -> Planes[Number]:
        height, width = self._size
        converted = self._reformatter.reformat(
            picture,
            width,
            height,
            planar,
            src_colorspace=_SWSCALE[colour.matrix],
            src_color_range=ColorRange.JPEG if colour.full_range else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=_interpolation((picture.height, picture.width), self._size),
            threads=1,
        )
        rgb = np.empty((len(converted.planes), height, width), dtype)
        for plane, channel in zip(converted.planes, _PLANES, strict=False):
            rgb[channel] = _pixels(plane, width, height, dtype)
        return rgb


class FromRgb:
    """uint8 or uint16 [3, H, W] to pictures of `pixel_format`: limited-range BT.709 and tagged so, or plain RGB.

    Where `size` is larger than the picture by a row or a column, the last row or column is repeated.
    """

    def __init__(self, size: tuple[int, int], pixel_format: str) -> None:
        self._size = size
        self._format = pixel_format
        self._rgb = VideoFormat(pixel_format).is_rgb
        self._reformatter = VideoReformatter()

    def __call__(self, rgb: Tensor, alpha: Tensor | None = None) -> VideoFrame:
        height, width = self._size
        source = rgb.cpu().numpy()
        if alpha is not None:
            source = np.concatenate([source, alpha.cpu().numpy()[None]])
        deep = source.dtype == np.uint16
        planar = VideoFrame(width, height, ("gbrp" if alpha is None else "gbrap") + ("16le" if deep else ""))
        rows, columns = source.shape[1:]
        for plane, channel in zip(planar.planes, _PLANES, strict=False):
            target = _pixels(plane, width, height, np.uint16) if deep else _pixels(plane, width, height, np.uint8)
            target[:rows, :columns] = source[channel]
            target[:rows, columns:] = source[channel][:, -1:]
            target[rows:] = target[rows - 1]
        picture = self._reformatter.reformat(
            planar,
            format=self._format,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG if self._rgb else ColorRange.MPEG,
            dst_colorspace=None if self._rgb else Colorspace.ITU709,
            interpolation=Interpolation.BICUBIC | _EXACT,
            threads=1,
        )
        self.tag(picture)
        return picture

    def tag(self, carrier: VideoFrame | VideoCodecContext) -> None:
        """Say on a picture or an encoder what the numbers mean."""
        carrier.colorspace = _TAG_RGB if self._rgb else _TAG_BT709
        carrier.color_range = ColorRange.JPEG if self._rgb else ColorRange.MPEG
        carrier.color_primaries = ColorPrimaries.BT709
        carrier.color_trc = ColorTrc.BT709


def _interpolation(stored: tuple[int, int], wanted: tuple[int, int]) -> Interpolation:
    if stored == wanted:
        return Interpolation.BILINEAR | _EXACT
    smaller = wanted[0] <= stored[0] and wanted[1] <= stored[1]
    return (Interpolation.AREA if smaller else Interpolation.BICUBIC) | _EXACT


def _pixels(
    plane: VideoPlane, width: int, height: int, dtype: type[Number]
) -> np.ndarray[tuple[int, int], np.dtype[Number]]:
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return lines.view(dtype)[:height, :width]
