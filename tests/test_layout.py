"""The house itself: who imports whom, sizes, packages, the public face."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import flowguide

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "flowguide"

FLOORS = [
    {"types", "errors", "timing", "config", "machine"},
    {"reference", "reference_colour", "reference_sampling"},
    {"checks", "dispatch", "native", "ops", "seams"},
    {
        "pictures",
        "masks",
        "video",
        "flow",
        "diffusion",
        "guidance",
        "measures",
        "abreast",
        "metrics",
        "metrics_plot",
        "alignment",
        "synthetic",
    },
    {
        "renderer",
        "later",
        "one_by_one",
        "passes",
        "joint",
        "strategies",
        "anchored",
        "step_aligned",
        "shot_lanes",
        "steady",
        "training",
    },
    {"pipeline", "runs", "diffusers_pipeline"},
    {"bench"},
    {
        "terminal",
        "doctor",
        "models_command",
        "run_commands",
        "flow_commands",
        "engines_command",
        "steady_command",
        "metrics_command",
        "compare_command",
        "bench_command",
        "cli",
        "server",
    },
    {"__main__"},
]
"""Rooms from the ground up; a room imports its own floor and those below."""

ALLOWED_UPWARD = {("machine", "errors"), ("reference_colour", "reference")}


def floor_of(room: str) -> int | None:
    return next((level for level, rooms in enumerate(FLOORS) if room in rooms), None)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this package that a module imports, anywhere in its text."""
    depth = len(path.relative_to(PACKAGE).parts)
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level == depth:
                rooms |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
            elif node.level == 0 and node.module and node.module.startswith("flowguide."):
                rooms.add(node.module.split(".")[1])
    return rooms - {"__version__", "_C"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    own = floor_of(room)
    assert own is not None, f"{room} has no floor; add it to FLOORS"
    for other in imported_rooms(path):
        level = floor_of(other)
        assert level is not None, f"{other} has no floor"
        assert level <= own, f"{room} imports {other} from above"


def test_nothing_but_the_command_line_imports_training() -> None:
    for path in modules():
        if room_of(path) not in ("cli", "training"):
            assert "training" not in imported_rooms(path), path


def test_the_package_never_imports_the_top_level_rooms() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert not any(name.split(".")[0] in ("kernels", "engines") for name in names), path


def sources() -> list[Path]:
    found = [*PACKAGE.rglob("*.py"), *(ROOT / "kernels").glob("*.py"), *(ROOT / "engines").glob("*.py")]
    return sorted([*found, *(p for p in (ROOT / "csrc").glob("*.*") if p.suffix in (".h", ".cpp", ".cu"))])


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_no_function_is_too_long_to_read() -> None:
    long = []
    for path in sources():
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno:
                body = node.body
                docstring = body[0].end_lineno - body[0].lineno + 1 if ast.get_docstring(node) else 0
                lines = node.end_lineno - node.lineno + 1 - docstring
                if lines > 60:
                    long.append(f"{path.relative_to(ROOT)}:{node.name} has {lines} lines")
    assert not long


def test_no_module_is_named_after_nothing() -> None:
    for path in sources():
        assert path.stem not in ("utils", "helpers", "common", "misc"), path


def test_the_top_level_is_the_fixed_one() -> None:
    for name in ("csrc", "kernels", "flowguide", "engines", "benchmarks", "tests", "setup.py", "CMakeLists.txt"):
        assert (ROOT / name).exists(), name


def test_every_package_is_listed_in_setup() -> None:
    listed = set(_assigned_list(ROOT / "setup.py", "PACKAGES"))
    there = {".".join(p.parent.relative_to(ROOT).parts) for p in PACKAGE.rglob("__init__.py")}
    assert listed == there | {"flowguide.kernels", "flowguide.engines"}


def _assigned_list(path: Path, name: str) -> list[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            return list(ast.literal_eval(node.value))
    raise AssertionError(f"{path} has no {name}")


def test_the_public_face_is_sorted_and_real() -> None:
    assert flowguide.__all__ == sorted(flowguide.__all__)
    for name in flowguide.__all__:
        assert getattr(flowguide, name) is not None
    assert callable(flowguide.render)
    with pytest.raises(AttributeError):
        flowguide.nothing  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = "import sys, flowguide; print([m for m in ('torch', 'numpy', 'cv2', 'diffusers') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_rooms_beside_the_package_import_under_its_name() -> None:
    script = "import flowguide.kernels, flowguide.engines; print(flowguide.kernels.__name__)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=os.sep)
    assert result.stdout.strip() == "flowguide.kernels"
    public = sys.modules.get("kernels")
    assert public is None or Path(public.__file__ or "").resolve().parent != ROOT / "kernels"
