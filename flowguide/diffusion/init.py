"""The clean latent that a frame's run begins from.

Few-step models have no later step that would re-harmonise a guided prediction, so there guidance belongs into this
latent: `blend` is (1 − m)·z_source + m·k0 with m = init_weight·confidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import RenderConfig


class InitialLatent:
    """Chooses by `config.init`; keeps the finished pictures that `previous` and `first` begin from.

    Where there is nothing to begin from (the first frame of a shot) it is the source.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], config: RenderConfig):
        self._encode = encode
        self._before: Tensor | None = None
        self._first: Tensor | None = None
        self._shot: int | None = None
        self.configure(config)

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings; the state stays."""
        self._init, self._weight = config.init, config.init_weight

    def __call__(self, source: Tensor, shot: int, k0: Tensor | None = None, confidence: Tensor | None = None) -> Tensor:
        """Clean latent [1, C, h, w].

        source: the frame [1, 3, H, W] in [-1, 1]. k0: the encoded guide [1, C, h, w] and its confidence [H, W] in
        [0, 1], of which the least in each latent cell counts; both None where the frame begins anew.
        """
        here = shot == self._shot
        if self._init == "random":
            return torch.zeros_like(self._encode(source))
        if self._init == "previous" and here and self._before is not None:
            return self._encode(self._before.to(source.device))
        if self._init == "first" and here and self._first is not None:
            return self._first.to(source.device)
        if self._init == "warped" and k0 is not None:
            return k0
        z = self._encode(source)
        if self._init == "blend" and k0 is not None and confidence is not None:
            least = -F.max_pool2d(-confidence[None, None], confidence.shape[0] // z.shape[2])
            return torch.where(least > 0, z.lerp(k0, self._weight * least), z)
        return z

    def remember(self, finished: Tensor, shot: int) -> None:
        """Keep the finished picture [3, H, W] of the frame."""
        if self._init == "previous":
            self._before = finished[None]
        if self._init == "first" and (shot != self._shot or self._first is None):
            self._first = self._encode(finished[None])
        self._shot = shot

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on with the next frame."""
        return {"before": self._before, "first": self._first, "shot": self._shot}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._before, self._first, self._shot = state["before"], state["first"], state["shot"]
