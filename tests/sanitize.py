"""The C++ operations under AddressSanitizer and UndefinedBehaviorSanitizer: builds them so, then runs their tests.

    python tests/sanitize.py            every instruction set, every case
    python tests/sanitize.py --quick    portable and AVX2 code, the shared cases in float32: part of `make test`

The exit code is 0 if nothing was found, 77 if the compiler has no sanitizers.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULE, CHOICE = "FLOWGUIDE_SANITIZED", "FLOWGUIDE_SANITIZED_TESTS"
EVERY, QUICK = "cpu", "as_good_as_the_reference and float32 and (base or avx2)"
NO_SANITIZERS = 77


def library(name: str) -> str:
    found = subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def without_sanitizers(folder: Path) -> str | None:
    """What the compiler says of the smallest sanitized program, or None if it builds."""
    source = folder / "smallest.cpp"
    source.write_text("int main() {}\n", encoding="utf-8")
    command = ["c++", "-fsanitize=address,undefined", source, "-o", folder / "smallest"]
    try:
        built = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return built.stderr if built.returncode else None


def build(folder: Path, isas: str) -> Path:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder, "--build-temp", folder / "build"]
    settings = {"FG_SANITIZE": "address,undefined", "FG_CUDA": "OFF", "FG_ISAS": isas, "FLOWGUIDE_BUILD": "required"}
    subprocess.run(command, cwd=ROOT, env=os.environ | settings, check=True)
    return next((folder / "flowguide").glob("_C*.so"))


def run_tests() -> int:
    """In the process that has the sanitizers loaded first."""
    import pytest

    spec = importlib.util.spec_from_file_location("flowguide._C", os.environ[MODULE])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["flowguide._C"] = module
    import flowguide

    flowguide._C = module
    os.chdir(ROOT)
    options = ["-q", "-p", "no:cacheprovider", "--timeout", "0"]
    return pytest.main(["tests/test_ops.py", "-k", os.environ[CHOICE], *options])


def main(quick: bool) -> int:
    if MODULE in os.environ:
        return run_tests()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lacking = without_sanitizers(folder)
        if lacking is not None:
            print(f"The C++ compiler has no sanitizers: {lacking}")
            return NO_SANITIZERS
        settings = {
            MODULE: str(build(folder, "base;avx2" if quick else "base;avx2;avx512")),
            CHOICE: QUICK if quick else EVERY,
            "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')} {library('libstdc++.so.6')}",
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        }
        return subprocess.run([sys.executable, __file__], env=os.environ | settings).returncode


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv))
