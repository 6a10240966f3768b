"""Which part of the picture is painted: a region to render, one to keep, or what the input's opacity says.

Outside the region the output is the source, bit for bit; the seam is a ramp that lies inside.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from . import ops
from .config import RenderConfig
from .errors import UsageError
from .types import Frame
from .video import ClipReader
from .video.choice import read_rate

ALPHA = "alpha"
"""Name of the mask that is the input's opacity."""
HALF = 0.5
"""A mask's grey value, or an opacity, from which a pixel belongs to the region."""


class Region:
    """The part of each frame that is painted, as `config.mask` and `config.keep` say."""

    def __init__(self, config: RenderConfig):
        self._paint = None if config.mask is None else _mask(config.mask, "mask", config)
        self._keep = None if config.keep is None else _mask(config.keep, "keep", config)
        self._feather_px = config.mask_feather_px

    def of(self, frame: Frame) -> Tensor:
        """float [H, W]: 1 where `frame` is painted, 0 where it stays. Raises UsageError where a mask does not fit."""
        region = torch.ones(frame.size)
        if self._paint is not None:
            region = self._paint.of(frame)
        if self._keep is not None:
            region = region * (1.0 - self._keep.of(frame))
        return region

    def applied(self, picture: Tensor, frame: Frame, region: Tensor) -> Tensor:
        """The painted `picture` [3, H, W] in the `region`, the source of `frame` outside it."""
        source = ops.to_model(frame.rgb[None].to(picture.device))
        inside = region[None].to(picture.device)
        return ops.paste(source, picture[None].contiguous(), inside, feather_px=self._feather_px)[0]


def region_of(config: RenderConfig) -> Region | None:
    """The region of `config`, None where all of the picture is painted. Raises UsageError and VideoError."""
    return None if config.mask is None and config.keep is None else Region(config)


def leaves_nothing(config: RenderConfig) -> bool:
    """Whether `mask` and `keep` leave nothing to paint in any frame, as far as that is known without the clip.

    Masks are read up to the first frame in which something is left. Raises UsageError and VideoError.
    """
    if config.mask is None and config.keep is None:
        return False
    if config.mask == config.keep:
        return True
    if needs_alpha(config):
        return False
    paint, keep = (
        None if name is None else MaskFile(Path(name).expanduser(), option, config)
        for option, name in (("mask", config.mask), ("keep", config.keep))
    )
    still = all(mask is None or mask.is_still for mask in (paint, keep))
    for index in range(1 if still else config.max_frames or sys.maxsize):
        asked = torch.ones(()) if paint is None else paint.white(index)
        kept = torch.zeros(()) if keep is None else keep.white(index)
        if asked is None or kept is None:
            break
        fits = asked.shape == kept.shape or paint is None or keep is None
        if not fits or bool((asked * (1.0 - kept)).any()):
            return False  # what does not fit is told where it is held against a frame
    return True


def needs_alpha(config: RenderConfig) -> bool:
    """Whether the input's opacity has to be read."""
    return ALPHA in (config.mask, config.keep)


def _mask(name: str, option: str, config: RenderConfig) -> _Alpha | MaskFile:
    return _Alpha(option) if name == ALPHA else MaskFile(Path(name).expanduser(), option, config)


class _Alpha:
    """The input's own opacity."""

    def __init__(self, option: str):
        self._option = option

    def of(self, frame: Frame) -> Tensor:
        if frame.alpha is None:
            raise UsageError(f"--{self._option} alpha takes the input's opacity, and frame {frame.index} has none.")
        full = torch.iinfo(frame.alpha.dtype).max
        return (frame.alpha.cpu().float() >= HALF * full).float()


class MaskFile:
    """A picture that holds for all frames, or a clip with one mask for each."""

    def __init__(self, path: Path, option: str, config: RenderConfig):
        self._path, self._option, self._config = path, option, config
        with ClipReader(path, size=config.size) as reader:
            first = list(itertools.islice(reader, 2))
        self._still = _grey(first[0]) if len(first) == 1 else None
        self._masks: Iterator[Frame] = iter(())
        self._next = 0
        """Number of the mask that comes next out of `_masks`; 0 before it is opened."""

    @property
    def is_still(self) -> bool:
        """Whether one picture holds for all frames."""
        return self._still is not None

    def of(self, frame: Frame) -> Tensor:
        """float [H, W]: 1 where the mask is white. Raises UsageError where it does not fit `frame`."""
        return (self.grey(frame) >= HALF).float()

    def white(self, index: int) -> Tensor | None:
        """float [H, W]: 1 where mask number `index` is white; None after the last."""
        grey = self._at(index)
        return None if grey is None else (grey >= HALF).float()

    def grey(self, frame: Frame) -> Tensor:
        """float [H, W]: black is 0, white is 1."""
        grey = self._at(frame.index)
        if grey is None:
            raise UsageError(f"The {self._option} {self._path} ends before frame {frame.index} of the clip.")
        if tuple(grey.shape) != frame.size:
            height, width = grey.shape
            raise UsageError(
                f"The {self._option} {self._path} is {width}x{height} and frame {frame.index} is "
                f"{frame.size[1]}x{frame.size[0]}; give it at the clip's size."
            )
        return grey

    def _at(self, index: int) -> Tensor | None:
        """Mask number `index` of the same part of time as the clip, None after the last."""
        if self._still is not None:
            return self._still
        if index < self._next or self._next == 0:
            config = self._config
            self._masks = ClipReader(
                self._path,
                size=config.size,
                start_seconds=config.start_seconds,
                end_seconds=config.end_seconds,
                every=config.every,
                frame_rate=None if config.frame_rate is None else read_rate(config.frame_rate),
                pictures_per_second=None if config.input_rate is None else read_rate(config.input_rate),
            )
            self._next = 0
        found = next(itertools.islice(self._masks, index - self._next, None), None)
        if found is None:
            return None
        self._next = index + 1
        return _grey(found)


def _grey(mask: Frame) -> Tensor:
    return mask.rgb.cpu().float().mean(0) / 255.0
