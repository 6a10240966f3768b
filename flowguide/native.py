"""The compiled operations: hands pointers to flowguide._C. Called by `flowguide.dispatch` alone, arguments checked.

C++ reads and writes dense float32. Other layouts and half precision are copied to it first and back afterwards.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .reference import ConfidenceSettings

_C = importlib.import_module("flowguide._C")

BORDERS = {"edge": 0, "zero": 1, "reflect": 2, "wrap": 3}


def dense(tensor: Tensor | None) -> Tensor | None:
    """Contiguous float32."""
    return None if tensor is None else tensor.detach().to(torch.float32).contiguous()


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


def warp_cpu(image: Tensor, flow: Tensor, mode: str, border: str, out: tuple[Tensor, ...]) -> None:
    inputs = [dense(image), dense(flow)]
    with floats(out) as outputs:
        _C.warp_cpu(
            *map(pointer, inputs), *outputs, *image.shape, mode == "bicubic", BORDERS[border], torch.get_num_threads()
        )


def predict_cpu(
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
        _C.predict_cpu(
            *map(pointer, inputs),
            *outputs,
            *(n, channels, source_channels, height, width, cell),
            *(mode == "bicubic", settings.boundary),
            *(settings.relative, settings.allowed_px2(width), settings.softness),
            *(settings.boundary_relative, settings.boundary_absolute),
            settings.photometric if looked_at else 0.0,
            torch.get_num_threads(),
        )
