"""Wrong arguments get one sentence that names them, from the same check for every implementation."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from flowguide import dispatch, ops, reference
from flowguide.errors import BackendMissing, UnknownName, UsageError

IMAGE, FLOW, WEIGHT = torch.zeros(2, 3, 8, 16), torch.zeros(2, 2, 8, 16), torch.zeros(2, 8, 16)
LATENT = torch.zeros(2, 4, 8, 8)
ROW = ops.StepRow(1, 0, 1, 0)
WRONG: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], str]] = {
    "shape": (
        "warp",
        (IMAGE, FLOW[:1]),
        {},
        r"flow should be a float tensor \[2, 2, 8, 16\] on cpu, got float32 \[1, 2",
    ),
    "dimensions": (
        "warp",
        (IMAGE[0], FLOW),
        {},
        r"image should be a float tensor \[N, C, H, W\], got float32 \[3, 8, 16",
    ),
    "dtype": ("warp", (IMAGE, FLOW.int()), {}, r"flow should be a float tensor .* got int32"),
    "no tensor": ("warp", ("picture", FLOW), {}, "image should be a float tensor .* got str 'picture'"),
    "device": ("warp", (IMAGE, FLOW.to("meta")), {}, "flow should be .* on cpu, got .* on meta"),
    "empty": ("fill", (IMAGE[:, :, :0], WEIGHT[:, :0]), {}, r"prior should be .* got float32 \[2, 3, 0, 16\]"),
    "mode": ("warp", (IMAGE, FLOW), {"mode": "cubic"}, "mode should be one of 'bilinear', 'bicubic', .*got 'cubic'"),
    "border": ("warp", (IMAGE, FLOW), {"border": "mirror"}, "border should be one of .* got 'mirror'"),
    "no way back": ("predict", (IMAGE, FLOW, None), {}, "flow_back should be a float tensor .* got NoneType"),
    "one source": ("predict", (IMAGE, FLOW, FLOW, IMAGE), {}, "source_at and source_to should be given together"),
    "cell": ("predict", (IMAGE, FLOW, FLOW), {"cell": 0}, "cell should be an integer from 1, got int 0"),
    "latent": ("carry_noise", (LATENT, FLOW[:, :, :, :8], LATENT), {"cell": 3}, "noise should be a multiple of cell=3"),
    "no weight": ("guided_step", (LATENT, LATENT, ROW), {"k0": LATENT}, "k0 and weight should be given together"),
    "columns": ("guided_step", (LATENT, LATENT, torch.zeros(2, 8)), {}, r"coefficients should be .* \[2, 9\], got"),
    "history": ("guided_step", (LATENT, LATENT, ROW._replace(C=1)), {}, "x0_prev should be given where C is not 0"),
    "noise": ("guided_step", (LATENT, LATENT, ROW._replace(D=1)), {}, "noise should be given where D is not 0"),
    "weight": ("paste", (IMAGE, IMAGE, WEIGHT), {"weight": 2}, r"weight should be a number in \[0, 1\], got int 2"),
    "feather": ("paste", (IMAGE, IMAGE, WEIGHT), {"feather_px": -1}, "feather_px should be an integer in"),
    "surface": ("to_model", (IMAGE,), {}, "surface should be a uint8 tensor .* got float32"),
    "chroma": ("to_model", (torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(1, 1, 2, 2)), {}, "chroma should be"),
    "crop": ("from_model", (IMAGE,), {"size": (9, 16)}, r"size should be within \[2, 3, 8, 16\]"),
    "out": ("warp", (IMAGE, FLOW), {"out": IMAGE[:1]}, r"warp: out\[0\] should be a contiguous .* \[2, 3, 8, 16\]"),
    "stride": (
        *("warp", (IMAGE, FLOW), {"out": torch.zeros(2, 3, 16, 8).transpose(2, 3)}),
        r"out\[0\] should be a contiguous .* got torch.float32 \[2, 3, 8, 16\] with strides \[384, 128, 1, 8\] on cpu",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_named(case: str) -> None:
    operation, positional, named, sentence = WRONG[case]
    for implementation in ("reference", "cpu", "auto"):
        if dispatch.missing(operation, implementation if implementation != "auto" else "reference") is not None:
            continue
        with pytest.raises(UsageError, match=sentence) as caught:
            getattr(ops, operation)(*positional, **named, implementation=implementation)
        assert "\n" not in str(caught.value)


def test_an_implementation_that_is_asked_for_is_used_or_refused() -> None:
    if dispatch.missing("warp", "cuda") is not None:
        with pytest.raises(BackendMissing, match="warp: implementation 'cuda' was asked for, but"):
            ops.warp(IMAGE, FLOW, implementation="cuda")
    with pytest.raises(UnknownName, match="Did you mean 'triton'"):
        ops.warp(IMAGE, FLOW, implementation="tritn")
    with ops.use("reference"):
        assert ops.resolve("warp") == "reference"
    with pytest.raises(UnknownName, match="Unknown operation 'wrap'"):
        ops.resolve("wrap")


def test_auto_takes_the_reference_where_a_gradient_is_wanted() -> None:
    image = IMAGE.clone().requires_grad_()
    ops.warp(image, FLOW).sum().backward()
    assert image.grad is not None
    if dispatch.missing("warp", "cpu") is None:
        with pytest.raises(UsageError, match="'cpu' has no gradients"):
            ops.warp(image, FLOW, implementation="cpu")
        with pytest.raises(UsageError, match="'cpu' has no float64"):
            ops.warp(IMAGE.double(), FLOW, implementation="cpu")


@pytest.mark.parametrize("operation", ops.OPERATIONS)
def test_every_operation_has_a_reference_of_its_name_and_a_case(operation: str) -> None:
    from cases import CASES

    assert CASES[operation]
    public = [
        name for name in inspect.signature(getattr(ops, operation)).parameters if name not in ("out", "implementation")
    ]
    assert set(inspect.signature(getattr(reference, operation)).parameters) == set(public)
    assert ops.implementations()[operation]["reference"] is None
