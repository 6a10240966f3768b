"""Inputs for the shared test of every implementation of every operation: operation -> case name -> builder.

A builder takes a generator and a dtype and returns the keyword arguments of the operation. Every float tensor is exact
in that dtype, so that the same numbers in float64 give the truth.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

if not torch.cuda.is_available():  # before any kernel is imported: triton decides when it decorates
    os.environ.setdefault("TRITON_INTERPRET", "1")

from flowguide import ops

Arguments = dict[str, Any]
Builder = Callable[[Generator, torch.dtype], Arguments]
ODD = (2, 63, 97)


def normal(g: Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, generator=g).to(dtype)


def uniform(g: Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.rand(shape, generator=g).to(dtype)


def picture(g: Generator, dtype: torch.dtype, n: int, height: int, width: int, channels: int = 3) -> Tensor:
    return uniform(g, torch.float32, n, channels, height, width).mul(2).sub(1).to(dtype)


def smooth(g: Generator, dtype: torch.dtype, n: int, height: int, width: int, size_px: float = 4) -> Tensor:
    coarse = torch.randn(n, 2, height // 16 + 2, width // 16 + 2, generator=g) * size_px
    field = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic") + size_px / 3
    return field.to(dtype)


def holed(g: Generator, values: Tensor, share: float = 0.1, hole: float = float("nan")) -> Tensor:
    lost = torch.rand(values.shape, generator=g) < share
    return torch.where(lost, torch.tensor(hole, dtype=values.dtype), values)


def extreme(g: Generator, dtype: torch.dtype, n: int, height: int, width: int) -> Tensor:
    choices = torch.tensor([-3e38, -70000.0, -300.0, -0.5, 0.5, 300.0, 70000.0, 3e38, float("inf")]).to(dtype)
    return choices[torch.randint(0, len(choices), (n, 2, height, width), generator=g)]


def warp_case(size: tuple[int, int, int], flow: str, mode: str, border: str) -> Builder:
    def build(g: Generator, dtype: torch.dtype) -> Arguments:
        fields = {
            "smooth": lambda: smooth(g, dtype, *size),
            "wild": lambda: normal(g, dtype, size[0], 2, *size[1:]) * 40,
            "extreme": lambda: extreme(g, dtype, *size),
            "nan": lambda: holed(g, smooth(g, dtype, *size)),
            "transposed": lambda: smooth(g, dtype, size[0], size[2], size[1]).transpose(2, 3),
        }
        image = picture(g, dtype, *size)
        if flow == "transposed":
            image = picture(g, dtype, size[0], size[2], size[1]).transpose(2, 3)
        return {"image": image, "flow": fields[flow](), "mode": mode, "border": border}

    return build


def warp_cases() -> dict[str, Builder]:
    cases = {}
    for mode in ops.MODES:
        for border in ops.BORDERS:
            cases[f"{mode} {border}"] = warp_case(ODD, "wild", mode, border)
        for flow in ("smooth", "extreme", "nan", "transposed"):
            cases[f"{mode} {flow}"] = warp_case(ODD, flow, mode, "edge")
        for size in ((1, 1, 1), (1, 2, 3), (3, 1, 40)):
            cases[f"{mode} {size}"] = warp_case(size, "smooth", mode, "reflect")
    return cases


def predict_case(size: tuple[int, int, int], flow: str = "smooth", given: str = "", **settings: Any) -> Builder:
    def build(g: Generator, dtype: torch.dtype) -> Arguments:
        forth = smooth(g, dtype, *size)
        if flow == "wild":
            forth = normal(g, dtype, size[0], 2, *size[1:]) * 40
        if flow == "extreme":
            forth = extreme(g, dtype, *size)
        back = (-forth + normal(g, dtype, size[0], 2, *size[1:]) * 0.2).clamp(-1e4, 1e4)
        if flow == "nan":
            forth, back = holed(g, forth, 0.01), holed(g, back, 0.01)
        made: Arguments = {"reference": picture(g, dtype, *size), "flow": forth, "flow_back": back}
        if "sources" in given:
            made["source_at"] = picture(g, dtype, *size)
            made["source_to"] = (made["source_at"] + normal(g, dtype, size[0], 3, *size[1:]) * 0.05).to(dtype)
        if "confidence" in given:
            made["given_confidence"] = holed(g, uniform(g, dtype, *size))
            made["flow_back"] = None
        return made | settings

    return build


def compose_case(size: tuple[int, int, int], flow: str) -> Builder:
    def build(g: Generator, dtype: torch.dtype) -> Arguments:
        first, second = smooth(g, dtype, *size), smooth(g, dtype, *size)
        if flow == "nan":
            first, second = holed(g, first, 0.02), holed(g, second, 0.02)
        if flow == "alone":
            return {"flow_ab": first, "flow_bc": second}
        one, two = uniform(g, dtype, *size), holed(g, uniform(g, dtype, *size), 0.02)
        return {"flow_ab": first, "flow_bc": second, "confidence_ab": one, "confidence_bc": two}

    return build


def composite_case(size: tuple[int, int, int], references: int, rule: str) -> Builder:
    def build(g: Generator, dtype: torch.dtype) -> Arguments:
        n, height, width = size
        confidences = uniform(g, dtype, n, references, height, width)
        confidences[confidences < 0.3] = 0
        priors = picture(g, dtype, n * references, height, width).view(n, references, 3, height, width)
        priors = torch.where(confidences[:, :, None] > 0, priors, torch.tensor(float("nan"), dtype=dtype))
        return {"priors": priors, "confidences": confidences, "rule": rule}

    return build


def fill_case(size: tuple[int, int, int], known: float) -> Builder:
    def build(g: Generator, dtype: torch.dtype) -> Arguments:
        confidence = uniform(g, dtype, *size)
        confidence[torch.rand(size, generator=g) >= known] = 0
        confidence[confidence > 0.5] = 1
        prior = picture(g, dtype, *size)
        prior = torch.where(confidence[:, None] > 0, prior, torch.tensor(float("nan"), dtype=dtype))
        return {"prior": prior, "confidence": confidence}

    return build


def step_case(size: tuple[int, int, int, int], parts: str, erode: bool = True) -> Builder:
    def build(g: Generator, dtype: torch.dtype) -> Arguments:
        n, _, height, width = size
        made: Arguments = {"x": normal(g, dtype, *size), "model_output": normal(g, dtype, *size), "erode": erode}
        if "uncond" in parts:
            made["model_output_uncond"] = normal(g, dtype, *size)
        if "guide" in parts:
            made["weight"] = holed(g, uniform(g, dtype, n, height, width), 0.2, 0.0)
            made["k0"] = normal(g, dtype, *size)
        if "history" in parts:
            made["x0_prev"] = normal(g, dtype, *size)
            made["noise"] = normal(g, dtype, *size)
        sigma = [0.9 / (row + 1) for row in range(n)]  # a noise level of its own for each row
        made["coefficients"] = [
            ops.StepRow(
                *(1 / (1 - s * s) ** 0.5, -s / (1 - s * s) ** 0.5, 0.7, 0.3 * s),
                *((0.1, 0.2) if "history" in parts else (0.0, 0.0)),
                *(0.8 * s, 2.5, 1.2 if "clip" in parts else 0.0),
            )
            for s in sigma
        ]
        return made

    return build


def noise_case(size: tuple[int, int, int], cell: int, flow: str) -> Builder:
    def build(g: Generator, dtype: torch.dtype) -> Arguments:
        n, height, width = size
        field = smooth(g, dtype, *size, size_px=6)
        if flow == "nan":
            field = holed(g, field)
        if flow == "gathered":  # all targets address one source
            field = torch.zeros(n, 2, height, width, dtype=dtype)
            field[:, 0] -= torch.arange(width).to(dtype) - 3
            field[:, 1] -= torch.arange(height).to(dtype)[:, None] - 2
        fresh = normal(g, dtype, n, 4, height, width)
        return {"noise": normal(g, dtype, n, 4, height, width), "flow": field, "fresh": fresh, "cell": cell}

    return build


def paste_case(size: tuple[int, int, int], **settings: Any) -> Builder:
    def build(g: Generator, dtype: torch.dtype) -> Arguments:
        n, height, width = size
        confidence = torch.nn.functional.interpolate(
            (torch.rand(n, 1, height // 20 + 1, width // 20 + 1, generator=g) * 3 - 1).clamp(0, 1), (height, width)
        )[:, 0].to(dtype)
        prior = torch.where(confidence[:, None] > 0, picture(g, dtype, *size), torch.tensor(float("nan"), dtype=dtype))
        return {"generated": picture(g, dtype, *size), "prior": prior, "confidence": confidence} | settings

    return build


def surface_case(layout: str, shape: tuple[int, int, int], **settings: Any) -> Builder:
    def build(g: Generator, dtype: torch.dtype) -> Arguments:
        n, height, width = shape
        made: Arguments = settings | {"dtype": dtype}
        if layout == "packed":
            packed = torch.randint(0, 256, (n, height, width, 3), generator=g, dtype=torch.uint8)
            return made | {"surface": packed.permute(0, 3, 1, 2)}
        if layout == "rgb":
            return made | {"surface": torch.randint(0, 256, (n, 3, height, width), generator=g, dtype=torch.uint8)}
        pairs = (n, (height + 1) // 2, (width + 1) // 2, 2)
        planes = [torch.randint(0, 256, shape, generator=g, dtype=torch.uint8) for shape in ((n, height, width), pairs)]
        if layout == "p010":
            planes = [(p.int() * 4 + 1 << 6).to(torch.uint16) for p in planes]
        return made | {"surface": planes[0], "chroma": planes[1]}

    return build


def stored_case(layout: str, shape: tuple[int, int, int], **settings: Any) -> Builder:
    def build(g: Generator, dtype: torch.dtype) -> Arguments:
        image = (picture(g, torch.float32, *shape) * 1.2).to(dtype)
        return settings | {"image": holed(g, image, 0.01), "layout": layout}

    return build


CASES: dict[str, dict[str, Builder]] = {
    "warp": warp_cases(),
    "predict": {
        "checked": predict_case(ODD),
        "bilinear": predict_case(ODD, mode="bilinear"),
        "wild": predict_case(ODD, "wild"),
        "extreme": predict_case(ODD, "extreme"),
        "nan": predict_case(ODD, "nan", "sources"),
        "sources": predict_case(ODD, given="sources"),
        "given confidence": predict_case(ODD, given="confidence"),
        "given confidence and sources": predict_case(ODD, given="confidence sources"),
        "another cell": predict_case((1, 33, 70), cell=5),
        "no boundary": predict_case(ODD, settings=ops.ConfidenceSettings(boundary=False, softness=1.0)),
        "one pixel": predict_case((1, 1, 1)),
        "one line": predict_case((1, 1, 40), given="sources"),
    },
    "compose": {
        "both confidences": compose_case(ODD, "smooth"),
        "no confidence": compose_case(ODD, "alone"),
        "nan": compose_case(ODD, "nan"),
        "one pixel": compose_case((1, 1, 1), "smooth"),
    },
    "composite": {
        f"{rule} of {k} {size}": composite_case(size, k, rule)
        for rule in ("mean", "best")
        for k, size in ((1, ODD), (4, ODD), (3, (1, 1, 1)))
    },
    "fill": {
        "few holes": fill_case(ODD, 0.9),
        "few known": fill_case(ODD, 0.02),
        "nothing known": fill_case(ODD, 0.0),
        "one line": fill_case((2, 1, 37), 0.3),
        "one pixel": fill_case((1, 1, 1), 1.0),
    },
    "guided_step": {
        "plain": step_case((3, 4, 9, 13), ""),
        "everything": step_case((3, 4, 9, 13), "uncond guide history clip"),
        "guided": step_case((2, 4, 16, 16), "guide"),
        "not eroded": step_case((2, 4, 17, 5), "guide uncond", erode=False),
        "one cell": step_case((1, 4, 1, 1), "guide history"),
    },
    "carry_noise": {
        "smooth": noise_case((2, 64, 96), 8, "smooth"),
        "nan": noise_case((1, 24, 40), 4, "nan"),
        "gathered": noise_case((1, 8, 24), 8, "gathered"),
        "one sample": noise_case((1, 1, 1), 1, "smooth"),
    },
    "paste": {
        "feather": paste_case(ODD),
        "multiband": paste_case(ODD, rule="multiband", feather_px=2),
        "hard": paste_case(ODD, feather_px=0),
        "light": paste_case(ODD, weight=0.6, feather_px=3),
        "wider than the picture": paste_case((1, 5, 7), feather_px=9),
        "one pixel": paste_case((1, 1, 1), rule="multiband"),
    },
    "to_model": {
        "rgb": surface_case("rgb", ODD),
        "packed": surface_case("packed", ODD, pad_to=8),
        "smaller": surface_case("rgb", ODD, size=(20, 31), pad_to=16),
        "larger": surface_case("packed", (1, 9, 13), size=(31, 33)),
        "nv12": surface_case("nv12", ODD, matrix="bt601"),
        "nv12 full range": surface_case("nv12", (2, 64, 64), full_range=True, pad_to=3),
        "nv12 smaller": surface_case("nv12", ODD, size=(40, 50)),
        "p010": surface_case("p010", ODD, matrix="bt2020"),
        "one pixel": surface_case("nv12", (1, 1, 1)),
    },
    "from_model": {
        "rgb": stored_case("rgb", ODD),
        "cropped": stored_case("rgb", ODD, size=(60, 90)),
        "nv12": stored_case("nv12", ODD, matrix="bt601"),
        "nv12 full range": stored_case("nv12", (2, 64, 64), full_range=True),
        "p010": stored_case("p010", ODD, size=(62, 96), matrix="bt2020"),
        "one pixel": stored_case("nv12", (1, 1, 1)),
    },
}
