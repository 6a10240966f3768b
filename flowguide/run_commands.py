"""The commands about runs: go on with one, show what one was, repeat it, many at once, try before."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING

from .config import RenderConfig
from .errors import UsageError

if TYPE_CHECKING:
    from .runs.clip import RenderReport, Request


def request(*, resume: bool, overwrite: bool, redo: str | None) -> Request:
    """The three flags as one request. Raises UsageError where they contradict."""
    from .runs.clip import Request

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
) -> RenderReport:
    """Paint one clip and report on it."""
    from .runs.clip import SEGMENT_FRAMES, render
    from .terminal import reporter

    with reporter(source, output, as_json=as_json) as report:
        done = render(
            source,
            output,
            config=options,
            request=request,
            segment_frames=SEGMENT_FRAMES if segment_frames is None else segment_frames,
            on_start=report.started,
            on_frame=report.frame,
            should_stop=report.stop_asked,
        )
        report.done(done)
        return done


def resume_command(run: Path, /, *, json: bool = False) -> None:
    """Go on with an interrupted run, with its own input and settings.

    Parameters
    ----------
    run
        The output, or its folder OUTPUT.run.
    json
        Progress and result as one JSON object per line.
    """
    from .config import render_config
    from .runs.clip import Request
    from .runs.journal import Journal

    output = run.with_name(run.name.removesuffix(".run"))
    journal = Journal(output)
    if not journal.exists:
        raise UsageError(f"{journal.folder} is no run of flowguide; name an output or its folder OUTPUT.run.")
    known = journal.run
    source, settings = Path(known["source_path"]), render_config(known["settings"])
    render_one(source, output, settings, Request(resume=True), known["segment_frames"], as_json=json)


def show_command(output: Path, /, *, json: bool = False) -> None:
    """Tell how a video of flowguide was made.

    Parameters
    ----------
    output
        The video, or the manifest beside it.
    json
        The whole manifest as one JSON object.
    """
    from .config import render_config
    from .runs.manifest import read_manifest

    content = read_manifest(output)
    if json:
        print(json_text.dumps(content, indent=2, ensure_ascii=False))
        return
    settings = render_config(content["settings"])
    print(f"source: {content['source'].get('name')}")
    for name, field in RenderConfig.model_fields.items():
        value = getattr(settings, name)
        if value != field.default or name in ("prompt", "model", "seed"):
            print(f"{name}: {value}")
    for name in ("frames", "seconds", "flow", "flowguide"):
        print(f"{name}: {content.get(name)}")
    for again in content.get("painted_again", []):
        print(f"painted again: {again}")


def rerun_command(output: Path, target: Path, /, *, source: Path | None = None, json: bool = False) -> None:
    """Paint the source of a video of flowguide again, with the same settings.

    Parameters
    ----------
    output
        The video, or the manifest beside it.
    target
        The video to write.
    source
        The source, where it is not beside OUTPUT under its old name.
    json
        Progress and result as one JSON object per line.
    """
    from .config import render_config
    from .runs.clip import Request
    from .runs.identity import source_digest
    from .runs.manifest import read_manifest

    content = read_manifest(output)
    found = source or output.parent / str(content["source"].get("name"))
    if source_digest(found) != content["source"].get("sha256"):
        raise UsageError(f"{found} is not the source that {output} was made from; name it with --source.")
    settings = render_config(content["settings"])
    render_one(found, target, settings, Request(), content.get("segment_frames"), as_json=json)
