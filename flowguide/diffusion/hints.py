"""Pictures that ControlNets look at, made from the source frame: edges, soft edges, depth, or the frame itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BackendMissing, ModelError

Hint = Callable[[Tensor], Tensor]
"""Picture [1, 3, H, W] in [-1, 1] -> hint [1, 3, H, W] in [0, 1]."""

_LUMA = (0.299, 0.587, 0.114)


def canny(picture: Tensor) -> Tensor:
    """White lines on black where Canny's detector finds an edge (thresholds 100 and 200, as ControlNet's own)."""
    grey = (_grey(picture)[0, 0] * 255.0).round().byte().cpu().numpy()
    edges = cv2.Canny(grey, 100, 200)
    return (torch.from_numpy(edges).to(picture.device, torch.float32) / 255.0).expand(1, 3, -1, -1)


def soft_edge(picture: Tensor) -> Tensor:
    """Strength of the grey gradient (Scharr, after a slight blur), 1 at the strongest percent."""
    grey = F.avg_pool2d(F.pad(_grey(picture), (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    kernel = picture.new_tensor([[-3.0, 0.0, 3.0], [-10.0, 0.0, 10.0], [-3.0, 0.0, 3.0]]).float() / 32.0
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    across, down = F.conv2d(padded, kernel[None, None]), F.conv2d(padded, kernel.T[None, None])
    strength = torch.hypot(across, down)
    strongest = torch.quantile(strength.flatten()[:: max(1, strength.numel() // 2**16)], 0.99).clamp_min(1e-3)
    return (strength / strongest).clamp(0.0, 1.0).expand(1, 3, -1, -1)


def tile(picture: Tensor) -> Tensor:
    """The picture itself."""
    return (picture.float() + 1.0) / 2.0


class Depth:
    """Nearness by a depth network in an ONNX file that takes ImageNet-normalised RGB [1, 3, H, W], as MiDaS, DPT and
    Depth Anything do; white is near."""

    def __init__(self, file: Path):
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendMissing("A depth hint needs onnxruntime: pip install 'flowguide[onnx]'.") from error
        try:
            self._session: Any = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"The depth network {file} could not be loaded: {str(error).splitlines()[0]}") from error
        self._input = self._session.get_inputs()[0]
        if len(self._input.shape) != 4:
            raise ModelError(f"The depth network {file} should take [1, 3, H, W], it takes {self._input.shape}.")

    def __call__(self, picture: Tensor) -> Tensor:
        height, width = (
            _side(wanted, own) for wanted, own in zip(self._input.shape[2:], picture.shape[2:], strict=True)
        )
        mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        seen = F.interpolate(tile(picture).cpu(), (height, width), mode="bilinear", antialias=True)
        fed = ((seen - mean) / deviation).numpy().astype(np.float32)
        near = torch.from_numpy(self._session.run(None, {self._input.name: fed})[0]).float()
        near = near.reshape(1, 1, *near.shape[-2:])
        near = (near - near.min()) / (near.max() - near.min()).clamp_min(1e-6)
        resized = F.interpolate(near, tuple(picture.shape[2:]), mode="bilinear")
        return resized.to(picture.device).expand(1, 3, -1, -1)


HINTS: dict[str, Hint] = {"canny": canny, "softedge": soft_edge, "tile": tile}
"""Hints that need no network; `depth` is made from a file."""


def _grey(picture: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA, device=picture.device).view(1, 3, 1, 1)
    return (tile(picture) * weights).sum(1, keepdim=True)


def _side(wanted: Any, own: int) -> int:
    """The network's own side where it is fixed, else the picture's, to the multiple of 14 (and of 2) it can take."""
    return wanted if isinstance(wanted, int) and wanted > 0 else max(14, round(own / 14) * 14)
