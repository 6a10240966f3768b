"""Flow that was computed elsewhere: a file per pair of frames."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..errors import UsageError
from ..types import Frame
from .confidence import Confidence
from .formats import read_flow
from .protocol import PairEstimator


class FlowFiles(PairEstimator):
    """Flow files named by `pattern`, which holds {at} and {to}: "flow/{at:05d}-{to:05d}.flo".

    Both directions are needed for confidence; without it, the one that is asked for. Raises UsageError for a missing
    file, or one of another size than the frame.
    """

    def __init__(self, pattern: str, *, confidence: str | Confidence | None = "check"):
        super().__init__(confidence=confidence)
        try:
            distinct = len({pattern.format(at=at, to=to) for at, to in ((1, 2), (2, 1), (1, 1))}) == 3
        except (LookupError, ValueError) as error:
            raise UsageError(f"The pattern {pattern!r} of flow files cannot be filled in: {error!r}.") from error
        if not distinct:
            raise UsageError(
                f"The pattern {pattern!r} of flow files should hold {{at}} and {{to}}, the numbers of the two frames: "
                "'flow/{at:05d}-{to:05d}.flo'."
            )
        self.pattern = pattern

    @property
    def name(self) -> str:
        return f"files:{self.pattern}"

    @property
    def key(self) -> None:
        return None

    def displacement(self, at: Frame, to: Frame) -> Tensor:
        path = Path(self.pattern.format(at=at.index, to=to.index))
        uv = read_flow(path)
        if tuple(uv.shape[1:]) != at.size:
            raise UsageError(
                f"The flow {path} is {uv.shape[1]}x{uv.shape[2]} and frame {at.index} is {at.size[0]}x{at.size[1]} "
                "(height x width)."
            )
        return uv.to(at.rgb.device)
