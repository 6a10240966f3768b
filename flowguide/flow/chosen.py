"""Flow, its confidence, its cache and the cuts, as the settings of a run ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..config import RenderConfig
from ..errors import UsageError
from .cache import CachedFlow
from .flowguide_flow import NetworkFlow
from .protocol import FlowEstimator, PairEstimator
from .shot_list import GivenCuts, read_shots
from .shots import CutDetector

FUSED = "fused"
"""Confidence that guidance finds itself, in the same pass as the warp."""
OWN = "own"
"""Confidence that comes out of the flow network with the flow."""


def chosen_flow(config: RenderConfig, device: torch.device) -> FlowEstimator:
    """The estimator that `config` names, networks on `device`. Raises UsageError and UnknownName."""
    from . import estimator

    measure = config.flow_confidence
    options: dict[str, Any] = {"confidence": None if measure == FUSED else measure}
    if measure == OWN and config.flow != NetworkFlow.NAME:
        raise UsageError(f"The flow confidence 'own' is that of {NetworkFlow.NAME}; {config.flow} has none of its own.")
    made = estimator(config.flow, **options)
    if config.flow_runtime != "torch" and not isinstance(made, PairEstimator):
        raise UsageError(f"The flow runtime {config.flow_runtime!r} runs networks; {config.flow} is none.")
    if isinstance(made, PairEstimator):
        made.device = device
        if config.flow_runtime != "torch":
            made.run_by(config.flow_runtime, device)
        if config.flow_cache is not None:
            return CachedFlow(made, Path(config.flow_cache), round(config.flow_cache_gib * 1024**3))
    return made


def chosen_cuts(config: RenderConfig) -> CutDetector | GivenCuts:
    """Cuts as they are found, or as the list of shots that `config` names has them."""
    return CutDetector() if config.shots is None else read_shots(Path(config.shots))
