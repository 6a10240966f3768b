"""One frame at a time through guidance and model: what is carried to it, what is painted, what is pasted."""

from __future__ import annotations

from torch import Tensor

from . import ops
from .config import RenderConfig
from .diffusion.image_to_image import Known, NoiseKey
from .diffusion.programs import programs_of
from .diffusion.sampling import LatentGuide
from .guidance.frame_by_frame import CarriedPixels, FrameByFrame
from .later import Parts
from .types import Frame


class OneByOne:
    """A strategy that guides each frame by finished ones, with the model that paints it."""

    def __init__(self, guidance: FrameByFrame, config: RenderConfig, parts: Parts):
        self.guidance = guidance
        self._model, self._init, self._device = parts.model, parts.init, parts.checkpoint.device
        self._clock, self._on_step = parts.clock, parts.on_step
        self.programs = programs_of(config, parts.model, parts.on_step)
        """Whole frames as one recording each; None where each network is called by itself."""
        self.packed: Tensor | None = None
        """The last finished picture as uint8 [3, H, W], where its program made it."""
        self.configure(config)

    def configure(self, config: RenderConfig) -> None:
        """Take over changed settings; the state stays."""
        self.guidance.configure(config)
        if self.programs is not None:
            self.programs.configure(config)
        self._config = config

    @property
    def follows(self) -> bool:
        """Whether the flow is asked for."""
        return self._config.guidance or self._config.noise == "carried"

    def source(self, whole: Frame) -> Tensor:
        """The padded frame as the model sees it, [3, H, W] in [-1, 1]."""
        with self._clock("colour"):
            return ops.to_model(whole.rgb[None].to(self._device))[0]

    def __call__(self, whole: Frame, shot: int) -> tuple[Tensor, CarriedPixels | None]:
        """The finished picture [3, H, W] of the padded frame, and what guided it; the next frame knows it."""
        source = self.source(whole)
        moved = self.guidance.carry(whole, source) if self.follows else None
        carried = moved if self._config.guidance else None
        key, uv = NoiseKey(shot, whole.index), None if moved is None else moved.uv
        finished = self._by_program(whole, source, carried, key, uv)
        if finished is None:
            finished = self._painted(source, carried, key, uv)
        self.guidance.remember(whole, source, finished, carried)
        self._init.remember(finished, shot)
        return finished, carried

    def _by_program(
        self, whole: Frame, source: Tensor, carried: CarriedPixels | None, key: NoiseKey, uv: Tensor | None
    ) -> Tensor | None:
        """The finished picture as one program makes it; None where there is none."""
        self.packed = None
        if self.programs is None:
            return None
        weights = None
        if carried is not None:
            like = self._model.latent_like(source[None])
            guide = self.guidance.latent_guide(carried, like, self._model.table)
            assert isinstance(guide, LatentGuide)
            weights = guide.weights
        with self._clock("frame"):
            made = self.programs(whole.rgb, key, source, None if uv is None else uv[None], carried, weights)
        if made is None:
            self.programs = None
            return None
        picture, self.packed = made
        return picture

    def _painted(self, source: Tensor, carried: CarriedPixels | None, key: NoiseKey, uv: Tensor | None) -> Tensor:
        guide, k0, confidence, known = None, None, None, None
        if carried is not None:
            k0, confidence = self._model.encode(carried.filled[None]), carried.guide.confidence
            guide = self.guidance.latent_guide(carried, k0, self._model.table)
            known = Known(carried.filled[None], (confidence < 0.5).float()[None, None])
        start = self._init(source[None], key.shot, k0, confidence)
        latents = self._model.denoise(
            start,
            key,
            guide,
            self._on_step,
            picture=source[None],
            flow=None if uv is None else uv[None],
            known=known,
        )
        generated = self._model.decode(latents)[0]
        return generated if carried is None else self.guidance.finish(generated, carried)
