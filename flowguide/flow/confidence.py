"""How far a flow can be believed, per pixel: measures by name.

A measure is a function of both frames and both displacement fields; `check` needs the fields alone.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .. import ops
from ..errors import UnknownName
from ..types import Frame
from .learned import learned
from .parts import PARTS, ConfidenceParts

Confidence = Callable[[Frame, Frame, Tensor, Tensor], Tensor]
"""(at, to, uv [2, H, W] from `at` to `to`, back [2, H, W] from `to` to `at`) -> float32 [H, W] in [0, 1]."""


def check(at: Frame, to: Frame, uv: Tensor, back: Tensor) -> Tensor:
    """`flowguide.ops.predict`'s own measure: forward-backward consistency and motion boundary (Ruder et al. 2016) and
    the photometric difference of the two frames along the flow; 0 out of the frame."""
    here, there = ops.to_model(at.rgb[None]), ops.to_model(to.rgb[None])
    return ops.predict(there[:, :1], uv[None], back[None], here, there, mode="bilinear").confidence[0]


def forward_backward(at: Frame, to: Frame, uv: Tensor, back: Tensor) -> Tensor:
    """Forward-backward consistency alone, with Ruder et al.'s constants; 0 out of the frame."""
    plain = ops.ConfidenceSettings(boundary=False, photometric=None)
    return ops.predict(uv[None, :1], uv[None], back[None], mode="bilinear", settings=plain).confidence[0]


CONFIDENCE: dict[str, Confidence] = {"check": check, "forward-backward": forward_backward, "learned": learned}


def confidence_measure(measure: str | Confidence) -> Confidence:
    """The measure of that name, parts joined by "+" (see `parts`), or the function itself."""
    if callable(measure):
        return measure
    if measure in CONFIDENCE:
        return CONFIDENCE[measure]
    if "+" in measure or measure.partition(":")[0] in PARTS:
        return ConfidenceParts.parse(measure)
    raise UnknownName("confidence measure", measure, [*CONFIDENCE, *PARTS])
