"""FFmpeg's filters as functions from pictures to pictures."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Protocol

import av.error
from av.filter import Graph
from av.video.frame import VideoFrame

Timed = tuple[int, VideoFrame]
"""pts and picture."""


class Stamped(Protocol):
    """What has a time."""

    @property
    def pts(self) -> int | None: ...

    @property
    def dts(self) -> int | None: ...


def filtered(
    description: str, pictures: Iterable[VideoFrame], time_base: Fraction, second: VideoFrame | None = None
) -> Iterator[VideoFrame]:
    """`pictures`, all of one size and format, through the filter `description` ("name=options"), a few at a time.

    second: a still picture for the filter's second input, if it has one.
    """
    pictures = iter(pictures)
    first = next(pictures)
    name, _, options = description.partition("=")
    graph = Graph()
    step = graph.add(name, options)
    inputs = []
    for number, example in enumerate(filter(None, (first, second))):
        source = graph.add_buffer(
            width=example.width, height=example.height, format=example.format, time_base=time_base
        )
        source.link_to(step, 0, number)
        inputs.append(source)
    sink = graph.add("buffersink")
    step.link_to(sink)
    graph.configure()
    if second is not None:
        inputs[1].push(second)
        inputs[1].push(None)
    for picture in itertools.chain([first], pictures, [None]):
        inputs[0].push(picture)
        with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
            while isinstance(result := sink.pull(), VideoFrame):
                yield result


def deinterlaced(pictures: Iterable[Timed], time_base: Fraction) -> Iterator[Timed]:
    """The same number of pictures at the same times, those stored as two fields made whole by motion (bwdif)."""

    def stamped(group: Iterable[Timed]) -> Iterator[VideoFrame]:
        for pts, picture in group:
            picture.pts, picture.time_base = pts, time_base
            yield picture

    def layout(timed: Timed) -> tuple[int, int, str, int, int]:
        picture = timed[1]
        return picture.height, picture.width, picture.format.name, picture.colorspace, picture.color_range

    for (*_, colorspace, color_range), group in itertools.groupby(pictures, layout):
        for picture in filtered("bwdif=mode=send_frame:deint=interlaced", stamped(group), time_base):
            picture.colorspace, picture.color_range = colorspace, color_range
            assert picture.pts is not None
            assert picture.time_base is not None
            yield round(picture.pts * picture.time_base / time_base), picture
