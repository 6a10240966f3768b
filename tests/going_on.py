"""What stops and goes on: the same frames in the end as in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor

import flowguide
from flowguide.errors import Interrupted
from flowguide.renderer import Styled
from flowguide.runs.state_file import load_state, pack, save_state
from flowguide.types import Frame
from flowguide.video import ClipReader, ClipWriter

Decoded = list[tuple[Fraction, bytes, bytes | None]]


class Renders(Protocol):
    """A renderer, by itself or in lanes."""

    def __call__(self, frames: list[Frame], /) -> Iterator[Styled]: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any], /) -> None: ...


def goes_on_bit_by_bit(make: Callable[[], Renders], frames: list[Frame], at: int, folder: Path) -> list[Tensor]:
    """A renderer that takes over the state of another after `at` frames paints what one renderer paints: that is
    returned. Each call finishes what it was given, so a run may stop between two calls and nowhere else."""
    whole = make()
    parts = frames[:at], frames[at:]
    expected = [styled.picture.clone() for part in parts for styled in whole(part)]
    assert len(expected) == len(frames)
    before, after = make(), make()
    made = [styled.picture.clone() for styled in before(parts[0])]
    assert len(made) == at
    save_state(folder / "state", pack(before.state()))
    after.restore(load_state(folder / "state"))
    made += [styled.picture.clone() for styled in after(parts[1])]
    assert [i for i, (a, b) in enumerate(zip(made, expected, strict=True)) if not torch.equal(a, b)] == []
    return expected


def written(path: Path, frames: Sequence[Frame], **choice: Any) -> Path:
    """A clip of these pictures at 25 frames per second."""
    with ClipWriter(path, size=frames[0].size, time_base=Fraction(1, 25), frame_rate=Fraction(25), **choice) as writer:
        for index, frame in enumerate(frames):
            writer.write(Frame(frame.rgb, index, index, Fraction(1, 25)))
    return path


def decoded(path: Path) -> Decoded:
    """Time, picture and opacity of every frame."""
    with ClipReader(path, alpha=True, deep=True, pictures_per_second=Fraction(25)) as reader:
        return [
            (f.pts * f.time_base, f.rgb.numpy().tobytes(), None if f.alpha is None else f.alpha.numpy().tobytes())
            for f in reader
        ]


def stop_after(count: int, seen: list[int] | None = None) -> dict[str, Any]:
    """Arguments of a run that is stopped after `count` frames; their numbers are added to `seen`."""
    seen = [] if seen is None else seen
    return {"on_frame": lambda styled: seen.append(styled.source.index), "should_stop": lambda: len(seen) == count}


def resumed_equals_whole(source: Path, folder: Path, name: str, options: dict[str, Any], stop: int = 3) -> Path:
    """Paint once in one go and once stopped in between; the whole output. The other is parts/`name`."""
    whole, parts = folder / "whole", folder / "parts"
    whole.mkdir()
    parts.mkdir()
    flowguide.render(source, whole / name, **options)
    seen: list[int] = []
    with pytest.raises(Interrupted):
        flowguide.render(source, parts / name, **options, **stop_after(stop, seen))
    assert seen == list(range(stop))
    flowguide.render(source, parts / name, **options, request=flowguide.Request(resume=True))
    assert decoded(parts / name) == decoded(whole / name)
    return whole / name
