"""Pictures of any kind at the door: torch, NumPy or DLPack, [H, W, 3] or [3, H, W], 8 bit or float."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import UsageError
from .types import Frame


def as_frame(picture: Any, index: int) -> Frame:
    """A Frame from a Frame, torch tensor, NumPy array or DLPack object; uint8 in 0..255 or float in [0, 1]."""
    if isinstance(picture, Frame):
        return picture
    tensor = _tensor(picture)
    if tensor.ndim != 3 or not (tensor.shape[0] == 3 or tensor.shape[2] == 3) or 0 in tensor.shape:
        raise UsageError(f"A picture should be [H, W, 3] or [3, H, W], got {tuple(tensor.shape)}.")
    planar = tensor.permute(2, 0, 1) if _channels_last(tensor) else tensor
    if planar.dtype == torch.uint8:
        rgb = planar
    elif planar.is_floating_point():
        if not bool(torch.isfinite(planar).all()):
            raise UsageError("A float picture should be finite, got NaN or infinity.")
        rgb = (planar.float() * 255.0).round().clamp(0, 255).to(torch.uint8)
    else:
        raise UsageError(f"A picture should be uint8 or float, got {planar.dtype}.")
    return Frame(rgb=rgb.contiguous(), index=index, pts=index, time_base=Fraction(1, 25))


def like_input(styled: Any, picture: Any) -> Any:
    """The finished picture as the kind, layout and dtype of `picture`."""
    if isinstance(picture, Frame):
        return styled.frame()
    given = _tensor(picture)
    planar = styled.frame().rgb if given.dtype == torch.uint8 else ((styled.picture + 1.0) / 2.0).to(given.dtype)
    result = (planar.permute(1, 2, 0) if _channels_last(given) else planar).contiguous()
    return result.cpu().numpy() if isinstance(picture, np.ndarray) else result.to(given.device)


def padded(frame: Frame, grid: int) -> Frame:
    """`frame` with its last row and column repeated until height and width are multiples of `grid`."""
    height, width = frame.size
    down, right = -height % grid, -width % grid
    if not down and not right:
        return frame
    rgb = frame.rgb.new_empty(3, height + down, width + right)
    rgb[:, :height, :width] = frame.rgb
    rgb[:, :height, width:] = frame.rgb[:, :, -1:]
    rgb[:, height:] = rgb[:, height - 1 : height]
    return Frame(rgb=rgb, index=frame.index, pts=frame.pts, time_base=frame.time_base)


def _tensor(picture: Any) -> Tensor:
    if isinstance(picture, Tensor):
        return picture
    if isinstance(picture, np.ndarray):
        return torch.from_numpy(np.require(picture, requirements=["C", "W"]))
    if hasattr(picture, "__dlpack__"):
        return torch.utils.dlpack.from_dlpack(picture)
    raise UsageError(
        f"A picture should be a torch tensor, a NumPy array or offer DLPack, got {type(picture).__name__}."
    )


def _channels_last(tensor: Tensor) -> bool:
    return tensor.shape[2] == 3 and tensor.shape[0] != 3
