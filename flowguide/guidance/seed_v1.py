"""Strategy `seed-v1`: the first flow-guided diffusion system as it was, a baseline to be compared with.

The flow from the frame before to this one is negated where a flow from this frame is needed; the weight falls with the
length of the motion, not with doubt; nothing is pasted; the picture is cut off to 8 bit between frames. Its ghosts and
its fading are the point. Kept apart from the original's accidents: its random draw from the autoencoder's posterior,
its first step at another noise level than the noise that was added, and its unseeded noise (take --noise per-frame).
Its flow is --flow farneback.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import RenderConfig
from ..diffusion.sampling import LatentGuide
from ..diffusion.tables import StepTable
from ..flow import FlowEstimator
from ..timing import StageClock
from ..types import Frame, Guide
from .frame_state import frame_state, restored_frame

EARLY, LATE, FAR = 0.6, 0.4, 0.1
"""Weight in the first 80 % of the executed steps, then, and where the motion is long."""
EARLY_SHARE, LONG_PX = 0.8, 1.5
SHARPENED, BLUR_PX = 0.12, 2.0
"""Unsharp mask of the warped picture."""

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Warped:
    """The finished frame before, moved here."""

    guide: Guide
    """Confidence is 1 everywhere: this system has none."""
    finished: Tensor
    """The finished frame before, uint8 [3, H, W]."""
    filled: Tensor
    uv: Tensor
    """The negated flow, [2, H, W] in pixels."""

    confident_share = 1.0

    @property
    def reference(self) -> Tensor:
        """The finished frame before, [3, H, W] in [-1, 1]."""
        return self.finished.float() / 127.5 - 1.0


class SeedV1:
    """State and arithmetic of the strategy; one instance per clip. Takes the place of `PreviousFrame`."""

    def __init__(self, estimator: FlowEstimator, config: RenderConfig, cell: int, clock: StageClock):
        self._estimator, self._clock = estimator, clock
        self._before: tuple[Frame, Tensor] | None = None

    def configure(self, config: RenderConfig) -> None:
        """It has no settings."""

    def carry(self, frame: Frame, source: Tensor) -> Warped | None:
        """The finished frame before, moved to `frame`; None at the first frame."""
        if self._before is None:
            return None
        before, finished = self._before
        with self._clock("flow"):
            forward = self._estimator.both(frame, before)[1].uv.nan_to_num()
        with self._clock("glue"):
            moved = _warped(finished.permute(1, 2, 0).cpu().numpy(), forward.cpu().numpy())
            prior = torch.from_numpy(moved).permute(2, 0, 1).to(source.device).float() / 127.5 - 1.0
            uv = -forward.to(source.device)
        return Warped(Guide(prior, torch.ones_like(prior[0])), finished, prior, uv)

    def latent_guide(self, carried: Warped, k0: Tensor, table: StepTable) -> LatentGuide:
        """The sampler's guide: weights of single pixels, as cv2.resize reads them, four to a cell."""
        long = torch.hypot(carried.uv[0], carried.uv[1]).cpu().numpy() > LONG_PX
        size = k0.shape[3], k0.shape[2]
        maps = []
        for step in range(len(table)):
            near = EARLY if (step + 1) / len(table) < EARLY_SHARE else LATE
            weight = np.where(long, FAR, near).astype(np.float32)
            maps.append(torch.from_numpy(cv2.resize(weight, size, interpolation=cv2.INTER_LINEAR)))
        return LatentGuide(k0=k0, weights=torch.stack(maps).to(k0.device)[:, None], erode=False)

    def finish(self, generated: Tensor, carried: Warped) -> Tensor:
        """What was generated: nothing is pasted."""
        return generated

    def remember(self, frame: Frame, source: Tensor, finished: Tensor, carried: Warped | None) -> None:
        """Keep the picture in 8 bit, cut off and not rounded."""
        self._before = frame, (finished * 127.5 + 127.5).clamp(0.0, 255.0).to(torch.uint8)

    def state(self) -> dict[str, Any]:
        """What `restore` needs to guide the next frame; empty where it begins anew."""
        if self._before is None:
            return {}
        frame, finished = self._before
        return {"frame": frame_state(frame), "finished": finished}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._before = (restored_frame(state["frame"]), state["finished"]) if state else None

    def forget(self) -> None:
        """Start anew at the next frame."""
        self._before = None


def _warped(finished: Picture, forward: NDArray[np.float32]) -> Picture:
    """`finished` [H, W, 3] read at p - F(p), bicubic, black beyond the border, then sharpened."""
    height, width = finished.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    moved = cv2.remap(finished, x - forward[0], y - forward[1], cv2.INTER_CUBIC)
    blurred = cv2.GaussianBlur(moved, (0, 0), BLUR_PX)
    return np.asarray(cv2.addWeighted(moved, 1.0 + SHARPENED, blurred, -SHARPENED, 0.0), dtype=np.uint8)
