"""The shared test: every implementation of every operation against the reference in float64.

Truth is the reference in float64; an implementation passes if its error is at most twice the reference's own in the
same dtype. FLOWGUIDE_REQUIRE=cpu,triton,cuda turns a missing implementation from a skip into a failure.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import CASES, Arguments, smooth
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowguide import dispatch, ops
from flowguide.diffusion.samplers import SAMPLERS, step_table

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
IMPLEMENTATIONS = ("cpu base", "cpu avx2", "cpu avx512", "triton", "cuda")


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """(implementation, device); C++ under each instruction set in turn."""
    name, _, isa = request.param.partition(" ")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield name, isa
    torch.set_num_threads(threads)
    if name == "cpu" and dispatch.missing("warp", "cpu") is None:
        from flowguide import _C

        _C.use_isa("")


def prepared(operation: str, implementation: tuple[str, str]) -> tuple[str, str]:
    """(implementation, device), or a skip with the reason (a failure where FLOWGUIDE_REQUIRE names it)."""
    name, isa = implementation
    reason = dispatch.missing(operation, name)
    if reason is None and name == "cpu":
        from flowguide import _C

        try:
            _C.use_isa(isa)
        except ValueError as error:
            pytest.skip(str(error))
    if reason is not None:
        written = name != "cuda" or operation in dispatch.IN_CUDA
        if written and name in os.environ.get("FLOWGUIDE_REQUIRE", "").split(","):
            pytest.fail(f"{operation}: {name} is required, but {reason}")
        pytest.skip(reason)
    return name, "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def converted(arguments: Arguments, dtype: torch.dtype | None = None, device: str = "cpu") -> Arguments:
    """The same numbers in another float dtype or on another device; uint8 and uint16 stay."""

    def convert(value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return dtype or value
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype if value.is_floating_point() and dtype else value.dtype)

    return {name: convert(value) for name, value in arguments.items()}


def call(operation: str, arguments: Arguments, implementation: str, fill: bool = False) -> tuple[Tensor, ...]:
    """The outputs as a tuple; with `fill` into tensors that hold NaN (or 255) before."""
    function = getattr(ops, operation)
    result = function(**arguments, implementation="reference" if fill else implementation)
    if fill:
        outs = [result] if isinstance(result, Tensor) else list(result)
        spoilt = [torch.full_like(o, float("nan") if o.is_floating_point() else 255).contiguous() for o in outs]
        out = (
            spoilt[0]
            if isinstance(result, Tensor)
            else type(result)(*spoilt)
            if hasattr(result, "_fields")
            else tuple(spoilt)
        )
        result = function(**arguments, implementation=implementation, out=out)
    return (result,) if isinstance(result, Tensor) else tuple(result)


def assert_as_good(operation: str, arguments: Arguments, implementation: str, device: str) -> None:
    truths = call(operation, converted(arguments, torch.float64), "reference")
    yardsticks = call(operation, arguments, "reference")
    results = call(operation, converted(arguments, device=device), implementation, fill=True)
    for place, (truth, yardstick, result) in enumerate(zip(truths, yardsticks, results, strict=True)):
        result = result.cpu()
        assert result.shape == truth.shape
        assert result.dtype == yardstick.dtype
        if not result.is_floating_point():  # half a code apart in float32 may be rounded the other way
            difference = (result.int() - truth.int()).abs() // (1 if result.dtype == torch.uint8 else 64)
            assert difference.max() <= 1
            assert (difference > 0).float().mean() <= 2e-3
            continue
        known = truth.isfinite()
        assert torch.equal(known, result.isfinite()), f"output {place}: finite elsewhere"
        scale = truth[known].abs().max().item() if known.any() else 0.0
        worst = lambda t: (t.double() - truth)[known].abs().max().item() if known.any() else 0.0  # noqa: B023, E731
        assert worst(result) <= 2 * worst(yardstick) + 1e-6 * scale, f"output {place}"


def seeded(text: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(text.encode()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("operation", "case"), [(o, c) for o, cases in CASES.items() for c in cases])
def test_every_implementation_is_as_good_as_the_reference(
    operation: str, case: str, dtype: str, implementation: tuple[str, str]
) -> None:
    name, device = prepared(operation, implementation)
    if name != "cpu" and device == "cpu" and dtype != "float32" and case != next(iter(CASES[operation])):
        pytest.skip("the interpreter is slow; half precision changes loads and stores alone")
    if name != "cpu" and device == "cpu" and dtype == "bfloat16":
        pytest.skip("the interpreter cuts to bfloat16 where the device rounds")
    if name == "cpu" and dtype != "float32" and implementation[1] != "avx2" and operation != "guided_step":
        pytest.skip("half precision is converted outside the instruction set's code")
    arguments = CASES[operation][case](seeded(operation + case), DTYPES[dtype])
    assert_as_good(operation, arguments, name, device)


@pytest.mark.parametrize("mode", ops.MODES)
@pytest.mark.parametrize("border", ops.BORDERS)
def test_whole_flows_are_shifts_bit_for_bit(mode: str, border: str, implementation: tuple[str, str]) -> None:
    name, device = prepared("warp", implementation)
    image = torch.rand(2, 3, 37, 45, generator=seeded("shift"), dtype=torch.float32).to(device)
    flow = torch.zeros(2, 2, 37, 45, device=device)
    assert torch.equal(ops.warp(image, flow, mode=mode, border=border, implementation=name), image)
    flow[:, 0], flow[:, 1] = 5, -3
    moved = ops.warp(image, flow, mode=mode, border=border, implementation=name)
    assert torch.equal(moved[:, :, 3:, :-5], image[:, :, :-3, 5:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_zero_is_no_guidance_bit_for_bit(dtype: str, implementation: tuple[str, str]) -> None:
    name, device = prepared("guided_step", implementation)
    g = seeded("zero")
    x, m = (torch.randn(2, 4, 9, 11, generator=g).to(device, DTYPES[dtype]) for _ in range(2))
    row = ops.StepRow(1.3, -0.8, 0.6, 0.4, share=1.0)
    plain = ops.guided_step(x, m, row, implementation=name)
    nothing = torch.full_like(x, float("nan"))
    for weight in (0.0, float("nan")):
        weights = torch.full((2, 9, 11), weight, dtype=x.dtype, device=device)
        guided = ops.guided_step(x, m, row, k0=nothing, weight=weights, implementation=name)
        assert torch.equal(guided[0], plain[0])
        assert torch.equal(guided[1], plain[1])


SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "flow-match-euler"])
def test_the_samplers_tables_step_as_the_reference_does(
    sampler: str, prediction: str, implementation: tuple[str, str]
) -> None:
    name, device = prepared("guided_step", implementation)
    pytest.importorskip("diffusers")
    table = step_table(sampler, SCHEDULE | {"prediction_type": prediction}, 6, 0.8)

    def run(dtype: torch.dtype, implementation: str, device: str) -> Tensor:
        g = seeded(sampler)
        x, k0, noise = (torch.randn(2, 4, 8, 8, generator=g).to(device, dtype) for _ in range(3))
        weight = torch.rand(2, 8, 8, generator=g).to(device, dtype)
        x, x0 = x * table.s_n, None
        for step in range(len(table)):
            row = table.row(step, 2.0)._replace(share=float(table.share[step]))
            m = torch.tanh(0.7 * float(table.c_in[step]) * x)
            x, x0 = ops.guided_step(
                *(x, m, [row, row._replace(share=0.0)]),
                model_output_uncond=0.9 * m,
                k0=k0,
                weight=weight,
                x0_prev=k0 if x0 is None else x0,
                noise=noise,
                implementation=implementation,
            )
        return x.cpu().double()

    truth = run(torch.float64, "reference", "cpu")
    allowed = 2 * (run(torch.float32, "reference", "cpu") - truth).abs().max() + 1e-6 * truth.abs().max()
    assert (run(torch.float32, name, device) - truth).abs().max() <= allowed


def test_carried_noise_has_the_same_bits_on_every_run(implementation: tuple[str, str]) -> None:
    name, device = prepared("carry_noise", implementation)
    arguments = converted(CASES["carry_noise"]["smooth"](seeded("again"), torch.float32), device=device)
    first, latent = ops.carry_noise(**arguments, implementation=name)
    for _ in range(3):
        again, latent_again = ops.carry_noise(**arguments, implementation=name)
        assert torch.equal(first, again)
        assert torch.equal(latent, latent_again)


def test_paste_keeps_generated_pixels_outside_and_prior_pixels_inside(implementation: tuple[str, str]) -> None:
    name, device = prepared("paste", implementation)
    g = seeded("paste")
    generated, prior = (torch.rand(1, 3, 48, 64, generator=g).to(device) for _ in range(2))
    confidence = torch.zeros(1, 48, 64, device=device)
    confidence[:, 8:40, 8:56] = 1
    for rule in ("feather", "multiband"):
        made = ops.paste(generated, prior, confidence, feather_px=2, rule=rule, implementation=name)
        outside = (confidence == 0).expand(3, -1, -1)[None]
        assert torch.equal(made[outside], generated[outside])
        deep = 4 if rule == "feather" else 16
        centre = (..., slice(8 + deep, 40 - deep), slice(8 + deep, 56 - deep))
        assert torch.equal(made[centre], prior[centre])


sizes = st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 70))
quick = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(size=sizes, scale=st.sampled_from([0.1, 3.0, 50.0]), lost=st.booleans(), seed=st.integers(0, 2**31))
def test_any_flow_predicts_as_well_as_the_reference(
    implementation: tuple[str, str], size: tuple[int, int, int], scale: float, lost: bool, seed: int
) -> None:
    name, device = prepared("predict", implementation)
    g = torch.Generator().manual_seed(seed)
    flow = smooth(g, torch.float32, *size, size_px=scale)
    back = -flow
    if lost:
        flow[torch.rand(flow.shape, generator=g) < 0.05] = float("nan")
    reference = torch.rand(size[0], 3, *size[1:], generator=g)
    assert_as_good("predict", {"reference": reference, "flow": flow, "flow_back": back}, name, device)
    arguments = {"image": reference, "flow": flow, "border": ops.BORDERS[seed % 4], "mode": ops.MODES[seed % 2]}
    assert_as_good("warp", arguments, name, device)
