"""The argument checks of the operations: the same for every implementation, one sentence each."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .errors import UsageError

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def described(value: object) -> str:
    """A value as an error message names it."""
    if not isinstance(value, Tensor):
        return f"{type(value).__name__} {value!r}" if isinstance(value, int | float | str) else type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)} on {value.device}"


def expect(condition: bool, argument: str, expected: str, got: object) -> None:
    """Raises UsageError unless the condition holds."""
    if not condition:
        raise UsageError(f"{argument} should be {expected}, got {described(got)}.")


def tensor(
    argument: str,
    value: Tensor | None,
    shape: tuple[int | str, ...],
    device: torch.device | None = None,
    dtypes: tuple[torch.dtype, ...] = FLOATS,
) -> Tensor:
    """`value` is a tensor of this shape: a number must be met, a name stands for any size from 1."""
    if isinstance(value, Tensor) and value.dtype in dtypes and (device is None or value.device == device):
        if value.shape == shape:
            return value
        if len(value.shape) == len(shape) and all(map(_meets, value.shape, shape)):
            return value
    kind = "float" if dtypes is FLOATS else " or ".join(str(d).removeprefix("torch.") for d in dtypes)
    place = "" if device is None else f" on {device}"
    wanted = ", ".join(str(size) for size in shape)
    raise UsageError(f"{argument} should be a {kind} tensor [{wanted}]{place}, got {described(value)}.")


def _meets(size: int, wanted: int | str) -> bool:
    return size == wanted if isinstance(wanted, int) else size > 0


def option(argument: str, value: object, known: Iterable[object]) -> None:
    """`value` is one of the known ones."""
    names = tuple(known)
    if value not in names:
        raise UsageError(f"{argument} should be one of {', '.join(map(repr, names))}, got {value!r}.")


def positive(argument: str, value: object) -> None:
    """`value` is an integer from 1."""
    expect(isinstance(value, int) and not isinstance(value, bool) and value >= 1, argument, "an integer from 1", value)
