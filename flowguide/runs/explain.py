"""What guided each frame, as pictures: source, reference, warped reference, confidence, result."""

from __future__ import annotations

from pathlib import Path

import cv2
import torch
from torch import Tensor

from .. import ops
from ..config import RenderConfig
from ..errors import FlowguideError, UsageError
from ..renderer import Styled
from .compare import LABEL_SHARE, LEAST_LABEL_PX, banner
from .disk import check_room

LABELS = ("source", "reference", "warped", "confidence", "result")
NAME = "explained_{:06d}.png"
HOLE, HOLE_RGB = 0.5, (200, 30, 30)
"""Below this confidence a pixel is generated; it is shown in this colour."""
NOTHING = 40
"""Grey level of a picture that there is not."""


class Explainer:
    """Writes one strip per frame into a folder, numbered as the frames are."""

    def __init__(self, folder: Path, settings: RenderConfig, *, may_replace: bool):
        """Raises UsageError where the settings leave nothing to explain, and where strips are there already;
        FlowguideError where the folder cannot be made."""
        if not settings.guidance:
            raise UsageError("--explain shows what guides each frame; under --no-guidance nothing does.")
        if not may_replace and folder.is_dir() and any(folder.glob(NAME.replace("{:06d}", "*"))):
            raise UsageError(f"{folder} holds explained frames already; choose another folder, or --overwrite them.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FlowguideError(
                f"{folder} cannot be made ({error.strerror or error}); choose another place."
            ) from error
        self._folder = folder

    def write(self, styled: Styled) -> None:
        """Write the strip of one frame."""
        path = self._folder / NAME.format(styled.source.index)
        picture = strip(styled).permute(1, 2, 0).flip(2).contiguous().numpy()
        content = cv2.imencode(".png", picture)[1]
        try:
            check_room(self._folder, content.nbytes)
            path.write_bytes(content.tobytes())
        except OSError as error:
            raise FlowguideError(f"{path} cannot be written ({error.strerror or error}).") from error


def strip(styled: Styled) -> Tensor:
    """uint8 [3, H', 5 W]: the five pictures under their names; one that began anew has no reference."""
    source, carried = styled.source.rgb.cpu(), styled.carried
    height, width = styled.source.size
    reference = warped = torch.full_like(source, NOTHING)
    confidence = torch.zeros(height, width)
    if carried is not None:
        reference, warped = (_shown(p)[:, :height, :width] for p in (carried.reference, carried.guide.prior))
        confidence = carried.guide.confidence.float().cpu()[:height, :width]
    row = torch.cat([source, reference, warped, _confidence(confidence), _shown(styled.picture)], dim=2)
    return torch.cat([banner(LABELS, row.shape[2], max(LEAST_LABEL_PX, round(height * LABEL_SHARE))), row], dim=1)


def _shown(picture: Tensor) -> Tensor:
    """uint8 [3, H, W] of a picture in [-1, 1]."""
    return ops.from_model(picture[None].float().contiguous())[0].cpu()


def _confidence(confidence: Tensor) -> Tensor:
    """uint8 [3, H, W]: white is 1, grey less, holes in red."""
    grey = (confidence * 255).round().to(torch.uint8).expand(3, -1, -1)
    return torch.where(confidence < HOLE, torch.tensor(HOLE_RGB, dtype=torch.uint8).view(3, 1, 1), grey)
