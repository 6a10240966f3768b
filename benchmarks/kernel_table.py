"""Compiles every Triton kernel ahead of time for every GPU generation and writes docs/kernels.md. Needs no GPU.

python benchmarks/kernel_table.py            writes the table
python benchmarks/kernel_table.py --check    fails if the table is stale or a kernel spills
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

TABLE = Path(__file__).resolve().parent.parent / "docs" / "kernels.md"
CAPABILITIES = (75, 80, 86, 89, 90, 100, 120)
FLOAT_ARGUMENTS = {"scale", "support", "weight", "relative", "allowed_px2", "softness", "boundary_relative"}
FLOAT_ARGUMENTS |= {"boundary_absolute", "photometric", "k_r", "k_b", "luma_zero", "luma_span", "chroma_zero"}
FLOAT_ARGUMENTS |= {"chroma_span", "largest", "unit"}


class Variant(NamedTuple):
    """One kernel with its compile-time constants; pointers are to float32 unless named here."""

    operation: str
    kernel: str
    constants: dict[str, Any]
    pointers: dict[str, str] = {}  # noqa: RUF012

    def title(self) -> str:
        flags = [f"{name}={value}" for name, value in self.constants.items() if name not in ("BLOCK", "CHANNELS")]
        return f"`{self.kernel}` {', '.join(flags)}".strip()


BORDER = {"CHANNELS": 3, "BLOCK": 256}
HALF = {"image_ptr": "*fp16", "out_ptr": "*fp16"}
STATES = ("x_ptr", "output_ptr", "uncond_ptr", "k0_ptr", "x0_prev_ptr", "noise_ptr", "x_next_ptr", "x0_ptr")
VARIANTS = (
    Variant("warp", "warp_kernel", BORDER | {"TAPS": 2, "BORDER": 0}, HALF),
    Variant("warp", "warp_kernel", BORDER | {"TAPS": 4, "BORDER": 2}, HALF),
    Variant("warp", "warp_kernel", BORDER | {"TAPS": 6, "BORDER": 0}, HALF),
    *(
        Variant(
            "predict",
            "predict_kernel",
            {"CHANNELS": 3, "SOURCES": 3, "TAPS": taps, "BOUNDARY": True, "GIVEN": False, "EDGE": 8, "CELLS": 4},
            {"reference_ptr": "*fp16", "prior_ptr": "*fp16", "source_at_ptr": "*fp16", "source_to_ptr": "*fp16"},
        )
        for taps in (4, 6)
    ),
    Variant("compose", "compose_kernel", {"HAS_AB": True, "HAS_BC": True, "BLOCK": 256}),
    Variant(
        "composite",
        "composite_kernel",
        {"RELIABLE_FROM": 0.5, "REFERENCES": 3, "CHANNELS": 3, "BEST": True, "BLOCK": 512},
        {"order_ptr": "*i64"},
    ),
    Variant(
        "composite",
        "composite_kernel",
        {"RELIABLE_FROM": 0.5, "REFERENCES": 3, "CHANNELS": 3, "BEST": False, "BLOCK": 512},
    ),
    Variant("fill", "pull_kernel", {"CHANNELS": 3, "BLOCK": 256}),
    Variant("fill", "push_kernel", {"CHANNELS": 3, "COARSEST": False, "BLOCK": 256}),
    Variant(
        "guided_step",
        "guided_step_kernel",
        {"UNCOND": True, "GUIDED": True, "HISTORY": True, "NOISE": True, "ERODE": True, "BLOCK": 256},
        dict.fromkeys(STATES, "*bf16"),
    ),
    Variant(
        "carry_noise", "address_kernel", {"CHANNELS": 4, "BLOCK": 256}, {"targets_ptr": "*i32", "sums_ptr": "*i64"}
    ),
    Variant(
        "carry_noise",
        "carry_kernel",
        {"CHANNELS": 4, "EDGE": 8, "CELLS": 4},
        {"targets_ptr": "*i32", "sums_ptr": "*i64"},
    ),
    Variant("paste", "slide_kernel", {"RADIUS": 16, "SUM": True, "BLOCK": 1024}),
    Variant("paste", "difference_kernel", {"CHANNELS": 3, "BLOCK": 512}),
    Variant("paste", "blend_kernel", {"CHANNELS": 3, "RADIUS": 4, "MULTIBAND": True, "BLOCK": 512}),
    Variant(
        "to_model",
        "to_model_kernel",
        {"PLANES": False, "WIDE": False, "BLOCK": 512},
        {"surface_ptr": "*u8", "chroma_ptr": "*u8", "out_ptr": "*fp16"},
    ),
    Variant(
        "to_model",
        "to_model_kernel",
        {"PLANES": True, "WIDE": True, "BLOCK": 512},
        {"surface_ptr": "*i16", "chroma_ptr": "*i16", "out_ptr": "*fp16"},
    ),
    Variant("resize", "resize_kernel", {"TAPS": 5, "BLOCK": 512}),
    Variant("from_model", "rgb_kernel", {"BLOCK": 512}, {"image_ptr": "*fp16", "out_ptr": "*u8"}),
    Variant(
        "from_model",
        "planes_kernel",
        {"BLOCK": 512},
        {"image_ptr": "*fp16", "luma_ptr": "*u8", "chroma_ptr": "*u8"},
    ),
)


def signature(names: list[str], variant: Variant) -> dict[str, str]:
    """Argument -> Triton type; names say it: *_ptr, CAPITALS, a few floats, else 32-bit integers."""

    def kind(name: str) -> str:
        if name.endswith("_ptr"):
            return variant.pointers.get(name, "*fp32")
        if name.isupper():
            return "constexpr"
        return "fp32" if name in FLOAT_ARGUMENTS else "i32"

    return {name: kind(name) for name in names}


def compiled(variant: Variant, capability: int, sizes_are_one: bool = False) -> Any:
    """The compiled kernel; a size that is 1 is a constant to Triton, and that must compile too."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(f"flowguide.kernels.{variant.operation}"), variant.kernel)
    types, constants = signature(kernel.arg_names, variant), dict(variant.constants)
    names = list(types)
    if sizes_are_one:
        ones = [name for name, kind in types.items() if kind == "i32"]
        types |= dict.fromkeys(ones, "constexpr")
        constants |= dict.fromkeys(ones, 1)
    source = ASTSource(
        fn=kernel,
        signature=types,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if types[name].startswith("*")},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))


def resources(variant: Variant, capability: int) -> tuple[int, int, int]:
    """(registers, bytes of stack, bytes of shared memory) of one thread or block."""
    import triton

    kernel = compiled(variant, capability)
    dump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        text = subprocess.run(
            [dump, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    used = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return used["REG"], used["STACK"] + used["LOCAL"], kernel.metadata.shared


def compiled_row(variant: Variant) -> list[tuple[int, int, int]]:
    """The resources on every capability."""
    compiled(variant, CAPABILITIES[0], sizes_are_one=True)
    return [resources(variant, capability) for capability in CAPABILITIES]


def table(rows: list[list[tuple[int, int, int]]]) -> str:
    """The page."""
    import triton

    heads = [f"{c // 10}.{c % 10}" for c in CAPABILITIES]
    lines = [
        "# Triton kernels, compiled ahead of time",
        "",
        f"Registers per thread / bytes of shared memory per block by compute capability, triton {triton.__version__}.",
        "No kernel uses stack or spills. Written by `python benchmarks/kernel_table.py`; a test keeps it fresh.",
        "",
        f"| operation | kernel | {' | '.join(heads)} |",
        f"| --- | --- | {' | '.join('---' for _ in heads)} |",
    ]
    for variant, row in zip(VARIANTS, rows, strict=True):
        cells = " | ".join(f"{registers} / {shared}" for registers, _, shared in row)
        lines.append(f"| {variant.operation} | {variant.title()} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    checking = parser.parse_args().check
    if os.environ.pop("TRITON_INTERPRET", None):
        print("TRITON_INTERPRET is set aside: kernels are compiled here")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            rows = list(pool.map(compiled_row, VARIANTS))
    spilling = [
        f"{variant.title()} on {capability}: {stack} bytes"
        for variant, row in zip(VARIANTS, rows, strict=True)
        for capability, (_, stack, _) in zip(CAPABILITIES, row, strict=True)
        if stack
    ]
    if spilling:
        print("uses stack:", *spilling, sep="\n  ")
        return 1
    page = table(rows)
    if not checking:
        TABLE.write_text(page, encoding="utf-8")
        return 0
    if not TABLE.exists() or TABLE.read_text(encoding="utf-8") != page:
        print(f"{TABLE.name} is stale: run python benchmarks/kernel_table.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
