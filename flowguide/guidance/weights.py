"""How strongly each step is pulled toward the guide: schedules by name, number, picture or a user's function.

A schedule gives a base weight per step and latent cell; the pull is that times the confidence, so that confidence 0
is no guidance whatever the schedule says.
"""

from __future__ import annotations

import importlib.util
import linecache
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.tables import StepTable, few_step_pull
from ..errors import ScheduleError, UnknownName, UsageError


@dataclass(frozen=True)
class WeightInputs:
    """What a schedule may look at."""

    distance_px: Tensor
    """Length of the flow, float [H, W] in pixels."""
    confidence: Tensor
    """float [H, W] in [0, 1]."""
    latent_size: tuple[int, int]
    """(h, w) of the latent grid."""
    strength: float


WeightSchedule = Callable[[StepTable, WeightInputs], Tensor]
"""-> base weight [steps, h, w] in [0, 1]."""


def share(table: StepTable, inputs: WeightInputs) -> Tensor:
    """Full at high noise, none at low noise: the mean of the guidance curve over each step (`tables.noise_share`)."""
    return _per_step(table.share, inputs)


def constant(value: float) -> WeightSchedule:
    """The same weight at every step and cell."""
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"flow_weight as a number should be between 0 and 1, got {value}.")
    return lambda table, inputs: _per_step(np.full(len(table), value), inputs)


def few_step(table: StepTable, inputs: WeightInputs) -> Tensor:
    """For models of one to four steps, beside init blend: full at the first, halved at each next, none at the last."""
    return _per_step(few_step_pull(len(table)), inputs)


def picture(path: Path) -> WeightSchedule:
    """A weight map from a picture file: black is 0, white is 1; resized to the frame."""
    import cv2

    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise UsageError(f"The weight map {path} is not a picture that can be read.")
    values = torch.from_numpy(grey).float()[None, None] / 255.0

    def schedule(table: StepTable, inputs: WeightInputs) -> Tensor:
        resized = F.interpolate(values, inputs.latent_size, mode="area")[0]
        return resized.to(inputs.confidence.device).expand(len(table), -1, -1)

    return schedule


def by_distance(early: float, late: float, far: float, threshold_px: float) -> WeightSchedule:
    """The seed's rule: `early` for the first 80 % of the executed steps, then `late`; `far` where the flow is long."""

    def schedule(table: StepTable, inputs: WeightInputs) -> Tensor:
        moved = inputs.distance_px > threshold_px
        maps = []
        for step in range(len(table)):
            near = early if (step + 1) / len(table) < 0.8 else late
            maps.append(_pooled(torch.where(moved, far, near), inputs))
        return torch.stack(maps)

    return schedule


SCHEDULES: dict[str, WeightSchedule] = {
    "share": share,
    "few-step": few_step,
    "seed-farneback": by_distance(early=0.6, late=0.4, far=0.1, threshold_px=1.5),
    "seed-raft": by_distance(early=0.7, late=0.5, far=0.05, threshold_px=8.0),
}


def user_function(path: Path, name: str) -> WeightSchedule:
    """A user's `name(progress, aux)` from the Python file `path`.

    progress: (step + 1) / executed steps, in (0, 1]. aux: dist_mat [H, W] flow length in pixels, mean_dist its mean,
    confidence [H, W], strength. Returns a number or an array [H, W], both in [0, 1].
    Raises ScheduleError that names the file and line where the function raised, or what was wrong with its result.
    """
    function = _load_function(path, name)

    def schedule(table: StepTable, inputs: WeightInputs) -> Tensor:
        distance = inputs.distance_px.cpu().numpy()
        aux = {
            "dist_mat": distance,
            "mean_dist": float(distance.mean()),
            "confidence": inputs.confidence.cpu().numpy(),
            "strength": inputs.strength,
        }
        maps = []
        for step in range(len(table)):
            progress = (step + 1) / len(table)
            try:
                result = function(progress, dict(aux))
            except Exception as error:
                raise ScheduleError(f"{name} in {path} raised {_where(error, path)}") from error
            maps.append(_pooled(_checked(result, distance.shape, f"{name} in {path}:{_line(function)}"), inputs))
        return torch.stack(maps)

    return schedule


def weight_schedule(text: str) -> WeightSchedule:
    """The schedule that `text` names: a number, a name of SCHEDULES, FILE.py:FUNCTION, or a picture file."""
    try:
        return constant(float(text))
    except ValueError:
        pass
    if text in SCHEDULES:
        return SCHEDULES[text]
    file, colon, function = text.rpartition(":")
    if colon and file.endswith(".py"):
        return user_function(Path(file), function)
    if Path(text).suffix:
        return picture(Path(text))
    raise UnknownName("flow_weight", text, [*SCHEDULES, "a number", "FILE.py:FUNCTION", "a picture file"])


def _per_step(values: Any, inputs: WeightInputs) -> Tensor:
    weights = torch.as_tensor(np.asarray(values), dtype=torch.float32, device=inputs.confidence.device)
    return weights.view(-1, 1, 1).expand(-1, *inputs.latent_size)


def _pooled(weight: Tensor, inputs: WeightInputs) -> Tensor:
    """Area mean of a pixel map over the latent cells, [h, w]."""
    return F.adaptive_avg_pool2d(weight[None].float(), inputs.latent_size)[0].to(inputs.confidence.device)


def _checked(result: Any, shape: tuple[int, ...], who: str) -> Tensor:
    try:
        array = np.asarray(result, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ScheduleError(
            f"{who} should return a number or an array {shape}, got {type(result).__name__}."
        ) from error
    if array.shape not in ((), shape):
        raise ScheduleError(f"{who} should return a number or an array {shape}, got an array {array.shape}.")
    if not np.isfinite(array).all() or array.min() < 0.0 or array.max() > 1.0:
        raise ScheduleError(f"{who} should return weights in [0, 1], got {array.min():.3g} to {array.max():.3g}.")
    return torch.from_numpy(np.broadcast_to(array, shape).copy())


def _load_function(path: Path, name: str) -> Callable[[float, dict[str, Any]], Any]:
    if not path.is_file():
        raise UsageError(f"The schedule file {path} does not exist.")
    spec = importlib.util.spec_from_file_location("flowguide_user_schedule", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ScheduleError(f"{path} could not be loaded: {_where(error, path)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownName(f"function in {path}", name, known)
    return function  # type: ignore[no-any-return]


def _line(function: Callable[..., Any]) -> int:
    code = getattr(function, "__code__", None)
    return code.co_firstlineno if code else 1


def _where(error: Exception, path: Path) -> str:
    """'TypeName: message at FILE:LINE: source line', the innermost place inside `path`."""
    line = 0
    for entry in traceback.extract_tb(error.__traceback__):
        if entry.filename == str(path):
            line = entry.lineno or 0
    if isinstance(error, SyntaxError):
        line = error.lineno or 0
    source = linecache.getline(str(path), line).strip()
    return f"{type(error).__name__}: {error} at {path}:{line}: {source}"
