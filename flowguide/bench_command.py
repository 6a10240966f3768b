"""The command `bench`."""

from __future__ import annotations

import json as json_text
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .config import RenderConfig
from .errors import UsageError

FRAMES, ROUNDS = 32, 3
QUICK_FRAMES = 9


def bench_command(
    clip: Path | None = None,
    /,
    *,
    frames: int | None = None,
    rounds: int | None = None,
    quick: bool = False,
    runtimes: tuple[str, ...] = (),
    options: Annotated[RenderConfig, Parameter(name="*")] = RenderConfig(),  # noqa: B008
    output: Path | None = None,
    out_dir: Path | None = None,
    json: bool = False,
) -> None:
    """Measure this machine: a clip from file to file by flowguide and by its peers, by turns.

    Parameters
    ----------
    clip
        The clip; without one, a scene made by flowguide itself.
    frames
        How many frames each side paints. Default: 32, with --quick 9.
    rounds
        How often each side paints them. Default: 3, with --quick 1.
    quick
        One short round, without torch.compile.
    runtimes
        Runtimes to measure flowguide with. Default: --runtime, and OpenVINO on a CPU that has it.
    output
        JSON file for the result.
    out_dir
        Folder to keep the videos in.
    json
        The result as one JSON object instead of a table.
    """
    from .bench.run import Plan, bench
    from .bench.table import table
    from .video import probe

    asked = options.max_frames if frames is None else frames
    chosen = (QUICK_FRAMES if quick else FRAMES) if asked is None else asked
    times = (1 if quick else ROUNDS) if rounds is None else rounds
    if chosen < 2 or times < 1:
        raise UsageError(f"bench paints at least 2 frames in at least 1 round, got {chosen} in {times}.")
    if clip is not None:
        probe(clip)
    plan = Plan(clip, chosen, times, _runtimes(runtimes, options), compiled=not quick)
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"{output} cannot be written: its folder does not exist; make it first.")

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    with tempfile.TemporaryDirectory() as scratch:
        folder = out_dir or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        result = bench(plan, options, folder, say)
    result = {"date": datetime.now(UTC).date().isoformat(), **result}
    if output is not None:
        output.write_text(json_text.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json_text.dumps(result, ensure_ascii=False) if json else table(result))


def _runtimes(asked: tuple[str, ...], options: RenderConfig) -> tuple[str, ...]:
    from .diffusion.runtimes import usable_runtimes
    from .machine import choose_device, choose_dtype

    device = choose_device(options.device)
    usable = usable_runtimes(asked or ("openvino",), device, choose_dtype(options.dtype, device))
    if asked:
        return asked
    faster = ("openvino",) if device.type == "cpu" and usable["openvino"] is None else ()
    return tuple(dict.fromkeys((options.runtime, *faster)))
