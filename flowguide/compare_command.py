"""The command `compare`."""

from __future__ import annotations

import json as json_text
from pathlib import Path

from .errors import UsageError


def compare_command(
    *clips: Path,
    out: Path,
    mode: str = "side-by-side",
    labels: str | None = None,
    max_frames: int | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Show two or more CLIPS together in one video, with the sound and the times of the first.

    Parameters
    ----------
    clips
        The clips. They are scaled to the size of the first, and the shortest ends the video.
    out
        The video to write.
    mode
        side-by-side; wipe, borders that swing over the picture; difference, how far each is from the first.
    labels
        Names to write above them, separated by commas. Default: the files' names.
    max_frames
        Stop after this many frames.
    overwrite
        Replace the video.
    json
        The result as one JSON object.
    """
    from .runs.compare import compare, short_names

    names = short_names(clips) if labels is None else [label.strip() for label in labels.split(",")]
    if len(names) != len(clips):
        raise UsageError(f"--labels should hold a name for each of {len(clips)} clips, got {len(names)}: {labels!r}.")
    if len(set(names)) < len(names) or not all(names):
        raise UsageError(f"Labels should be words that differ, got {', '.join(names)}; give others with --labels.")
    named = dict(zip(names, clips, strict=True))
    done = compare(named, out, mode=mode, overwrite=overwrite, max_frames=max_frames)
    if json:
        print(json_text.dumps({**vars(done), "output": str(done.output)}, ensure_ascii=False))
    else:
        print(f"{done.output}: {done.frames} frames, {mode} of {', '.join(done.labels)}")
