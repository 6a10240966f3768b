"""The network as a function: latents, timestep and condition in, the model's output out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .conditioning import Condition
from .runtimes import PlainControlNet, PlainUNet, Runtimes


@dataclass(frozen=True)
class Control:
    """A ControlNet and how much of it is heard."""

    network: Any
    scale: float = 1.0


class Denoiser:
    """The UNet with what is plugged into it. Calls are (latents, timestep, condition) -> output [N, C, h, w].

    A timestep is one number, or a tensor [N] with one for each row.
    """

    def __init__(self, unet: Any, controls: tuple[Control, ...] = (), runtimes: Runtimes | None = None):
        """runtimes: what runs the networks; default: they are called as they are."""
        self.unet = unet
        self.controls = controls
        self.runtimes = runtimes

    @torch.inference_mode()
    def __call__(self, latents: Tensor, timestep: float | Tensor, condition: Condition) -> Tensor:
        """latents: scaled input [N, C, h, w]; condition: N rows. Returns ε, v, x0 or u, as the checkpoint predicts."""
        seen: dict[str, Any] = {}
        if condition.pooled is not None:
            seen |= {"text_embeds": condition.pooled, "time_ids": condition.size}
        if condition.image:
            seen["image_embeds"] = list(condition.image)
        down, middle = self._control(latents, timestep, condition, seen)
        if condition.inpaint is not None:
            latents = torch.cat([latents, condition.inpaint], dim=1)
        if self.runtimes is not None:
            residuals = {f"down{place}": part for place, part in enumerate(down or ())}
            beside = residuals if middle is None else {**residuals, "middle": middle}
            given = {**_named(latents, timestep, condition, seen), **beside}
            return self.runtimes("unet", PlainUNet(self.unet, tuple(given)), given, ("output",))[0]
        output: Tensor = self.unet(
            latents,
            timestep,
            encoder_hidden_states=condition.text,
            timestep_cond=condition.scale,
            added_cond_kwargs=seen or None,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        return output

    def _control(
        self, latents: Tensor, timestep: float | Tensor, condition: Condition, seen: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...] | None, Tensor | None]:
        """The sum of what the ControlNets add to the UNet's skip connections and to its middle."""
        down: tuple[Tensor, ...] | None = None
        middle: Tensor | None = None
        told = {key: value for key, value in seen.items() if key != "image_embeds"}
        for place, (control, hint) in enumerate(zip(self.controls, condition.hints, strict=True)):
            if self.runtimes is not None:
                given = {**_named(latents, timestep, condition, told), "hint": hint.to(latents.dtype)}
                count = len(control.network.controlnet_down_blocks)
                names = (*(f"down{number}" for number in range(count)), "middle")
                plain = PlainControlNet(control.network, tuple(given))
                made = [part * control.scale for part in self.runtimes(f"controlnet{place}", plain, given, names)]
                more_down, more_middle = made[:-1], made[-1]
            else:
                more_down, more_middle = control.network(
                    latents,
                    timestep,
                    encoder_hidden_states=condition.text,
                    controlnet_cond=hint.to(latents.dtype),
                    conditioning_scale=control.scale,
                    added_cond_kwargs=told or None,
                    return_dict=False,
                )
            if down is None or middle is None:
                down, middle = tuple(more_down), more_middle
            else:
                down = tuple(a + b for a, b in zip(down, more_down, strict=True))
                middle = middle + more_middle
        return down, middle


def _named(latents: Tensor, timestep: float | Tensor, condition: Condition, seen: dict[str, Any]) -> dict[str, Tensor]:
    """What a network is told, by the names that an engine knows."""
    told = timestep if isinstance(timestep, Tensor) else torch.full((1,), timestep, device=latents.device)
    named = {"sample": latents, "timestep": told, "text": condition.text}
    if condition.scale is not None:
        named["scale"] = condition.scale
    if "text_embeds" in seen:
        named |= {"pooled": seen["text_embeds"], "size": seen["time_ids"]}
    return {**named, **{f"image{place}": image for place, image in enumerate(seen.get("image_embeds", ()))}}
