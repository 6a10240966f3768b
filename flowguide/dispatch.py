"""Which implementation of an operation is taken: one rule, no silent swap.

    reference   plain torch, any float dtype, any device, differentiable
    cpu         C++ with threads and SIMD (flowguide._C), CPU tensors
    cuda        CUDA C++ (flowguide._C), CUDA tensors, on the caller's stream
    triton      flowguide.kernels, CUDA tensors (CPU tensors under TRITON_INTERPRET=1)

`auto` follows the tensor's device and takes the first of PREFERRED that is here, else the reference. It also takes the
reference for float64 and where a gradient is wanted. An implementation asked for by name is used or refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .errors import BackendMissing, UnknownName, UsageError

OPERATIONS = (
    "warp",
    "predict",
    "compose",
    "composite",
    "fill",
    "guided_step",
    "carry_noise",
    "paste",
    "to_model",
    "from_model",
)
IMPLEMENTATIONS = ("reference", "cpu", "cuda", "triton")
IN_CUDA = ("warp", "predict", "to_model", "from_model")
"""What is written in CUDA C++ as well; Triton has everything."""
PREFERRED = {"cpu": ("cpu",), "cuda": ("triton", "cuda")}
"""Device type -> implementations in the order `auto` tries them; for cuda by design, `make gpu-check` measures both."""

_asked: ContextVar[str] = ContextVar("flowguide_implementation", default="auto")


@contextmanager
def use(implementation: str) -> Iterator[None]:
    """Within the block every operation takes this implementation, or "auto"; `implementation=` still wins."""
    _known(implementation)
    token = _asked.set(implementation)
    try:
        yield
    finally:
        _asked.reset(token)


def _known(implementation: str) -> None:
    if implementation != "auto" and implementation not in IMPLEMENTATIONS:
        raise UnknownName("implementation", implementation, ("auto", *IMPLEMENTATIONS))


@cache
def missing(name: str, implementation: str) -> str | None:
    """Why this implementation of the operation is not here, or None if it is."""
    if name not in OPERATIONS:
        raise UnknownName("operation", name, OPERATIONS)
    _known(implementation)
    if implementation == "reference":
        return None
    if implementation == "triton":
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed"
        if not (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"):
            return "triton needs a CUDA device (or TRITON_INTERPRET=1 set before Python starts)"
        if importlib.util.find_spec(f"flowguide.kernels.{name}") is None:
            return f"there is no Triton kernel for {name}"
        return None
    if implementation == "cuda" and name not in IN_CUDA:
        return f"{name} is not written in CUDA C++"
    try:
        compiled = importlib.import_module("flowguide._C")
    except ImportError as error:
        return f"the compiled module flowguide._C is not here ({error}); install flowguide with a C++ compiler"
    if not hasattr(compiled, f"{name}_{implementation}"):
        return f"flowguide._C was built without {name}_{implementation}"
    if implementation == "cuda" and not torch.cuda.is_available():
        return "no CUDA device"
    return None


@cache
def find(name: str, implementation: str) -> Callable[..., Any]:
    """The function of an implementation that is here."""
    if implementation == "reference":
        room = importlib.import_module("flowguide.reference")
    elif implementation == "triton":
        room = importlib.import_module(f"flowguide.kernels.{name}")
    else:
        room = importlib.import_module("flowguide.native")
    return getattr(room, name)  # type: ignore[no-any-return]


@cache
def _preferred(name: str, device: str) -> str:
    return next((i for i in PREFERRED.get(device, ()) if missing(name, i) is None), "reference")


def resolve(name: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """The implementation that an operation takes for tensors of this device and dtype, `use` considered."""
    asked = _asked.get()
    if asked != "auto":
        return asked
    if name not in OPERATIONS:
        raise UnknownName("operation", name, OPERATIONS)
    return "reference" if dtype == torch.float64 else _preferred(name, torch.device(device).type)


def implementations() -> dict[str, dict[str, str | None]]:
    """operation -> implementation -> None if it is here, else the reason why not."""
    return {name: {i: missing(name, i) for i in IMPLEMENTATIONS} for name in OPERATIONS}


def choose(name: str, implementation: str, device: str, dtype: torch.dtype, gradient: bool) -> str:
    """The implementation to call for these tensors, or the refusal."""
    asked = _asked.get() if implementation == "auto" else implementation
    if asked == "auto":
        return "reference" if gradient or dtype == torch.float64 else _preferred(name, device)
    if asked == "reference":
        return asked
    reason = missing(name, asked)
    if reason is not None:
        raise BackendMissing(f"{name}: implementation {asked!r} was asked for, but {reason}.")
    interpreted = asked == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if device != ("cpu" if asked == "cpu" else "cuda") and not interpreted:
        raise UsageError(f"{name}: implementation {asked!r} does not take tensors on {device}.")
    if dtype == torch.float64 or gradient:
        what = "float64" if dtype == torch.float64 else "gradients"
        raise UsageError(f"{name}: implementation {asked!r} has no {what}; use 'reference' or 'auto'.")
    return asked


Output = tuple[tuple[int, ...], torch.dtype]


def run(
    name: str,
    implementation: str,
    inputs: Sequence[Tensor | None],
    settings: Sequence[Any],
    outputs: Sequence[Output],
    out: Sequence[Tensor] | None,
) -> tuple[Tensor, ...]:
    """Calls the chosen implementation; every one but the reference fills tensors that are allocated here."""
    given = [tensor for tensor in inputs if tensor is not None]
    wide = torch.float64 if torch.float64 in [tensor.dtype for tensor in given] else torch.float32
    gradient = torch.is_grad_enabled() and True in [tensor.requires_grad for tensor in given]
    device = given[0].device
    chosen = choose(name, implementation, device.type, wide, gradient)
    function = find(name, chosen)
    if out is not None:
        _fits(name, out, outputs, device)
    if chosen == "reference":
        result = function(*inputs, *settings)
        results: tuple[Tensor, ...] = tuple(result) if isinstance(result, tuple) else (result,)
        if out is None:
            return results
        for place, value in zip(out, results, strict=True):
            place.copy_(value)
        return tuple(out)
    filled = tuple(torch.empty(shape, dtype=dtype, device=device) for shape, dtype in outputs) if out is None else out
    # Kernels go to the current device and its current stream, which are not always the tensors' own.
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        function(*inputs, *settings, filled)
    return tuple(filled)


def _fits(name: str, out: Sequence[Tensor], outputs: Sequence[Output], device: torch.device) -> None:
    if len(out) != len(outputs):
        raise UsageError(f"{name}: out should hold {len(outputs)} tensors, got {len(out)}.")
    for place, (given, (shape, dtype)) in enumerate(zip(out, outputs, strict=True)):
        fits = given.shape == shape and given.dtype == dtype and given.device == device and given.is_contiguous()
        if not fits:
            layout = "" if given.is_contiguous() else f" with strides {list(given.stride())}"
            raise UsageError(
                f"{name}: out[{place}] should be a contiguous {dtype} tensor {list(shape)} on {device}, "
                f"got {given.dtype} {list(given.shape)}{layout} on {given.device}."
            )
