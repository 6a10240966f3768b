"""Clips shown together in one video, with their names: in a row, wiped over each other, or their difference."""

from __future__ import annotations

import logging
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..abreast import Abreast
from ..errors import UnknownName, UsageError
from ..types import ClipInfo, Frame
from ..video import ClipReader, ClipWriter, check_output, probe

log = logging.getLogger("flowguide.compare")

SAME_ASPECT = 0.02
"""Relative difference of aspect up to which a clip is simply scaled to the first one's size."""
SAME_RATE = 0.005
"""Relative difference of frame rates up to which they count as one."""
LEAST_LABEL_PX, LABEL_SHARE = 28, 1 / 16
"""Height of the strip with the labels: this share of the picture, and never less than what can be read."""
GAIN = 4
"""Differences are shown this many times as large."""
WIPE_SECONDS = 4.0
"""Time in which a wipe goes forth and back."""
LINE_PX = 2


@dataclass(frozen=True)
class Comparison:
    """What was written."""

    output: Path
    frames: int
    labels: list[str]
    notes: list[str]
    """How the clips differ in size, rate and length, in sentences."""


Show = Callable[[Sequence[Tensor], float], Tensor]
"""(pictures uint8 [3, H, W] of one size, seconds from the first frame) -> the picture shown, uint8 [3, H, W']."""


def side_by_side(pictures: Sequence[Tensor], seconds: float) -> Tensor:
    """The pictures in a row."""
    return torch.cat(list(pictures), dim=2)


def wipe(pictures: Sequence[Tensor], seconds: float) -> Tensor:
    """All pictures in one, in vertical strips whose borders swing, so that every clip is seen everywhere in time."""
    width, clips, swing = pictures[0].shape[2], len(pictures), math.sin(2 * math.pi * seconds / WIPE_SECONDS)
    shown = pictures[0].clone()
    for place, picture in enumerate(pictures[1:], 1):
        left = round(width * min(max((place + (clips - 1) * swing) / clips, 0), 1))
        if left < width:
            shown[:, :, left:] = picture[:, :, left:]
            shown[:, :, max(left - LINE_PX, 0) : left] = 255
    return shown


def difference(pictures: Sequence[Tensor], seconds: float) -> Tensor:
    """How far each further picture is from the first, in a row: `GAIN` times the absolute difference."""
    first = pictures[0].int()
    return torch.cat([((p.int() - first).abs() * GAIN).clamp(max=255).to(torch.uint8) for p in pictures[1:]], dim=2)


MODES: dict[str, Show] = {"side-by-side": side_by_side, "wipe": wipe, "difference": difference}


def compare(
    clips: Mapping[str, Path],
    output: Path,
    *,
    mode: str = "side-by-side",
    overwrite: bool = False,
    max_frames: int | None = None,
) -> Comparison:
    """Show `clips` (label -> file) together in `output`, with the times and the sound of the first.

    Clips of another size are scaled to the first one's, those of another frame rate are shown at its times, and the end
    is that of the shortest; the notes say so. Raises UsageError for fewer than two clips, an unknown mode, another
    aspect, and an output that is there already; VideoError where a file cannot be read or written.
    """
    if mode not in MODES:
        raise UnknownName("mode", mode, MODES)
    if len(clips) < 2:
        raise UsageError("A comparison needs at least two clips.")
    check_output(output, clips.values())
    if output.exists() and not overwrite:
        raise UsageError(f"{output} is there already; choose another name, or --overwrite it.")
    infos = {label: probe(path) for label, path in clips.items()}
    notes = _differences(infos)
    notes += [f"The label {label!r} is drawn as {drawable(label)!r}." for label in clips if drawable(label) != label]
    first = next(iter(infos.values()))
    with ExitStack() as opened:
        readers = {
            label: opened.enter_context(_reader(clips[label], info, first, max_frames, infos))
            for label, info in infos.items()
        }
        abreast = Abreast(readers)
        frames = _write(abreast, list(clips), next(iter(readers.values())), output, mode)
    if abreast.ended and frames != max_frames and not _one_length(infos):
        notes.append(f"{', '.join(abreast.ended)} ended before the others; {frames} frames are shown.")
    for note in notes:
        log.warning("%s", note)
    return Comparison(output, frames, list(clips), notes)


def _write(abreast: Abreast, labels: list[str], first: ClipReader, output: Path, mode: str) -> int:
    info, (height, width) = first.info, first.info.size
    told = [f"{label} - {labels[0]}, {GAIN} times" for label in labels[1:]] if mode == "difference" else labels
    columns = 1 if mode == "wipe" else len(told)
    strip = banner(told, width * columns, max(LEAST_LABEL_PX, round(height * LABEL_SHARE)))
    size = (height + strip.shape[1], width * columns)
    began: float | None = None
    with ClipWriter(
        output, size=size, time_base=info.time_base, frame_rate=info.frame_rate, audio_from=first
    ) as writer:
        for frames in abreast:
            time = frames[0]
            began = time.seconds if began is None else began
            shown = MODES[mode]([frame.rgb for frame in frames], time.seconds - began)
            writer.write(Frame(torch.cat([strip, shown], dim=1), time.index, time.pts, time.time_base))
    return writer.frames_written


def _reader(
    path: Path, info: ClipInfo, first: ClipInfo, max_frames: int | None, infos: Mapping[str, ClipInfo]
) -> ClipReader:
    """The clip at the size and the rate of the first; the first itself up to the end of the shortest, and its sound."""
    if info is not first:
        rate = first.frame_rate if _rates_differ(info, first) else None
        return ClipReader(path, size=first.size, frame_rate=rate, max_frames=max_frames)
    lengths = [other.duration_seconds for other in infos.values() if other.duration_seconds]
    frame = 1 / float(first.frame_rate or 25)
    shorter = bool(first.duration_seconds and lengths) and min(lengths) < (first.duration_seconds or 0) - frame
    return ClipReader(path, end_seconds=min(lengths) + frame / 2 if shorter else None, max_frames=max_frames)


def _one_length(infos: Mapping[str, ClipInfo]) -> bool:
    """Whether clips of different rates are equally long: another rate gives up to a frame more at the end."""
    first, *others = infos.values()
    if not any(_rates_differ(info, first) for info in others):
        return False
    lengths = [info.duration_seconds or 0.0 for info in infos.values()]
    return max(lengths) - min(lengths) < 1.5 / float(first.frame_rate or 25)


def _rates_differ(info: ClipInfo, first: ClipInfo) -> bool:
    if info.frame_rate is None or first.frame_rate is None:
        return False
    return abs(float(info.frame_rate / first.frame_rate) - 1) > SAME_RATE


def _differences(infos: Mapping[str, ClipInfo]) -> list[str]:
    """How the clips differ from the first. Raises UsageError where they cannot be fitted to it."""
    notes = []
    (name, first), *others = infos.items()
    height, width = first.size
    for label, info in others:
        if info.size != first.size:
            sizes = f"{label} is {info.size[1]}x{info.size[0]} and {name} {width}x{height}"
            if abs(info.size[1] * height / (info.size[0] * width) - 1) > SAME_ASPECT:
                raise UsageError(f"{sizes}: clips of different shape cannot be compared; crop or scale one of them.")
            notes.append(f"{sizes}: it is scaled.")
        if _rates_differ(info, first):
            assert info.frame_rate is not None
            assert first.frame_rate is not None
            rates = f"{float(info.frame_rate):.4g} and {name} {float(first.frame_rate):.4g} frames per second"
            notes.append(f"{label} has {rates}: its frames are shown at the times of {name}.")
    return notes


def banner(labels: Sequence[str], width: int, height: int) -> Tensor:
    """uint8 [3, height, width]: the labels over their columns, all in one size, as large as they fit."""
    strip = Image.new("RGB", (width, height), (24, 24, 24))
    draw = ImageDraw.Draw(strip)
    shown = [drawable(label) for label in labels]
    column, size = width / len(labels), height * 0.6
    while size > 7 and max(draw.textlength(text, font=ImageFont.load_default(size)) for text in shown) > column - 8:
        size *= 0.9
    for place, text in enumerate(shown):
        middle = ((place + 0.5) * column, height / 2)
        draw.text(middle, text, fill=(235, 235, 235), font=ImageFont.load_default(size), anchor="mm")
    return torch.from_numpy(np.array(strip)).permute(2, 0, 1)


def drawable(label: str) -> str:
    """The label in letters that Pillow's own font has: without accents, and others as question marks."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", label) if not unicodedata.combining(c))
    return plain.encode("ascii", "replace").decode("ascii")


def short_names(paths: Sequence[Path]) -> list[str]:
    """Each file's name where that tells it from the others, else its path."""
    names = [path.name for path in paths]
    return [path.name if names.count(path.name) == 1 else str(path) for path in paths]
