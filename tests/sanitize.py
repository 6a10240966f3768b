"""The C++ operations under AddressSanitizer and UndefinedBehaviorSanitizer: builds them so, then runs their tests.

python tests/sanitize.py
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULE = "FLOWGUIDE_SANITIZED"
TESTS = ["tests/test_ops.py", "-q", "-k", "cpu", "-p", "no:cacheprovider"]


def library(name: str) -> str:
    found = subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def build(folder: Path) -> Path:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder, "--build-temp", folder / "build"]
    settings = {"FG_SANITIZE": "address,undefined", "FG_CUDA": "OFF", "FLOWGUIDE_BUILD": "required"}
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
    return pytest.main(TESTS)


def main() -> int:
    if MODULE in os.environ:
        return run_tests()
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            MODULE: str(build(Path(folder))),
            "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')} {library('libstdc++.so.6')}",
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        }
        return subprocess.run([sys.executable, __file__], env=os.environ | settings).returncode


if __name__ == "__main__":
    sys.exit(main())
