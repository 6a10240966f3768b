"""How alike two pictures are to CLIP, and in which direction one becomes more so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ModelError
from .loading import load

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP was trained with."""
HALVES = ((0.0, 0.0), (0.0, 0.5), (0.5, 0.0), (0.5, 0.5))
"""Upper left corners of the parts that are compared beside the whole, as shares of the picture; each is half as wide.
"""


class Likeness:
    """A CLIP image encoder in a folder of transformers' layout."""

    def __init__(self, folder: Path, device: torch.device, allow_pickle: bool = False):
        """Raises ModelError where the folder holds none."""
        from transformers import CLIPVisionModelWithProjection

        if not (folder / "config.json").is_file():
            raise ModelError(f"The CLIP image encoder {folder} should be a folder with a config.json and weights.")
        self._network: Any = load(CLIPVisionModelWithProjection, folder, dtype=torch.float32, allow_pickle=allow_pickle)
        self._network.to(device).eval().requires_grad_(False)
        self._side = int(self._network.config.image_size)

    def loss(self, picture: Tensor, wanted: Tensor) -> tuple[float, Tensor]:
        """1 − cosine between `picture` and `wanted` [3, H, W] in [-1, 1], the mean over the whole and its quarters; and
        its gradient [3, H, W]."""
        with torch.inference_mode(False), torch.enable_grad():
            aim = self._seen(wanted.detach().clone()).detach()
            free = picture.detach().clone().requires_grad_()
            loss = (1.0 - F.cosine_similarity(self._seen(free), aim)).mean()
            (gradient,) = torch.autograd.grad(loss, free)
        return float(loss.detach()), gradient

    def _seen(self, picture: Tensor) -> Tensor:
        """Embeddings [parts, width]."""
        height, width = picture.shape[1:]
        parts = [picture]
        for top, left in HALVES:
            y, x = int(top * height), int(left * width)
            parts.append(picture[:, y : y + (height + 1) // 2, x : x + (width + 1) // 2])
        size = (self._side, self._side)
        fed = torch.cat([F.interpolate(part[None], size, mode="bilinear", antialias=True) for part in parts])
        mean, deviation = (picture.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
        embedded: Tensor = self._network(pixel_values=((fed + 1.0) / 2.0 - mean) / deviation).image_embeds
        return embedded
