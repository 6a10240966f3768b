"""Every Triton kernel compiles for every GPU generation without stack, and docs/kernels.md says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_kernel_compiles_for_every_card_and_the_table_is_fresh() -> None:
    triton = pytest.importorskip("triton")
    table = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    if f"triton {triton.__version__}." not in table:
        pytest.skip(f"docs/kernels.md was made with another triton than {triton.__version__}")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    checked = subprocess.run(
        [sys.executable, "benchmarks/kernel_table.py", "--check"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
