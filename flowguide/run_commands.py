"""The commands about runs: go on with one, show what one was, repeat it, many at once, try before."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from .config import RenderConfig
from .errors import FlowguideError, UsageError

if TYPE_CHECKING:
    from .runs.batch import Entry
    from .runs.clip import RenderReport
    from .runs.request import Request


def request(*, resume: bool, overwrite: bool, redo: str | None) -> Request:
    """The three flags as one request. Raises UsageError where they contradict."""
    from .runs.request import Request

    if sum([resume, overwrite, redo is not None]) > 1:
        raise UsageError("--resume, --overwrite and --redo exclude each other; give one of them.")
    return Request(resume, overwrite, None if redo is None else frame_range(redo))


def frame_range(text: str) -> tuple[int, int]:
    """'120-180' -> (120, 180)."""
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        raise UsageError(f"A range of frames is written FIRST-LAST, such as 120-180, got {text!r}.")
    return int(first), int(last)


def render_one(
    source: Path,
    output: Path,
    options: RenderConfig,
    request: Request,
    segment_frames: int | None,
    *,
    as_json: bool,
    explain: Path | None = None,
) -> RenderReport:
    """Paint one clip and report on it."""
    from .machine import keep_freed_memory
    from .runs.clip import SEGMENT_FRAMES, render
    from .terminal import reporter

    keep_freed_memory()
    with reporter(source, output, as_json=as_json) as report:
        done = render(
            source,
            output,
            config=options,
            request=request,
            segment_frames=SEGMENT_FRAMES * options.lanes if segment_frames is None else segment_frames,
            on_start=report.started,
            on_frame=report.frame,
            should_stop=report.stop_asked,
            explain=explain,
        )
        report.done(done)
        return done


def stream_raw(source: Path, options: RenderConfig, request: Request, *, as_json: bool) -> None:
    """Paint one clip to standard output as raw frames."""
    from .runs.raw import STDOUT, stream_raw
    from .runs.request import Request
    from .terminal import reporter

    if as_json or request != Request():
        raise UsageError("Raw frames on standard output leave no room for --json, and no run to resume or redo.")
    with reporter(source, STDOUT, as_json=False) as report:
        count = stream_raw(source, sys.stdout.buffer, options, on_frame=report.frame, should_stop=report.stop_asked)
        report.say(f"{count} frames, {report.rate():.2f} fps: standard output")


def resume_command(run: Path, /, *, json: bool = False) -> None:
    """Go on with an interrupted run, with its own input and settings.

    Parameters
    ----------
    run
        The output, or its folder OUTPUT.run; of numbered pictures also the folder that holds them.
    json
        Progress and result as one JSON object per line.
    """
    from .config import render_config, steady_config
    from .runs.identity import is_steadied
    from .runs.journal import Journal
    from .runs.request import Request
    from .steady_command import steady_one

    if run.is_dir() and run.suffix != ".run":
        runs = sorted(run.glob("*.run"))
        if len(runs) != 1:
            raise UsageError(f"{run} is a folder that holds {len(runs)} runs; name an output or its folder OUTPUT.run.")
        run = runs[0]
    output = run.with_name(run.name.removesuffix(".run"))
    journal = Journal(output)
    if not journal.exists:
        raise UsageError(f"{journal.folder} is no run of flowguide; name an output or its folder OUTPUT.run.")
    known = journal.run
    source, length, asked = Path(known["source_path"]), known["segment_frames"], Request(resume=True)
    if is_steadied(known):
        stylised = Path(known["stylised_path"])
        steady_one(source, stylised, output, steady_config(known["settings"]), asked, length, as_json=json)
        return
    render_one(source, output, render_config(known["settings"]), asked, length, as_json=json)


def show_command(output: Path, /, *, json: bool = False) -> None:
    """Tell how a video of flowguide was made.

    Parameters
    ----------
    output
        The video, or the manifest beside it.
    json
        The whole manifest as one JSON object.
    """
    from .config import SteadyConfig, render_config, steady_config
    from .runs.identity import is_steadied
    from .runs.manifest import read_manifest

    content = read_manifest(output)
    if json:
        print(json_text.dumps(content, indent=2, ensure_ascii=False))
        return
    settings: RenderConfig | SteadyConfig
    if is_steadied(content):
        settings = steady_config(content["settings"])
        print(f"steadied: {content['stylised'].get('name')}")
    else:
        settings = render_config(content["settings"])
    print(f"source: {content['source'].get('name')}")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if value != field.default or name in ("prompt", "model", "seed"):
            print(f"{name}: {value}")
    for name in ("frames", "shots", "seconds", "flow", "flowguide"):
        if name in content:
            print(f"{name}: {content[name]}")
    for note in content.get("notes", []):
        print(f"note: {note}")
    for again in content.get("painted_again", []):
        print(f"painted again: {again}")


def rerun_command(
    output: Path, target: Path, /, *, source: Path | None = None, stylised: Path | None = None, json: bool = False
) -> None:
    """Make a video of flowguide again, from the same clips with the same settings.

    Parameters
    ----------
    output
        The video, or the manifest beside it.
    target
        The video to write.
    source
        The source, where it is not beside OUTPUT under its old name.
    stylised
        The painted clip that OUTPUT was steadied from, likewise.
    json
        Progress and result as one JSON object per line.
    """
    from .config import render_config, steady_config
    from .runs.identity import is_steadied
    from .runs.manifest import read_manifest
    from .runs.request import Request
    from .steady_command import steady_one

    content = read_manifest(output)
    if stylised is not None and not is_steadied(content):
        raise UsageError(f"{output} was painted from its source alone; leave --stylised out.")
    found = _made_from(output, content, "source", source)
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is there already; choose another name, or remove it.")
    length = content.get("segment_frames")
    if is_steadied(content):
        painted = _made_from(output, content, "stylised", stylised)
        steady_one(found, painted, target, steady_config(content["settings"]), Request(), length, as_json=json)
        return
    render_one(found, target, render_config(content["settings"]), Request(), length, as_json=json)


def _made_from(output: Path, content: Mapping[str, Any], part: str, given: Path | None) -> Path:
    """The clip that `output` was made from, as its manifest knows it. Raises UsageError where it is not the same."""
    from .runs.identity import source_digest

    found = given or output.parent / str(content[part].get("name"))
    if not found.exists():
        raise UsageError(f"The {part} {found} does not exist; name it with --{part}.")
    if source_digest(found) != content[part].get("sha256"):
        raise UsageError(f"{found} is not the {part} that {output} was made from; name it with --{part}.")
    return found


def batch(
    source: Path,
    output: Path | None,
    out_dir: Path,
    options: RenderConfig,
    request: Request,
    segment_frames: int | None,
    *,
    as_json: bool,
) -> None:
    """Paint every clip that `source` means into `out_dir` and report on all."""
    from .runs.batch import REPORT, clips_of, outputs_of, paint_all
    from .runs.opened import suffix_of

    if output is not None:
        raise UsageError(f"OUTPUT and --out-dir exclude each other, got {output} and {out_dir}.")
    outputs = outputs_of(clips_of(source), out_dir, suffix_of(options))
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FlowguideError(f"{out_dir} cannot be made ({error.strerror or error}); choose another place.") from error
    if options.lanes > 1:
        entries = _side_by_side(outputs, out_dir, options, request, segment_frames, as_json=as_json)
    else:
        entries = paint_all(
            outputs,
            lambda clip, target: render_one(clip, target, options, request, segment_frames, as_json=as_json),
            out_dir,
        )
    failed = [entry for entry in entries if entry.error]
    for entry in failed:
        print(f"{entry.source}: {entry.error}", file=sys.stderr)
    print(f"{len(entries) - len(failed)} of {len(entries)} clips painted; {out_dir / REPORT}", file=sys.stderr)
    if failed:
        raise FlowguideError(f"{len(failed)} of {len(entries)} clips failed; go on with the same command and --resume.")


def _side_by_side(
    outputs: Mapping[Path, Path],
    out_dir: Path,
    options: RenderConfig,
    request: Request,
    segment_frames: int | None,
    *,
    as_json: bool,
) -> list[Entry]:
    """Paint several clips at once; a line for each that is done."""
    from .runs.batch import note_report
    from .runs.clip import SEGMENT_FRAMES
    from .runs.many import render_many
    from .terminal import reporter

    done: list[Entry] = []
    with reporter(out_dir, out_dir, as_json=as_json) as report:

        def told(entry: Entry) -> None:
            done.append(entry)
            note_report(out_dir, done)
            report.say(f"{entry.source}: {entry.error or f'{entry.frames} frames, {entry.output}'}")

        return render_many(
            {source: output for source, output in outputs.items()},
            config=options,
            request=request,
            segment_frames=segment_frames or SEGMENT_FRAMES,
            on_done=told,
            should_stop=report.stop_asked,
        )


def estimate(source: Path, output: Path | None, options: RenderConfig, *, as_json: bool) -> None:
    """Say what a run would do."""
    from dataclasses import asdict

    from .runs.disk import told
    from .runs.estimate import estimate as estimated

    found = estimated(source, output or Path("out.mp4"), options)
    if as_json:
        print(json_text.dumps({"event": "estimate", **asdict(found)}))
        return
    height, width = found.size
    low, high = found.seconds
    memory = "not known" if found.memory_bytes is None else told(found.memory_bytes)
    shown = ", ".join(map(str, found.shots[:12])) + (" …" if len(found.shots) > 12 else "")
    print(f"frames:      {found.frames} of {width}x{height}")
    print(f"shots:       {len(found.shots)}, beginning at {shown}: each first frame is an anchor, painted whole")
    print(f"to generate: about {found.generated_share:.0%} of the pixels; the rest is carried over by the flow")
    print(f"model calls: {found.model_calls}")
    basis = f"{found.profiled_frames} frames of an earlier run" if found.profiled_frames else "frames painted just now"
    print(f"time:        {low:.0f} to {high:.0f} s, by {basis}")
    print(f"memory:      {memory}")
    print(f"disk:        about {told(found.disk_bytes)} of {told(found.free_bytes)} that are free")


def init_command(source: Path, file: Path | None = None, /) -> None:
    """Write a commented settings file for a clip, with what was found in it.

    Parameters
    ----------
    source
        The clip.
    file
        The TOML file to write. Default: the clip's name with .toml, in this folder.
    """
    from .runs.starter import write_settings

    path = file or Path(f"{source.stem}.toml")
    write_settings(source, path)
    print(f"{path}; use it with: flowguide render {source} OUTPUT --config {path}")


def try_command(
    source: Path,
    output: Path | None = None,
    /,
    *,
    at: str | None = None,
    frames: int = 16,
    options: Annotated[RenderConfig, Parameter(name="*")] = RenderConfig(),  # noqa: B008
    config: Path | None = None,
    json: bool = False,
) -> None:
    """Paint a few frames of a clip, to see what the settings do.

    Parameters
    ----------
    source
        The clip.
    output
        The video to write. Default: the clip's name with -try.mp4, in this folder; it is replaced by the next try.
    at
        Where to begin: 12s, 12.5 or 1:02. Default: --start-seconds, else the beginning.
    frames
        How many frames to paint; fewer where --max-frames is less.
    config
        TOML file with a [render] table of the options below, as for render; options given here go over it.
    json
        Progress and result as one JSON object per line.
    """
    from .config import changed
    from .runs.journal import Journal
    from .runs.request import Request

    target = output or Path(f"{source.stem}-try.mp4")
    if frames < 1:
        raise UsageError(f"--frames should be at least 1, got {frames}.")
    begin = options.start_seconds if at is None else seconds_of(at)
    part = changed(options, start_seconds=begin, max_frames=min(frames, options.max_frames or frames))
    tried_before = Journal(target).exists
    if target.exists() and not target.is_dir() and not tried_before:
        raise UsageError(
            f"{target} is there already and was not painted by flowguide; choose another name, or remove it."
        )
    render_one(source, target, part, Request(overwrite=tried_before), None, as_json=json)


def seconds_of(text: str) -> float:
    """'12s', '12.5', '1:02' or '1:00:02' in seconds."""
    try:
        parts = [float(part) for part in text.strip().removesuffix("s").split(":")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3 or any(not 0 <= part < 1e9 for part in parts):
        raise UsageError(f"A time is written 12s, 12.5 or 1:02, got {text!r}.")
    return float(sum(part * 60**power for power, part in enumerate(reversed(parts))))
