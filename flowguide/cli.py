"""The command line: every option comes from `config`, every error is one sentence, every exit code has a meaning.

0 done, 1 failed, 2 wrong use, 130 stopped by the user.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

from cyclopts import App, CycloptsError, Parameter, ValidationError
from cyclopts.config import Dict, Env

from . import __version__
from .bench_command import bench_command
from .compare_command import compare_command
from .config import RenderConfig, read_toml, render_config, steady_config
from .engines_command import engines_app
from .errors import FlowguideError, UsageError
from .flow_commands import flow_command, shots_command
from .metrics_command import metrics_command
from .models_command import models_app
from .run_commands import init_command, rerun_command, resume_command, show_command, try_command
from .steady_command import steady_command
from .timing import tracing

app = App(
    name="flowguide",
    help="Painted, steady video: flow-guided video-to-video with an image diffusion model.",
    version=__version__,
    help_format="plaintext",
)
app.command(engines_app)
app.command(models_app)


app.command("flowguide.training.__main__:app", name="training", help="Train, export and measure the bundled model.")


@app.command
def render(
    source: Path,
    output: Path | None = None,
    /,
    *,
    options: Annotated[RenderConfig, Parameter(name="*")] = RenderConfig(),  # noqa: B008
    config: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    redo: str | None = None,
    segment_frames: int | None = None,
    out_dir: Path | None = None,
    dry_run: bool = False,
    explain: Path | None = None,
    trace: Path | None = None,
    json: bool = False,
) -> None:
    """Paint SOURCE into OUTPUT: same sound, same times, steady.

    Parameters
    ----------
    source
        The clip to paint; with --out-dir also a glob of clips, such as 'clips/*.mp4'.
    output
        The video to write; its suffix chooses the container. A folder gets pictures, converted_%06d.png; "-" is raw
        RGB on standard output. What the run needs to go on is kept in OUTPUT.run.
    config
        TOML file with a [render] table of the options below; options given here go over it.
    resume
        Go on with an interrupted run; begin where there is none.
    overwrite
        Replace OUTPUT, or a run that is there, once the new one is complete.
    redo
        Frames of a finished OUTPUT to paint again, FIRST-LAST, in whole segments, with what is said differently here.
    segment_frames
        Frames per segment: what an interrupted run paints again at most. Default: 48, times --lanes, whose shots are
        looked for within a segment.
    out_dir
        Paint every clip that SOURCE means into this folder; a failure of one does not stop the others.
    dry_run
        Say what would be done, how long it takes and how much room it needs; paint a few frames and write nothing.
    explain
        Write what guided each frame into this folder: source, reference, warped, confidence with holes in red, result.
    trace
        Write what ran when into this file, as Chrome's trace events: ui.perfetto.dev shows them, a row per thread.
    json
        Progress and result as one JSON object per line.
    """
    from . import run_commands

    if explain is not None and (dry_run or out_dir is not None or str(output) == "-"):
        raise UsageError("--explain goes with a single OUTPUT that is a file; leave --dry-run, --out-dir and - out.")
    if dry_run:
        run_commands.estimate(source, output, options, as_json=json)
        return
    request = run_commands.request(resume=resume, overwrite=overwrite, redo=redo)
    with tracing(trace):
        if out_dir is not None:
            run_commands.batch(source, output, out_dir, options, request, segment_frames, as_json=json)
        elif output is None:
            raise UsageError("OUTPUT is missing; name the video to write, or with --out-dir a folder for several.")
        elif str(output) == "-":
            run_commands.stream_raw(source, options, request, as_json=json)
        else:
            run_commands.render_one(source, output, options, request, segment_frames, as_json=json, explain=explain)


app.command(resume_command, name="resume")
app.command(show_command, name="show")
app.command(rerun_command, name="rerun")
app.command(init_command, name="init")
app.command(try_command, name="try")
app.command(flow_command, name="flow")
app.command(shots_command, name="shots")
app.command(steady_command, name="steady")
app.command(metrics_command, name="metrics")
app.command(compare_command, name="compare")
app.command(bench_command, name="bench")


@app.command
def demo(
    *,
    clip: Path | None = None,
    prompt: str = "oil painting",
    frames: int = 72,
    out_dir: Path = Path("out/demo"),
) -> None:
    """Paint a clip without and with guidance, measure both and put them side by side.

    Parameters
    ----------
    clip
        The clip; without one, a scene made by flowguide itself.
    prompt
        What it should look like; the bundled model knows oil painting, ink drawing, mosaic, watercolour, photo.
    frames
        How many frames to paint.
    out_dir
        Folder for the results.
    """
    from .runs.demo import run_demo
    from .terminal import print_demo

    print_demo(run_demo(prompt, frames, out_dir, clip))


@app.command
def doctor(*, json: bool = False) -> None:
    """Tell what this machine has, what each absence costs and what to do; ends with 1 where nothing can be painted.

    Parameters
    ----------
    json
        As one JSON object: "ready", and "findings".
    """
    from .doctor import examine, is_ready, print_findings

    findings = examine()
    if json:
        _print_json({"ready": is_ready(findings), "findings": [finding.as_dict() for finding in findings]})
    else:
        print_findings(findings)
    if not is_ready(findings):
        sys.exit(1)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _config_file(arguments: Sequence[str]) -> Path | None:
    """The value of --config, looked at before parsing: what it holds are defaults for the parser."""
    for position, argument in enumerate(arguments):
        if argument == "--config":
            if position + 1 == len(arguments):
                raise UsageError("--config needs the path of a TOML file.")
            return Path(arguments[position + 1])
        if argument.startswith("--config="):
            return Path(argument.partition("=")[2])
    return None


def _defaults(file: Path, command: str) -> dict[str, Any]:
    """The options in `file` by command: those of `steady` are its own, the other commands take render's."""
    if command == "steady":
        values = read_toml(file, "steady")
        steady_config(values)
        return {"steady": values}
    values = read_toml(file)
    render_config(values)
    return {"render": values, "try": values}


def _fail(error: FlowguideError, as_json: bool) -> NoReturn:
    if as_json:
        print(json.dumps({"event": "error", "kind": type(error).__name__, "message": str(error)}))
    print(f"flowguide: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def _sentence(error: CycloptsError) -> UsageError:
    """The parser's complaint as one of ours."""
    cause = error.__cause__
    if isinstance(error, ValidationError) and cause is not None and hasattr(cause, "errors"):
        first = cause.errors()[0]
        name = "-".join(str(part) for part in first["loc"]).replace("_", "-")
        return UsageError(f"--{name}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}.")
    return UsageError(" ".join(str(error).split()))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; always exits."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # The parser takes a lone hyphen for an option; as a path, ./- is the same name.
    arguments = ["./-" if argument == "-" else argument for argument in arguments]
    as_json = "--json" in arguments
    # A spinning second OpenMP thread starves everything else on a small or shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Models are local files; no library asks a hub for anything.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.basicConfig(level=logging.WARNING, format="flowguide: %(message)s", stream=sys.stderr)
    try:
        sources: list[Any] = [Env("FLOWGUIDE_", command=True)]
        file = _config_file(arguments)
        if file is not None:
            sources.append(Dict(_defaults(file, arguments[0]), source=str(file)))
        app.config = tuple(sources)
        app(arguments, exit_on_error=False, print_error=False)
    except FlowguideError as error:
        _fail(error, as_json)
    except CycloptsError as error:
        _fail(_sentence(error), as_json)
    except KeyboardInterrupt:
        print("flowguide: stopped.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError:
        _fail(FlowguideError("Out of memory. Choose a smaller --size, or close other programs."), as_json)
    sys.exit(0)
