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

    For .exr files, "#" and the channels of u and v may follow, each after a minus where it points left or up:
    "flow/{at:04d}-{to:04d}.exr#forward.u,-forward.v". Motion vectors of a renderer, which stand in a file per frame,
    have a pattern without {to} and two pairs of channels, into the frame before and into the frame after:
    "{at:04d}.exr#Vector.X,-Vector.Y;-Vector.Z,Vector.W" are those of Blender's Cycles.

    Both directions are needed for confidence; without it, the one that is asked for. Raises UsageError for a missing
    file, or one of another size than the frame.
    """

    def __init__(self, pattern: str, *, confidence: str | Confidence | None = "check"):
        super().__init__(confidence=confidence)
        self.pattern, _, named = pattern.partition("#")
        self._channels = _channels(named, pattern)
        try:
            distinct = len({self.pattern.format(at=at, to=to) for at, to in ((1, 2), (2, 1), (1, 1))})
        except (LookupError, ValueError) as error:
            raise UsageError(f"The pattern {pattern!r} of flow files cannot be filled in: {error!r}.") from error
        if distinct != (2 if len(self._channels) == 2 else 3):
            raise UsageError(
                f"The pattern {pattern!r} of flow files should hold {{at}} and {{to}}, the numbers of the two frames: "
                "'flow/{at:05d}-{to:05d}.flo'. With two pairs of channels it should hold {at} alone."
            )

    @property
    def name(self) -> str:
        return f"files:{self.pattern}"

    @property
    def key(self) -> None:
        return None

    def displacement(self, at: Frame, to: Frame) -> Tensor:
        path = Path(self.pattern.format(at=at.index, to=to.index))
        uv = read_flow(path, self._channels_between(at.index, to.index))
        if tuple(uv.shape[1:]) != at.size:
            raise UsageError(
                f"The flow {path} is {uv.shape[1]}x{uv.shape[2]} and frame {at.index} is {at.size[0]}x{at.size[1]} "
                "(height x width)."
            )
        return uv.to(at.rgb.device)

    def _channels_between(self, at: int, to: int) -> tuple[str, str] | None:
        if len(self._channels) < 2:
            return self._channels[0] if self._channels else None
        if abs(at - to) != 1:
            raise UsageError(f"{self.pattern} tells the motion between neighbours only, not from frame {at} to {to}.")
        return self._channels[0 if to < at else 1]


def _channels(named: str, pattern: str) -> tuple[tuple[str, str], ...]:
    """ "a,-b;c,d" -> (("a", "-b"), ("c", "d"))."""
    pairs = []
    for part in named.split(";") if named else ():
        u, _, v = part.partition(",")
        if not u.strip("- ") or not v.strip("- ") or "," in v:
            raise UsageError(f"Channels are named '#U,V' or '#U,V;U,V', got {named!r} in the pattern {pattern!r}.")
        pairs.append((u.strip(), v.strip()))
    if len(pairs) > 2:
        raise UsageError(f"At most two pairs of channels can be named, got {len(pairs)} in the pattern {pattern!r}.")
    return tuple(pairs)
