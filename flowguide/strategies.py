"""Strategies by name: what guides each frame by finished ones, and what gives frames out later than it takes them."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from . import ops
from .anchored import AnchoredFrames
from .config import RenderConfig, changed
from .diffusion.checkpoint import Checkpoint
from .diffusion.image_to_image import ImageToImage
from .errors import UsageError
from .flow import FlowEstimator
from .guidance.frame_by_frame import FrameByFrame
from .guidance.paths import PathFinder
from .guidance.previous import PreviousFrame
from .guidance.references import References
from .guidance.seed_v1 import SeedV1
from .guidance.source import SourceGuided, knobs_of
from .guidance.source_terms import terms_of
from .joint import JointFrames
from .later import Later, Parts
from .passes import Passes
from .step_aligned import StepAlignedFrames
from .timing import StageClock

GUIDANCE: dict[str, Callable[[FlowEstimator, RenderConfig, int, StageClock], FrameByFrame]] = {
    "previous": PreviousFrame,
    "references": References,
    "seed-v1": SeedV1,
}
LATER: dict[str, Callable[..., Later]] = {
    "anchors": AnchoredFrames,
    "joint": JointFrames,
    "step-aligned": StepAlignedFrames,
}
IN_PASSES = ("previous", "references")
OF_ONE_STRATEGY = {
    "reference_lags": "references",
    "joint_every": "joint",
    "anchors": "anchors",
    "anchor_frames": "anchors",
    **dict.fromkeys(
        (
            *(f"{kind}_stabilization_weight" for kind in ("direct", "semantic", "edge", "depth", "flow")),
            "flow_long_term_samples",
        ),
        "source",
    ),
    "reencode_each_frame": "source",
}
"""Option -> the strategy that alone reads it."""

log = logging.getLogger(__name__)


def guidance_of(config: RenderConfig, parts: Parts) -> FrameByFrame:
    """What guides single frames; of a strategy that works on several at once, `previous`."""
    if config.strategy == "source":
        return SourceGuided(
            parts.flow,
            config,
            parts.cell,
            parts.clock,
            encode=parts.model.encode,
            decode=parts.model.decode,
            terms=terms_of(config, parts.checkpoint.device),
            show=_image_prompt(config, parts.checkpoint, parts.model),
        )
    made = GUIDANCE.get(config.strategy, PreviousFrame)
    return made(parts.flow, config, parts.cell, parts.clock)


def _image_prompt(
    config: RenderConfig, checkpoint: Checkpoint, model: ImageToImage
) -> Callable[[Tensor, float], None] | None:
    """What makes a picture [3, H, W] the model's image prompt; None without an IP-Adapter that is free for it."""
    prompts = checkpoint.image_prompts
    if prompts is None or checkpoint.image_prompt:
        return None
    if knobs_of(config)["semantic"].is_off:
        raise UsageError("An IP-Adapter needs a picture: give --ip-image FILE, or a semantic_stabilization_weight.")
    if config.lanes > 1:
        raise UsageError("The semantic weight is one scale for the whole model; leave --lanes at 1.")

    def show(picture: Tensor, scale: float) -> None:
        from PIL import Image

        prompts.scale(scale)
        rgb = ops.from_model(picture[None])[0]
        assert isinstance(rgb, Tensor)
        model.image_prompt = prompts(Image.fromarray(rgb.permute(1, 2, 0).cpu().numpy()))

    return show


def beginning_of(config: RenderConfig) -> RenderConfig:
    """`config` as the initial latent reads it. Raises UsageError where two options say where a frame begins."""
    if config.strategy != "source" or config.reencode_each_frame:
        return config
    if config.init != "source":
        raise UsageError(
            f"init {config.init!r} says what a frame begins from, and so does reencode_each_frame = false."
        )
    return changed(config, init="blend", init_weight=1.0)


def read_ahead(config: RenderConfig) -> int:
    """Frames whose flow is found ahead. Under `anchors` as many as may wait for one: while it is painted, nothing else
    needs the other cores."""
    most = config.anchor_frames if config.strategy == "anchors" else 0
    return max(config.lookahead, most) if config.lookahead else 0


def estimator_ahead(config: RenderConfig, estimator: FlowEstimator, device: torch.device) -> FlowEstimator:
    """What finds flow ahead; under `anchors` also the paths that both directions agree on, if another core does it."""
    return PathFinder(estimator) if config.strategy == "anchors" and device.type == "cpu" else estimator


def later_of(config: RenderConfig, parts: Parts) -> Later | None:
    """The strategy of `config` where it needs frames ahead. Raises UsageError for settings that exclude each other."""
    _tell_of_unused(config)
    if not config.guidance:
        return None
    if config.passes > 1:
        if config.strategy not in IN_PASSES:
            raise UsageError(
                f"Several passes are made with the strategies {' and '.join(IN_PASSES)}; {config.strategy!r} has one; "
                "leave --passes at 1."
            )
        return Passes(config, parts, GUIDANCE[config.strategy])
    made = LATER.get(config.strategy)
    return None if made is None else made(config, parts)


def _tell_of_unused(config: RenderConfig) -> None:
    for option, strategy in OF_ONE_STRATEGY.items():
        if config.strategy != strategy and getattr(config, option) != RenderConfig.model_fields[option].default:
            name = option.replace("_", "-")
            log.warning("--%s belongs to the strategy %s; %s does not read it.", name, strategy, config.strategy)
