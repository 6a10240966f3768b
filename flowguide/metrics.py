"""How steady, sharp and faithful a painted clip is (docs/math.md, section 8).

    E_warp(k) = mean_t  sum M |O_t - warp(O_{t-k})| / sum M

Flow and mask M come from the source video by one fixed estimator, whose name stands in every row: errors of different
estimators, resolutions or clips cannot be compared. Blur and a copy of the source both lower E_warp, so it is always
shown beside sharpness, fidelity and the E_warp of the source itself, the floor.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops
from .abreast import Abreast
from .errors import UsageError
from .flow import FlowEstimator
from .flow import estimator as estimator_named
from .flow.shots import CutDetector
from .measures import ColourDrift, Curve, Curves, Fidelity, Flicker, Ghost, Mean, WarpErrors, laplacian_energy
from .types import Flow, Frame

Lag = int | Literal["first"]
"""Distance in frames of the two pictures that are compared; "first" is the first frame of the shot."""

SOURCE = "source"
"""Name of the source's own row, the floor."""
NOTHING_TO_STEADY = 1.5
"""An unguided clip whose E_warp is below this multiple of the source's has nothing to steady."""
HIDDEN = 0.1
"""Below this confidence a pixel of the source counts as dis-occluded."""


@dataclass(frozen=True)
class WarpError:
    """E_warp at one lag, in grey levels (0..255), and how it runs over the clip."""

    l1: float | None
    """Mean over pairs of the masked mean absolute difference; None where no pair could be measured."""
    rmse: float | None
    """Root of the mean over pairs of the masked mean squared difference."""
    pairs: int
    curve: Curve = field(repr=False)
    """Per frame the masked mean absolute difference; None where the frame has no partner or no mask."""


@dataclass(frozen=True)
class ClipMeasures:
    """Everything measured of one clip."""

    name: str
    warp_error: dict[Lag, WarpError]
    flicker: float | None
    """Mean absolute change from frame to frame where the source stands still, 0..255."""
    laplacian_energy: float
    """Mean squared Laplacian of the luma (0..255)."""
    sharpness: float | None
    """`laplacian_energy` relative to the unguided clip's, or to the source's where none is named."""
    psnr_db: float | None
    ssim: float | None
    """Fidelity to the unguided clip, of pictures averaged over up to 16 frames."""
    colour_drift: float | None
    """How far the mean colour moves against the unguided clip's (where none is named, the source's) from the first
    quarter of a shot to the last; Euclidean in RGB, 0..255."""
    ghost: float | None
    """Share of the warped previous picture in dis-occluded pixels: slope of O - U on warp(O_prev) - U, U unguided."""
    curves: dict[str, Curve] = field(repr=False)
    """Per frame: "flicker"; "sharpness", against the yardstick's same frame; "colour_drift", the distance of the mean
    colour from where the shot began; "psnr_db" and "ssim", of the average that the frame is in. What the clip itself
    is the yardstick of is left out."""
    anchors: list[int]
    """Frames that are known as anchors; empty where none are."""
    note: str
    """At which lags there was nothing to steady; such a row counts for nothing there."""


@dataclass(frozen=True)
class Report:
    """Measures of the source (first) and of every clip."""

    estimator: str
    frames: int
    shots: list[int]
    """Position of the first frame of each shot."""
    clips: list[ClipMeasures]
    ended: list[str]
    """Clips that ended before the others did, and with them the measurement; empty where all have one length."""

    def __getitem__(self, name: str) -> ClipMeasures:
        return next(clip for clip in self.clips if clip.name == name)

    def rows(self) -> list[dict[str, str | int | float | None]]:
        """One flat row per clip, ready for a table."""
        table: list[dict[str, str | int | float | None]] = []
        for clip in self.clips:
            row: dict[str, str | int | float | None] = {"clip": clip.name, "estimator": self.estimator}
            row["frames"] = self.frames
            for lag, error in clip.warp_error.items():
                row[f"e_warp_{lag}"], row[f"rmse_{lag}"] = error.l1, error.rmse
            for name in ("flicker", "sharpness", "psnr_db", "ssim", "colour_drift", "ghost", "note"):
                row[name] = getattr(clip, name)
            table.append(row)
        return table

    def as_dict(self) -> dict[str, Any]:
        """Everything, per-frame curves included, ready for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """`as_dict` as text."""
        return json.dumps(self.as_dict(), indent=1)


def measure(
    source: Iterable[Frame],
    clips: Mapping[str, Iterable[Frame]],
    *,
    lags: Sequence[Lag] = (1, 8),
    estimator: str | FlowEstimator = "dis",
    unguided: str | None = None,
    anchors: Mapping[str, Sequence[int]] | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> Report:
    """Measure `clips`, each the source painted in some way, frame by frame in memory that does not grow with pictures.

    lags: distances at which E_warp is taken. estimator: finds flow and mask in the source; an object with known flow
    serves as well. unguided: the name of the clip painted without guidance, against which the others are judged.
    anchors: positions of frames of a clip that are known as anchors, for the report. on_frame: called with the number
    of frames done.

    All frames must have the source's size, else UsageError names both; see `resized`. The measures end with the
    shortest clip. Pairs across a cut of the source are left out.
    """
    if unguided is not None and unguided not in clips:
        raise UsageError(f"The unguided clip {unguided!r} is not among the clips: {', '.join(clips) or 'none'}.")
    if SOURCE in clips:
        raise UsageError(f"A clip cannot be named {SOURCE!r}: that is the row of the source itself.")
    for lag in lags:
        if lag != "first" and (not isinstance(lag, int) or lag < 1):
            raise UsageError(f"A lag should be a positive number of frames or 'first', got {lag!r}.")
    names = [SOURCE, *clips]
    flow = estimator_named(estimator) if isinstance(estimator, str) else estimator
    session = _Session(names, lags, flow, unguided)
    abreast = Abreast({SOURCE: source, **clips})
    for frames in abreast:
        session.add(frames[0], _stacked(names, frames))
        if on_frame is not None:
            on_frame(session.frames)
    if not session.frames:
        raise UsageError("There is nothing to measure: the source or one of the clips has no frame.")
    return session.report(anchors or {}, abreast.ended)


def resized(frames: Iterable[Frame], size: tuple[int, int]) -> Iterator[Frame]:
    """The frames at `size` = (height, width), for a source that was painted at another size."""
    for frame in frames:
        if frame.size == size:
            yield frame
        else:
            picture = F.interpolate(frame.rgb[None].float(), size, mode="bilinear", antialias=True)[0]
            rgb = picture.round().clamp(0, 255).to(torch.uint8)
            yield Frame(rgb, frame.index, frame.pts, frame.time_base)


def dis_occluded(flow: Flow) -> Tensor:
    """bool [H, W]: pixels of which the flow (to the frame before) stays in the picture and yet is not to be trusted."""
    return _inside(flow) & (_mask(flow) < HIDDEN)


def metric_estimator(guided_by: str) -> FlowEstimator:
    """The estimator to measure with: DIS medium, or Farneback for a clip that DIS itself has guided."""
    return estimator_named("farneback" if guided_by.startswith("dis") else "dis")


def _stacked(names: Sequence[str], frames: Sequence[Frame]) -> Tensor:
    """uint8 [K, 3, H, W], the source first."""
    first = frames[0]
    for name, frame in zip(names, frames, strict=True):
        if frame.size != first.size:
            raise UsageError(
                f"{name!r} is {frame.size[0]}x{frame.size[1]} and the source {first.size[0]}x{first.size[1]} (height x "
                "width); clips are measured at one size, so scale the source to the clips' size first."
            )
    return torch.stack([frame.rgb.to(first.rgb.device) for frame in frames])


class _Session:
    """One measurement under way: the last pictures, and every measure."""

    def __init__(self, names: list[str], lags: Sequence[Lag], flow: FlowEstimator, unguided: str | None):
        count = len(names)
        self.names, self.flow, self.frames = names, flow, 0
        self.unguided = None if unguided is None else names.index(unguided)
        self.shots: list[int] = []
        self.detector = CutDetector()
        self.recent: deque[tuple[Frame, Tensor]] = deque(maxlen=max([1, *(lag for lag in lags if lag != "first")]))
        self.first: tuple[Frame, Tensor] | None = None
        self.errors: dict[Lag, WarpErrors] = {lag: WarpErrors(count) for lag in lags}
        self.flicker, self.energy, self.energies = Flicker(count), Mean(count), Curves(count)
        against = [0 if self.unguided is None or k == self.unguided else self.unguided for k in range(count)]
        self.drift = ColourDrift(against)
        self.fidelity = None if self.unguided is None else Fidelity(count, self.unguided)
        self.ghost = None if self.unguided is None else Ghost(count, self.unguided)

    def add(self, source: Frame, stacked: Tensor) -> None:
        """stacked: uint8 [K, 3, H, W], the source first."""
        if self.detector.is_cut(source) or not self.frames:
            self._end_shot()
            self.shots.append(self.frames)
            self.first = source, stacked
        pictures = stacked.float()
        self._compare(source, pictures)
        energy = laplacian_energy(pictures)
        self.energy.add(energy)
        self.energies.add(energy)
        self.drift.add(pictures)
        if self.fidelity is not None:
            self.fidelity.add(pictures)
        self.recent.append((source, stacked))
        self.frames += 1

    def _compare(self, source: Frame, pictures: Tensor) -> None:
        """All measures of this frame against earlier ones; each pair's flow and warp are computed once."""
        flows: dict[int, tuple[Flow, Tensor]] = {}

        def carried(frame: Frame, earlier: Tensor) -> tuple[Flow, Tensor]:
            if frame.index not in flows:
                flow = self.flow(source, frame)
                flows[frame.index] = flow, _warped(earlier.float(), flow)
            return flows[frame.index]

        for lag, errors in self.errors.items():
            partner = self._partner(lag)
            if partner is None:
                errors.skip()
            else:
                flow, warped = carried(*partner)
                errors.add(pictures, warped, _mask(flow))
        if not self.recent:
            self.flicker.skip()
        else:
            before = self.recent[-1]
            flow, warped = carried(*before)
            self.flicker.add(pictures, before[1].float(), flow.uv, _mask(flow))
            if self.ghost is not None:
                self.ghost.add(pictures, warped, dis_occluded(flow))

    def _partner(self, lag: Lag) -> tuple[Frame, Tensor] | None:
        if lag == "first":
            return self.first if self.recent else None
        return self.recent[-lag] if len(self.recent) >= lag else None

    def _end_shot(self) -> None:
        self.recent.clear()
        self.drift.end_shot()
        if self.fidelity is not None:
            self.fidelity.end_shot()

    def report(self, anchors: Mapping[str, Sequence[int]], ended: list[str]) -> Report:
        self._end_shot()
        clips = [self._measures(index, anchors.get(name, ())) for index, name in enumerate(self.names)]
        return Report(self.flow.name, self.frames, self.shots, clips, ended)

    def _measures(self, index: int, anchors: Sequence[int]) -> ClipMeasures:
        energy = [value or 0.0 for value in self.energy.values]
        yardstick = energy[self.unguided or 0]
        judged = index not in (0, self.unguided)
        fidelity = self.fidelity if judged else None
        ghost = self.ghost if judged else None
        return ClipMeasures(
            name=self.names[index],
            warp_error={
                lag: WarpError(errors.l1.values[index], errors.rmse[index], errors.l1.count, errors.curves[index])
                for lag, errors in self.errors.items()
            },
            flicker=self.flicker.mean.values[index],
            laplacian_energy=energy[index],
            sharpness=energy[index] / yardstick if yardstick else None,
            psnr_db=None if fidelity is None else fidelity.psnr_db[index],
            ssim=None if fidelity is None else fidelity.ssim[index],
            colour_drift=self.drift.mean.values[index] if index else None,
            ghost=None if ghost is None else ghost.mean.values[index],
            curves=self._curves(index, fidelity),
            anchors=[position for position in anchors if position < self.frames],
            note=self._note() if index else "",
        )

    def _curves(self, index: int, fidelity: Fidelity | None) -> dict[str, Curve]:
        curves = {"flicker": self.flicker.curves[index]}
        if index != (self.unguided or 0):
            pairs = zip(self.energies[index], self.energies[self.unguided or 0], strict=True)
            curves["sharpness"] = [own / plain if own is not None and plain else None for own, plain in pairs]
        if index:
            curves["colour_drift"] = self.drift.curves[index]
        if fidelity is not None:
            curves["psnr_db"], curves["ssim"] = fidelity.psnr_curves[index], fidelity.ssim_curves[index]
        return curves

    def _note(self) -> str:
        if self.unguided is None:
            return ""
        calm = []
        for lag, errors in self.errors.items():
            floor, plain = errors.l1.values[0], errors.l1.values[self.unguided]
            if floor is not None and plain is not None and plain < NOTHING_TO_STEADY * floor:
                calm.append(str(lag))
        return f"nothing to steady at lag {', '.join(calm)}" if calm else ""


def _mask(flow: Flow) -> Tensor:
    if flow.confidence is None:
        raise UsageError("The metric's estimator should give a confidence with every flow: it is the mask of E_warp.")
    return flow.confidence.float()


def _warped(pictures: Tensor, flow: Flow) -> Tensor:
    return ops.warp(pictures, flow.uv.float()[None].expand(len(pictures), -1, -1, -1).contiguous())


def _inside(flow: Flow) -> Tensor:
    height, width = flow.size
    x = torch.arange(width, device=flow.uv.device) + flow.uv[0]
    y = torch.arange(height, device=flow.uv.device)[:, None] + flow.uv[1]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
