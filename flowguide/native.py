"""The compiled operations: hands pointers to flowguide._C. Called by `flowguide.dispatch` alone, arguments checked.

CPU tensors go to C++, CUDA tensors to CUDA C++. Both read and write dense float32; other layouts and half precision are
copied to it first and back afterwards (`guided_step` reads halves directly, `to_model` follows strides).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .errors import UsageError
from .reference import ConfidenceSettings
from .reference_colour import LUMA_WEIGHTS, levels

_C = importlib.import_module("flowguide._C")

TAPS = {"bilinear": 2, "bicubic": 4, "spline36": 6}
BORDERS = {"edge": 0, "zero": 1, "reflect": 2, "wrap": 3}
STORAGE = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def dense(tensor: Tensor | None) -> Tensor | None:
    """Contiguous float32."""
    if tensor is None or (tensor.dtype == torch.float32 and tensor.is_contiguous()):
        return tensor
    return tensor.to(torch.float32).contiguous()


def pointer(tensor: Tensor | None) -> int:
    """Address of the first element; 0 for an absent tensor."""
    return 0 if tensor is None else tensor.data_ptr()


@contextmanager
def floats(out: tuple[Tensor, ...]) -> Iterator[list[int]]:
    """Pointers to float32 outputs, copied to `out` at the end where that has another dtype."""
    filled = [t if t.dtype == torch.float32 else torch.empty_like(t, dtype=torch.float32) for t in out]
    yield [t.data_ptr() for t in filled]
    for given, tensor in zip(out, filled, strict=True):
        if given is not tensor:
            given.copy_(tensor)


def launch(name: str, tensor: Tensor, *arguments: object) -> None:
    """Calls the C++ function with torch's number of threads, or queues the CUDA one on the current stream."""
    if tensor.is_cuda:
        getattr(_C, f"{name}_cuda")(*arguments, torch.cuda.current_stream().cuda_stream)
    else:
        getattr(_C, f"{name}_cpu")(*arguments, torch.get_num_threads())


def warp(image: Tensor, flow: Tensor, mode: str, border: str, out: tuple[Tensor, ...]) -> None:
    inputs = [dense(image), dense(flow)]
    with floats(out) as outputs:
        launch("warp", image, *map(pointer, inputs), *outputs, *image.shape, TAPS[mode], BORDERS[border])


def predict(
    reference: Tensor,
    flow: Tensor,
    flow_back: Tensor | None,
    source_at: Tensor | None,
    source_to: Tensor | None,
    given_confidence: Tensor | None,
    cell: int,
    mode: str,
    settings: ConfidenceSettings,
    out: tuple[Tensor, ...],
) -> None:
    inputs = [dense(t) for t in (reference, flow, flow_back, source_at, source_to, given_confidence)]
    n, channels, height, width = reference.shape
    source_channels = 0 if source_at is None else source_at.shape[1]
    looked_at = source_at is not None and settings.photometric is not None
    with floats(out) as outputs:
        launch(
            *("predict", reference),
            *map(pointer, inputs),
            *outputs,
            *(n, channels, source_channels, height, width, cell),
            *(TAPS[mode], settings.boundary),
            *(settings.relative, settings.allowed_px2(width), settings.softness),
            *(settings.boundary_relative, settings.boundary_absolute),
            settings.photometric if looked_at else 0.0,
        )


def compose(
    flow_ab: Tensor,
    flow_bc: Tensor,
    confidence_ab: Tensor | None,
    confidence_bc: Tensor | None,
    out: tuple[Tensor, ...],
) -> None:
    inputs = [dense(t) for t in (flow_ab, flow_bc, confidence_ab, confidence_bc)]
    n, _, height, width = flow_ab.shape
    with floats(out) as outputs:
        launch("compose", flow_ab, *map(pointer, inputs), *outputs, n, height, width)


def composite(priors: Tensor, confidences: Tensor, rule: str, out: tuple[Tensor, ...]) -> None:
    inputs = [dense(priors), dense(confidences)]
    with floats(out) as outputs:
        launch("composite", priors, *map(pointer, inputs), *outputs, *priors.shape, rule == "best")


def fill(prior: Tensor, confidence: Tensor, out: tuple[Tensor, ...]) -> None:
    inputs = [dense(prior), dense(confidence)]
    with floats(out) as outputs:
        launch("fill", prior, *map(pointer, inputs), *outputs, *prior.shape)


def guided_step(
    x: Tensor,
    model_output: Tensor,
    coefficients: Tensor,
    model_output_uncond: Tensor | None,
    k0: Tensor | None,
    weight: Tensor | None,
    x0_prev: Tensor | None,
    noise: Tensor | None,
    erode: bool,
    out: tuple[Tensor, ...],
) -> None:
    states = (x, model_output, model_output_uncond, k0, x0_prev, noise)
    dtypes = {t.dtype for t in states if t is not None}
    dtype = x.dtype if len(dtypes) == 1 else torch.float32
    if dtype == torch.float32:
        inputs = [dense(t) for t in states]
    else:
        inputs = [None if t is None else t.contiguous() for t in states]
    masks = [dense(coefficients), dense(weight)]
    filled = out if dtype == x.dtype else tuple(torch.empty_like(t, dtype=dtype) for t in out)
    pointers = map(pointer, (*inputs, *masks, *filled))
    launch("guided_step", x, *pointers, *x.shape, STORAGE[dtype], erode)
    if filled is not out:
        for given, tensor in zip(out, filled, strict=True):
            given.copy_(tensor)


def carry_noise(noise: Tensor, flow: Tensor, fresh: Tensor, cell: int, out: tuple[Tensor, ...]) -> None:
    if noise.shape[2] * noise.shape[3] > 2**31 - 1:
        raise UsageError(f"noise should have fewer than 2**31 samples in a plane, got {list(noise.shape)}.")
    inputs = [dense(noise), dense(flow), dense(fresh)]
    with floats(out) as outputs:
        launch("carry_noise", noise, *map(pointer, inputs), *outputs, *noise.shape, cell)


def paste(
    generated: Tensor,
    prior: Tensor,
    confidence: Tensor,
    weight: float,
    feather_px: int,
    rule: str,
    out: tuple[Tensor, ...],
) -> None:
    inputs = [dense(generated), dense(prior), dense(confidence)]
    settings = (feather_px, rule == "multiband", weight)
    with floats(out) as outputs:
        launch("paste", generated, *map(pointer, inputs), *outputs, *generated.shape, *settings)


def colour_code(bits: int, matrix: str, full_range: bool) -> list[float]:
    """The fields of csrc's Code."""
    code = levels(bits, full_range)
    return [*LUMA_WEIGHTS[matrix], *code]


def to_model(
    surface: Tensor,
    chroma: Tensor | None,
    matrix: str,
    full_range: bool,
    size: tuple[int, int],
    pad_to: int,
    dtype: torch.dtype,
    out: tuple[Tensor, ...],
) -> None:
    wide = surface.dtype == torch.uint16
    if chroma is None:
        strides = (*surface.stride(), 0, 0)
    else:
        surface = surface if surface.stride(2) == 1 else surface.contiguous()
        chroma = chroma if chroma.stride()[2:] == (2, 1) else chroma.contiguous()
        strides = (surface.stride(0), 0, surface.stride(1), 1, *chroma.stride()[:2])
    whole = (surface.shape[0], 3, *surface.shape[-2:])
    needs_scratch = surface.is_cuda and tuple(surface.shape[-2:]) != tuple(size)
    scratch = torch.empty(whole, dtype=torch.float32, device=surface.device) if needs_scratch else None
    with floats(out) as outputs:
        launch(
            *("to_model", surface),
            *(pointer(surface), pointer(chroma)),
            *outputs,
            *(surface.shape[0], *surface.shape[-2:], *strides),
            *(*size, *out[0].shape[-2:], wide),
            colour_code(10 if wide else 8, matrix, full_range),
            *((pointer(scratch),) if surface.is_cuda else ()),
        )


def from_model(
    image: Tensor, layout: str, matrix: str, full_range: bool, size: tuple[int, int], out: tuple[Tensor, ...]
) -> None:
    source = dense(image)
    wide = layout == "p010"
    launch(
        *("from_model", image),
        *(pointer(source), pointer(out[0]), pointer(None if layout == "rgb" else out[1])),
        *(image.shape[0], *image.shape[-2:], *size, wide),
        colour_code(10 if wide else 8, matrix, full_range),
    )
