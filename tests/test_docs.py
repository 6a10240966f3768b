"""The documentation is true: its commands run, its links resolve, every command and option is in it."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import flowguide
from flowguide.cli import app
from flowguide.config import RenderConfig, SteadyConfig
from flowguide.types import Frame
from flowguide.video import ClipWriter, probe

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OPTIONS_PAGE = ROOT / "docs" / "options.md"


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in that language, '' for none."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in fenced if name == language]


@pytest.fixture
def workplace(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the clip and the checkpoint that the README speaks of."""
    generator = np.random.default_rng(0)
    texture = generator.integers(0, 255, (3, 64, 80), dtype=np.uint8)
    with ClipWriter(tmp_path / "in.mp4", size=(64, 64), time_base=Fraction(1, 25), frame_rate=Fraction(25)) as writer:
        for index in range(3):
            rgb = torch.from_numpy(np.ascontiguousarray(texture[:, :, index : index + 64]))
            writer.write(Frame(rgb, index, index, Fraction(1, 25)))
    (tmp_path / "path" / "to").mkdir(parents=True)
    os.symlink(tiny_checkpoint, tmp_path / "path" / "to" / "checkpoint")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_readme_run(workplace: Path) -> None:
    commands = [line for block in blocks("") for line in block.splitlines() if line.startswith("flowguide ")]
    assert len(commands) >= 5
    for command in commands:
        words = shlex.split(command.replace("--size 384", "--size 64"))[1:]
        script = f"from flowguide.cli import main; main({words!r})"
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{command}\n{result.stderr}"
    assert probe(workplace / "out.mp4").size == (64, 64)


def test_the_python_of_the_readme_runs(workplace: Path) -> None:
    shown: list[np.ndarray] = []
    rng = np.random.default_rng(0)
    names = {
        "flowguide": flowguide,
        "pictures": [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(2)],
        "show": shown.append,
    }
    for code in blocks("python"):
        exec(compile(code.replace('"384"', '"64"'), "README.md", "exec"), names)
    assert len(shown) == 2
    assert len(names["frames"]) == 3


def test_the_example_runs_and_is_short(workplace: Path) -> None:
    script = ROOT / "examples" / "paint.py"
    lines = [line for line in script.read_text().splitlines() if line.strip()]
    assert len(lines) <= 16
    result = subprocess.run(
        [sys.executable, str(script), "in.mp4", "painted.mp4", "mosaic"], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert probe(workplace / "painted.mp4").frames == 3


def test_the_demo_paints_measures_and_says_where(tmp_path: Path) -> None:
    script = f"from flowguide.cli import main; main(['demo', '--frames', '2', '--out-dir', {str(tmp_path)!r}])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr
    for told in ("fps guided", "E_warp(1)", "side-by-side.mp4"):
        assert told in result.stdout
    assert probe(tmp_path / "side-by-side.mp4").frames == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_tree_of_the_readme_is_there() -> None:
    tree = next(block for block in blocks("") if block.startswith("csrc/"))
    named = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    for name in named:
        assert (ROOT / name).is_dir(), name
    ignored = {"build", "out", "dist", "wheels"}
    there = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))} - ignored
    assert {name for name in there if not name.endswith(".egg-info")} == named


def test_every_command_is_in_the_readme() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in app:
        if not name.startswith("-"):
            assert f"flowguide {name}" in pages, name


def options_page() -> str:
    lines = [
        "# Options of `flowguide render`",
        "",
        "Made from `flowguide/config.py`. On the command line with dashes (`--flow-weight`), in a TOML file under",
        "`[render]` and in Python with underscores, in the environment as `FLOWGUIDE_RENDER_…`.",
        "",
        *options_table(RenderConfig),
        "",
        "# Options of `flowguide steady`",
        "",
        "Likewise; in a TOML file under `[steady]`, in the environment as `FLOWGUIDE_STEADY_…`.",
        "",
        *options_table(SteadyConfig),
    ]
    return "\n".join(lines) + "\n"


def options_table(config: type[RenderConfig | SteadyConfig]) -> list[str]:
    lines = ["| option | default | what it does |", "|---|---|---|"]
    for name, field in config.model_fields.items():
        default = "" if field.default is None else f"`{field.default!r}`" if field.default != () else "none"
        lines.append(f"| `{name}` | {default} | {field.description} |".replace("||", "| |"))
    return lines


def test_every_option_is_documented() -> None:
    """FLOWGUIDE_WRITE_DOCS=1 writes the page instead."""
    if os.environ.get("FLOWGUIDE_WRITE_DOCS"):
        OPTIONS_PAGE.write_text(options_page(), encoding="utf-8")
    assert OPTIONS_PAGE.read_text(encoding="utf-8") == options_page()


def test_the_results_in_the_readme_are_the_measured_ones() -> None:
    specification = importlib.util.spec_from_file_location("readme_table", ROOT / "benchmarks" / "readme.py")
    assert specification is not None
    assert specification.loader is not None
    table = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(table)
    assert table.updated(README) == README, "run: python benchmarks/readme.py"
