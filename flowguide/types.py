"""The data that travels between rooms: frozen dataclasses with units, shapes checked at the door."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UsageError


def _expect(condition: bool, name: str, expected: str, got: object) -> None:
    if not condition:
        raise UsageError(f"{name} should be {expected}, got {got}.")


def _describe(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


@dataclass(frozen=True)
class Frame:
    """One decoded picture and its exact time."""

    rgb: Tensor
    """uint8 [3, H, W], RGB, on any device; uint16 only on its way to a file that keeps more than 8 bits."""
    index: int
    """Position in the stream of frames that is rendered, from 0."""
    pts: int = 0
    """Presentation time in units of `time_base`; integer from reader to encoder."""
    time_base: Fraction = Fraction(1, 1000)
    """Seconds per unit of `pts`."""
    alpha: Tensor | None = None
    """Opacity, [H, W] of the dtype of `rgb`, or None where all is opaque or it was not asked for."""

    def __post_init__(self) -> None:
        picture = isinstance(self.rgb, Tensor) and self.rgb.dtype in (torch.uint8, torch.uint16) and self.rgb.ndim == 3
        _expect(picture and self.rgb.shape[0] == 3, "Frame.rgb", "a uint8 tensor [3, H, W]", _describe(self.rgb))
        _expect(isinstance(self.pts, int), "Frame.pts", "an integer", repr(self.pts))
        if self.alpha is not None:
            fits = isinstance(self.alpha, Tensor) and self.alpha.shape == self.rgb.shape[1:]
            _expect(fits, "Frame.alpha", f"a tensor {tuple(self.rgb.shape[1:])}", _describe(self.alpha))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.rgb.shape[1], self.rgb.shape[2]

    @property
    def seconds(self) -> float:
        """Presentation time in seconds, for display only."""
        return float(self.pts * self.time_base)


@dataclass(frozen=True)
class Flow:
    """Where the content of frame `at` lies in frame `to`.

    `uv[:, y, x]` is (u, v) in pixels, u to the right, v down: the content of pixel (x, y) of frame `at` lies at
    (x + u, y + v) in frame `to`. A backward warp is therefore `out(p) = image_to(p + uv(p))`.
    """

    uv: Tensor
    """float [2, H, W], pixels of this grid."""
    at: int
    """Index of the frame on whose grid the flow is defined."""
    to: int
    """Index of the frame it points into."""
    confidence: Tensor | None = None
    """float [H, W] in [0, 1], or None where it is not known."""
    visible: Tensor | None = None
    """float [H, W] in [0, 1]: below one half where the pixel is taken to be covered, or outside, in frame `to`. Of
    estimators and measures that tell this apart from a wrong flow; else None."""

    def __post_init__(self) -> None:
        field = isinstance(self.uv, Tensor) and self.uv.is_floating_point() and self.uv.ndim == 3
        _expect(field and self.uv.shape[0] == 2, "Flow.uv", "a float tensor [2, H, W]", _describe(self.uv))
        for name, value in (("confidence", self.confidence), ("visible", self.visible)):
            fits = value is None or (isinstance(value, Tensor) and value.shape == self.uv.shape[1:])
            _expect(fits, f"Flow.{name}", f"float {tuple(self.uv.shape[1:])}", _describe(value))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.uv.shape[1], self.uv.shape[2]

    def resized(self, size: tuple[int, int]) -> Flow:
        """The same flow on a grid of `size` = (height, width): the vectors scale with the grid."""
        height, width = size
        if (height, width) == self.size:
            return self
        scale = self.uv.new_tensor([width / self.size[1], height / self.size[0]]).view(2, 1, 1)
        uv = F.interpolate(self.uv[None], size, mode="bilinear", align_corners=False)[0] * scale
        maps = (
            None
            if value is None
            else F.interpolate(value[None, None], size, mode="bilinear", align_corners=False)[0, 0]
            for value in (self.confidence, self.visible)
        )
        confidence, visible = maps
        return replace(self, uv=uv, confidence=confidence, visible=visible)


@dataclass(frozen=True)
class Guide:
    """What the finished frame should look like where that can be known."""

    prior: Tensor
    """float [3, H, W] in [-1, 1]: finished pixels of other frames, moved here by the flow."""
    confidence: Tensor
    """float [H, W] in [0, 1]; 0 everywhere means no guidance, bit for bit."""

    def __post_init__(self) -> None:
        picture = isinstance(self.prior, Tensor) and self.prior.is_floating_point() and self.prior.ndim == 3
        _expect(picture, "Guide.prior", "a float tensor [3, H, W]", _describe(self.prior))
        fits = isinstance(self.confidence, Tensor) and self.confidence.shape == self.prior.shape[1:]
        _expect(fits, "Guide.confidence", f"float {tuple(self.prior.shape[1:])}", _describe(self.confidence))


@dataclass(frozen=True)
class ClipInfo:
    """What is known of a clip before its frames are decoded. Sizes are as displayed, after rotation."""

    path: str
    size: tuple[int, int]
    """(height, width) in pixels."""
    time_base: Fraction
    """Seconds per unit of pts."""
    frame_rate: Fraction | None
    """Average frames per second, or None where the container does not say."""
    frames: int | None
    """Number of frames where the container says it; an estimate, never relied upon."""
    start_pts: int | None
    """pts of the first frame where the container says it."""
    duration_seconds: float | None
    codec: str
    pixel_format: str
    bits: int
    """Bits per component."""
    matrix: str
    """Colour matrix: 'bt601', 'bt709' or 'bt2020'."""
    full_range: bool
    rotation_degrees: int
    """Clockwise turn that has been applied to the pixels."""
    audio_codec: str | None
    """Codec of the first audio stream, or None."""
    mirrored: bool = False
    """Whether the pixels have been mirrored left and right, before the turn."""
    transfer: str = "sdr"
    """'sdr', or of high dynamic range: 'pq', 'hlg'."""
    interlaced: bool = False
    """Whether the pictures are stored as two fields."""
    alpha: bool = False
    """Whether the pictures have opacity."""
    subtitles: int = 0
    """Number of subtitle streams."""
