"""The commands `flow` and `shots`: what was found in a clip, to look at, to edit and to use elsewhere."""

from __future__ import annotations

import json as json_text
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .config import RenderConfig
from .errors import FlowguideError, UsageError

DEFAULT_FLOW: str = RenderConfig.model_fields["flow"].default
"""What a render takes."""

if TYPE_CHECKING:
    from .flow import FlowEstimator
    from .types import Flow, Frame
    from .video import ClipReader


def flow_command(
    source: Path,
    output: str,
    /,
    *,
    flow: str = DEFAULT_FLOW,
    confidence: str = "check",
    view: Literal["wheel", "overlay"] = "wheel",
    longest_px: float | None = None,
    to_first: bool = False,
    size: str | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    max_frames: int | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Find the optical flow of SOURCE between neighbouring frames and write it into OUTPUT.

    Parameters
    ----------
    source
        The clip.
    output
        A video, which shows for each frame the flow to the frame before it; or a pattern of flow files for both
        directions, such as 'flow/{at:05d}-{to:05d}.flo', which --flow files:PATTERN reads. Also .png, .npy and .exr.
    flow
        Flow estimator by name.
    confidence
        How far the flow is believed: check, forward-backward, learned, own of flowguide-flow, or parts such as
        consistency+texture+photometric.
    view
        What the video shows: the colour wheel, or the frame with arrows, tinted where the flow is doubted.
    longest_px
        Length of the flow that the colour wheel shows fully saturated. Default: a hundredth of the width.
    to_first
        Show where each frame's content lay in the first frame of its shot: the flows composed.
    size
        HEIGHT, or WIDTHxHEIGHT, in pixels. Default: the source's.
    start_seconds
        Begin here.
    end_seconds
        Stop before here.
    max_frames
        Stop after this many frames.
    overwrite
        Replace files that are there already.
    json
        The result as one JSON object.
    """
    from .flow import FlowFiles, estimator
    from .video import ClipReader, check_output

    if longest_px is not None and not 0 < longest_px < math.inf:
        raise UsageError(f"--longest-px should be a number of pixels above 0, got {longest_px:g}.")
    made = estimator(flow, confidence=confidence)
    as_files = "{" in output
    if as_files:
        FlowFiles(output)  # refuses a pattern that cannot be read again
        if to_first:
            raise UsageError("Flow to the first frame is shown as a video only; leave --to-first out for flow files.")
    else:
        check_output(output, [source])
        _free(Path(output), overwrite)
    with ClipReader(
        source, size=size, start_seconds=start_seconds, end_seconds=end_seconds, max_frames=max_frames
    ) as reader:
        if as_files:
            written = _write_files(reader, output, made, overwrite)
        else:
            shown = _to_first(reader, made) if to_first else _to_neighbour(reader, made)
            written = _write_video(reader, Path(output), shown, view, longest_px)
    if json:
        print(json_text.dumps({"output": output, "flow": made.name, "written": written}))
    else:
        print(f"{output}: {written} {'files' if as_files else 'frames'}, flow by {made.name}")


def _neighbours(reader: ClipReader, made: FlowEstimator) -> Iterator[tuple[Frame, Flow | None, Flow | None]]:
    """Each frame with the flow to the frame before it and the one from there; None at the first."""
    from .flow.lookahead import Lookahead

    before: Frame | None = None
    with Lookahead(reader, made) as ahead:
        for frame in ahead:
            found = (None, None) if before is None else ahead.both(frame, before)
            yield (frame, *found)
            before = frame


def _free(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already; choose another name, or --overwrite it.")


def _write_files(reader: ClipReader, pattern: str, made: FlowEstimator, overwrite: bool) -> int:
    from .flow.formats import write_flow

    written = 0
    for _, *found in _neighbours(reader, made):
        for flow in found:
            if flow is None:
                continue
            path = Path(pattern.format(at=flow.at, to=flow.to))
            _free(path, overwrite)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_flow(path, flow.uv)
            except OSError as error:
                reason = error.strerror or error
                raise FlowguideError(f"{path} cannot be written ({reason}); choose another place.") from error
            written += 1
    if not written:
        raise UsageError(f"{reader.info.path} gave a single frame, and flow lies between two.")
    return written


Shown = Iterator[tuple["Frame", "Flow | None"]]


def _to_neighbour(reader: ClipReader, made: FlowEstimator) -> Shown:
    """Each frame with the flow to the frame before it."""
    return ((frame, flow) for frame, flow, _ in _neighbours(reader, made))


def _to_first(reader: ClipReader, made: FlowEstimator) -> Shown:
    """Each frame with the flow to the first frame of its shot, believed less the older it is."""
    from .flow.composition import Route
    from .flow.shots import CutDetector

    cuts, route = CutDetector(), None
    for frame, flow, _ in _neighbours(reader, made):
        if cuts.is_cut(frame) or flow is None:
            route = None
            yield frame, None
            continue
        route = Route.begin(flow) if route is None else route.after(flow)
        yield frame, route.aged()


def _write_video(reader: ClipReader, output: Path, shown: Shown, view: str, longest_px: float | None) -> int:
    import torch

    from .flow.picture import colour_wheel, overlay
    from .types import Flow, Frame
    from .video import ClipWriter

    info = reader.info
    longest_px = longest_px or info.size[1] / 100
    with ClipWriter(output, size=info.size, time_base=info.time_base, frame_rate=info.frame_rate) as writer:
        for frame, found in shown:
            flow = found or Flow(torch.zeros(2, *frame.size), frame.index, frame.index)
            picture = overlay(frame, flow) if view == "overlay" else colour_wheel(flow, longest_px)
            writer.write(Frame(picture, frame.index, frame.pts, frame.time_base))
    return writer.frames_written


def shots_command(
    source: Path,
    output: Path | None = None,
    /,
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    max_frames: int | None = None,
    json: bool = False,
) -> None:
    """Find the shots of SOURCE, print them and write them into OUTPUT.

    Parameters
    ----------
    source
        The clip.
    output
        A CSV file to edit and give to render --shots; one that is there is not replaced. Without it the list is
        only printed.
    start_seconds
        Begin here; frames are counted from here, as render counts them with the same option.
    end_seconds
        Stop before here.
    max_frames
        Stop after this many frames.
    json
        The list as one JSON object.
    """
    from .flow.shot_list import write_shots
    from .flow.shots import find_shots
    from .video import ClipReader

    if output is not None and output.exists():
        raise UsageError(f"{output} is there already; choose another name, or remove it.")
    with ClipReader(source, start_seconds=start_seconds, end_seconds=end_seconds, max_frames=max_frames) as reader:
        shots = list(find_shots(reader))
        rate = reader.info.frame_rate
    if output is not None:
        try:
            write_shots(output, shots, rate)
        except OSError as error:
            raise UsageError(f"{output} cannot be written ({error.strerror or error}).") from error
    if json:
        listed = [{"first": shot.first, "end": shot.end} for shot in shots]
        print(json_text.dumps({"shots": listed, "output": None if output is None else str(output)}))
        return
    for number, shot in enumerate(shots, 1):
        seconds = "" if rate is None else f", {float(shot.first / rate):.2f} s"
        print(f"shot {number}: frames {shot.first}-{shot.end - 1}{seconds}")
    if output is not None:
        print(f"{output}; use it with: flowguide render {source} OUTPUT --shots {output}")
