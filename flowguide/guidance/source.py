"""Strategy `source`: each frame is pulled toward the source and toward the finished frames before it, by weights that
are expressions of time.

The knobs are those of PyTTI's Video Source, which optimised a picture against a sum of losses. Here every loss becomes
its own minimiser beside the model's prediction x̂, at the noise levels at which guidance acts:

    |x − x̂|² + W_direct |x − z_source|² + W_flow c |x − k₀|²
        → x = x̂ + Σ W_i (k_i − x̂) / (1 + Σ |W_i|)

Edges, depth and semantics are properties of the picture, so x̂ is decoded for them (see `source_terms`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import RenderConfig
from ..diffusion.tables import StepTable
from ..errors import UsageError, VideoError
from ..flow import FlowEstimator
from ..masks import MaskFile
from ..timing import StageClock
from ..types import Frame, Guide
from .expressions import Expression
from .previous import Carried
from .references import References

KNOBS = ("direct", "semantic", "edge", "depth", "flow")


@dataclass(frozen=True)
class Strength:
    """A weight at one moment."""

    weight: float
    """Any number; below 0 it pushes away."""
    stop: float | None
    """Loss at which it lets go, or None."""
    mask: Tensor | None
    """[H, W] in [0, 1]: where it holds, or None for everywhere."""

    def map(self, like: Tensor, cell: int) -> Tensor:
        """The weight over latent cells, [h, w], for pictures of the size of `like` [3, H, W]."""
        height, width = like.shape[1] // cell, like.shape[2] // cell
        if self.mask is None:
            return like.new_full((height, width), self.weight)
        down, right = like.shape[1] - self.mask.shape[0], like.shape[2] - self.mask.shape[1]
        whole = F.pad(self.mask[None, None], (0, right, 0, down), mode="replicate").to(like.device)
        return self.weight * F.avg_pool2d(whole, cell)[0, 0]

    def lets_go(self, loss: float) -> bool:
        """Whether the loss is past the stop: below it for a weight that pulls, above it for one that pushes."""
        return self.stop is not None and (loss <= self.stop if self.weight > 0 else loss >= self.stop)


class Knob:
    """A weight as it is written: WEIGHT, WEIGHT_MASKFILE, either with :STOP behind it."""

    def __init__(self, name: str, text: str, config: RenderConfig):
        self._option = f"--{name}-stabilization-weight"
        self._mask: MaskFile | None = None
        expression, underscore, rest = text.partition("_")
        stop = ""
        if underscore:
            file, colon, last = rest.rpartition(":")
            file, stop = (file, last) if colon and not Path(rest).is_file() else (rest, "")
            self._mask = self._mask_of(text, expression, Path(file).expanduser(), config)
        else:
            expression, _, stop = text.partition(":")
        with self._named():
            self.weight = Expression(expression)
            self._stop = Expression(stop) if stop else None

    def _mask_of(self, text: str, expression: str, file: Path, config: RenderConfig) -> MaskFile:
        try:
            return MaskFile(file, f"mask of {self._option}", config)
        except (UsageError, VideoError) as error:
            raise UsageError(
                f"{self._option} {text!r} is the weight {expression!r} where the mask {str(file)!r} is white, and that "
                f"cannot be read: {str(error).rstrip('.')}. As an expression alone it has no underscore in it."
            ) from error

    @contextmanager
    def _named(self) -> Iterator[None]:
        """What is wrong with an expression is told with the option that it is of."""
        try:
            yield
        except UsageError as error:
            raise UsageError(f"{self._option}: {error}") from error

    @property
    def is_plain(self) -> bool:
        """Whether it has neither mask nor stop."""
        return self._mask is None and self._stop is None

    @property
    def is_off(self) -> bool:
        """Whether it is 0 at all times."""
        return self.weight.is_constant and self.weight(0.0) == 0.0

    def at(self, frame: Frame) -> Strength:
        """Its strength at the time of `frame`. Raises UsageError where the expression has no value then."""
        t = frame.seconds
        with self._named():
            weight, stop = self.weight(t), None if self._stop is None else self._stop(t)
        return Strength(weight, stop, None if self._mask is None else self._mask.grey(frame))


def knobs_of(config: RenderConfig) -> dict[str, Knob]:
    """The five weights of `config`. Raises UsageError where one is no expression or its mask cannot be read."""
    return {name: Knob(name, getattr(config, f"{name}_stabilization_weight"), config) for name in KNOBS}


Term = Callable[[Tensor, Tensor, Strength], Tensor]
"""(picture, source, each [3, H, W] in [-1, 1]; strength) -> change of the picture [3, H, W] that lowers the loss."""


@dataclass(frozen=True)
class Aims:
    """What pulls one frame."""

    guide: Guide
    """What is pasted: finished pixels carried here, as under `references`."""
    carried: Carried | None
    source: Tensor
    """[3, H, W] in [-1, 1]"""
    strengths: Mapping[str, Strength]
    reference: Tensor
    filled: Tensor
    uv: Tensor

    @property
    def confident_share(self) -> float:
        """Mean confidence over the frame."""
        return float(self.guide.confidence.mean())


class SourceGuided:
    """State and arithmetic of the strategy; one instance per clip."""

    def __init__(
        self,
        estimator: FlowEstimator,
        config: RenderConfig,
        cell: int,
        clock: StageClock,
        *,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        terms: Mapping[str, Term],
        show: Callable[[Tensor, float], None] | None = None,
    ):
        """encode, decode: pictures [N, 3, H, W] to latents and back. terms: what the picture's own knobs do.
        show: makes the source [3, H, W] the model's image prompt, heard as much as the number says; where it is given,
        the semantic weight goes there."""
        self._knobs = knobs_of(config)
        semantic = self._knobs["semantic"]
        self._show = None if semantic.is_off else show
        if self._show is not None and not semantic.is_plain:
            raise UsageError("The semantic weight is the IP-Adapter's scale here; leave its mask and its stop out.")
        for name, knob in self._knobs.items():
            given = name in terms or (name == "semantic" and self._show is not None)
            if name in _NEEDS and not knob.is_off and not given:
                raise UsageError(_NEEDS[name])
        lags = [2**power for power in range(config.flow_long_term_samples + 1)]
        self._frames = References(estimator, config, cell, clock, lags=lags)
        self._cell, self._encode, self._decode, self._terms = cell, encode, decode, terms
        self.configure(config)

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings; the weights stay."""
        self._config = config
        self._frames.configure(config)

    def carry(self, frame: Frame, source: Tensor) -> Aims | None:
        """What pulls `frame` (source [3, H, W] in [-1, 1]), or None where nothing does."""
        strengths = {name: knob.at(frame) for name, knob in self._knobs.items()}
        if self._show is not None:
            self._show(source, strengths["semantic"].weight)
            strengths["semantic"] = Strength(0.0, None, None)
        flows = not self._knobs["flow"].is_off
        carried = self._frames.carry(frame, source) if flows else None
        if carried is None and not any(strengths[name].weight for name in KNOBS if name != "flow"):
            return None
        if carried is None:
            nothing = torch.zeros_like(source[0])
            still = torch.zeros_like(source[:2])
            return Aims(Guide(source, nothing), None, source, strengths, source, source, still)
        return Aims(carried.guide, carried, source, strengths, carried.reference, carried.filled, carried.uv)

    def latent_guide(self, aims: Aims, k0: Tensor, table: StepTable) -> SourcePull:
        """The sampler's pull; `k0` [1, C, h, w] is the encoded prior."""
        certain = aims.guide.confidence
        least = -F.max_pool2d(-certain[None], self._cell)[0]
        flow = aims.strengths["flow"]
        weights = {
            "flow": flow.map(aims.source, self._cell) * least,
            "direct": aims.strengths["direct"].map(aims.source, self._cell),
        }
        at_source = k0 if aims.carried is None else self._encode(aims.source[None])
        return SourcePull(
            share=[float(value) for value in table.share],
            latents={"flow": k0, "direct": at_source},
            weights=weights,
            aims=aims,
            terms={name: term for name, term in self._terms.items() if aims.strengths[name].weight},
            cell=self._cell,
            encode=self._encode,
            decode=self._decode,
        )

    def finish(self, generated: Tensor, aims: Aims) -> Tensor:
        """The finished picture [3, H, W]: carried pixels as far as the flow's weight goes, at most wholly."""
        if aims.carried is None:
            return generated
        return self._frames.finish(generated, self._pasted(aims))

    def _pasted(self, aims: Aims) -> Any:
        """What is carried, its confidence lowered where the flow's weight is below 1."""
        assert aims.carried is not None
        cells = aims.strengths["flow"].map(aims.source, self._cell).clamp(0.0, 1.0)
        share = F.interpolate(cells[None, None], tuple(aims.source.shape[1:]), mode="nearest")[0, 0]
        guide = Guide(aims.guide.prior, aims.guide.confidence * share)
        return replace(aims.carried, guide=guide)

    def remember(self, frame: Frame, source: Tensor, finished: Tensor, aims: Aims | None) -> None:
        """Keep what the next frames need."""
        if not self._knobs["flow"].is_off:
            carried = None if aims is None or aims.carried is None else self._pasted(aims)
            self._frames.remember(frame, source, finished, carried)

    def state(self) -> dict[str, Any]:
        """What `restore` needs to guide the next frame; empty where it begins anew."""
        return self._frames.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._frames.restore(state)

    def forget(self) -> None:
        """Start anew at the next frame."""
        self._frames.forget()


@dataclass(frozen=True)
class SourcePull:
    """The pull at each step; see the module's formula."""

    share: Sequence[float]
    """How far guidance acts at each step, in [0, 1]."""
    latents: Mapping[str, Tensor]
    """What the knobs flow and direct pull toward, [1, C, h, w]."""
    weights: Mapping[str, Tensor]
    """How strongly, [h, w]."""
    aims: Aims
    terms: Mapping[str, Term]
    cell: int
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]

    def __call__(self, step: int, x0: Tensor) -> tuple[Tensor, Tensor]:
        """(where x0 [1, C, h, w] is pulled to, weight [1, h, w]) at `step`."""
        share = torch.full_like(x0[:, 0], self.share[step])
        if not self.share[step]:
            return x0, share
        change, total = torch.zeros_like(x0), torch.zeros_like(x0[0, 0])
        for name, latent in self.latents.items():
            weight = self._weight(name, latent, x0)
            change = change + weight * torch.where(weight != 0, latent - x0, 0.0)
            total = total + weight.abs()
        change = change / (1.0 + total)
        if self.terms:
            change = change + self._by_picture(x0)
        return x0 + change, share

    def _weight(self, name: str, latent: Tensor, x0: Tensor) -> Tensor:
        """[h, w]; as much of the pull as leaves the mean squared difference at the stop."""
        weight, strength = self.weights[name], self.aims.strengths[name]
        if strength.stop is None or not strength.weight:
            return weight
        loss = float((latent - x0).square().mean())
        if strength.lets_go(loss):
            return torch.zeros_like(weight)
        if strength.weight < 0 or strength.stop <= 0:
            return weight
        most = 1.0 - (strength.stop / loss) ** 0.5
        return weight.clamp_max(most / max(1.0 - most, 1e-6))

    def _by_picture(self, x0: Tensor) -> Tensor:
        """The change of the latent [1, C, h, w] that the picture's own knobs ask for."""
        picture = self.decode(x0)[0].clone()
        wanted = picture
        for name, term in self.terms.items():
            wanted = wanted + term(picture, self.aims.source, self.aims.strengths[name])
        both = self.encode(torch.stack([picture, wanted.clamp(-1.0, 1.0)]))
        return both[1:] - both[:1]  # the autoencoder's own error is in both


_NEEDS = {
    "depth": "depth_stabilization_weight needs a depth network: give --depth-model FILE.onnx.",
    "semantic": "semantic_stabilization_weight needs something that sees what is in a picture: give --ip-adapter FILE "
    "without --ip-image, or --clip-model FOLDER with a CLIP image encoder.",
}
