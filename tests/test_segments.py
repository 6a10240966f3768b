"""Segments joined by copying packets: every frame, every time, and the sound are those of one undivided file."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from coded_frames import clicks_in, frames, make_clicking, number_in
from hypothesis import given, settings
from hypothesis import strategies as st

from flowguide.video import ClipReader, codec_for
from flowguide.video.decode_times import decode_times
from flowguide.video.segments import Segment, SegmentWriter, join

NTSC = Fraction(1001, 30000)


def segment_clip(
    folder: Path, name: str, pts: list[int], time_base: Fraction, length: int, **options: object
) -> list[Segment]:
    """Coded frames at `pts` in segments of `length` frames."""
    output = folder / name
    suffix = output.suffix
    coded = list(frames(pts, time_base))
    made = []
    for begin in range(0, len(coded), length):
        path = folder / f"{begin:06d}{suffix}"
        codec = codec_for(output, options.get("codec"))
        with SegmentWriter(path, output, codec, size=coded[0].size, time_base=time_base, rate=Fraction(25)) as writer:
            for frame in coded[begin : begin + length]:
                writer.write(frame)
            made.append(writer.finish())
    return made


def joined(folder: Path, name: str, pts: list[int], time_base: Fraction, length: int = 7, **options: object) -> Path:
    segments = segment_clip(folder, name, pts, time_base, length, **options)
    join(
        segments, folder / name, codec_for(folder / name, options.get("codec")), size=(48, 80), time_base=time_base,
        rate=Fraction(25), audio_from=options.get("audio_from"), metadata={"comment": "made of segments"},
    )  # fmt: skip
    return folder / name


def irregular(count: int) -> list[int]:
    steps = np.random.default_rng(1).integers(1, 90, count)
    return [int(t) for t in np.cumsum(steps)]


@pytest.mark.parametrize(
    ("name", "codec", "pts", "time_base"),
    [
        ("cfr.mp4", None, list(range(23)), NTSC),
        ("vfr.mp4", None, irregular(23), Fraction(1, 600)),
        ("late.mp4", None, [600 + 40 * i for i in range(23)], Fraction(1, 60)),
        ("hevc.mp4", "hevc", irregular(16), Fraction(1, 600)),
        ("av1.mp4", "av1", list(range(16)), NTSC),
        ("prores.mov", "prores", irregular(9), Fraction(1, 600)),
        ("h264.mkv", None, [40 * i for i in range(23)], Fraction(1, 1000)),
        ("ffv1.mkv", "ffv1", [7 * i * i for i in range(9)], Fraction(1, 1000)),
        ("vp9.webm", None, [40 * i for i in range(16)], Fraction(1, 1000)),
        ("one.mp4", None, [5], Fraction(1, 25)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_frames_and_times_are_exact(
    tmp_path: Path, name: str, codec: str | None, pts: list[int], time_base: Fraction
) -> None:
    with ClipReader(joined(tmp_path, name, pts, time_base, codec=codec)) as reader:
        found = list(reader)
        assert [number_in(frame.rgb) for frame in found] == list(range(len(pts)))
        assert [frame.pts * frame.time_base for frame in found] == [t * time_base for t in pts]
        assert reader.losses == []
    with av.open(str(tmp_path / name)) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
        assert tags["comment"] == "made of segments"
        if codec == "hevc":
            assert container.streams.video[0].codec_context.codec_tag == "hvc1"


def test_each_segment_decodes_to_the_same_frames_alone_and_joined(tmp_path: Path) -> None:
    segments = segment_clip(tmp_path, "out.mp4", irregular(20), Fraction(1, 600), 6)
    alone = [frame.rgb for segment in segments for frame in ClipReader(segment.path)]
    join(segments, tmp_path / "out.mp4", codec_for("out.mp4"), size=(48, 80), time_base=Fraction(1, 600), rate=None)
    together = [frame.rgb for frame in ClipReader(tmp_path / "out.mp4")]
    assert len(alone) == len(together) == 20
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_seek_lands_where_it_should(tmp_path: Path) -> None:
    path = joined(tmp_path, "out.mp4", irregular(30), Fraction(1, 600))
    with ClipReader(path, start_seconds=(irregular(30)[17] - irregular(30)[0]) / 600) as reader:
        assert number_in(next(reader).rgb) == 17


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_sound_stays_where_it_was(tmp_path: Path, name: str) -> None:
    source = make_clicking(tmp_path / "source.mp4", 2.0, [0.25, 1.5])
    with ClipReader(source) as reader:
        path = joined(tmp_path, name, [40 * i for i in range(50)], Fraction(1, 1000), 20, audio_from=reader)
    assert clicks_in(path) == pytest.approx([0.25, 1.5], abs=1024 / 48000)


@given(
    steps=st.lists(st.integers(1, 1000), min_size=1, max_size=40),
    groups=st.lists(st.permutations(list(range(4))), min_size=10, max_size=10),
)
@settings(deadline=None, max_examples=60)
def test_decode_times_increase_and_come_before_showing(steps: list[int], groups: list[list[int]]) -> None:
    pts = [int(t) for t in np.cumsum(steps)]
    order = [4 * number + rank for number, group in enumerate(groups) for rank in group]
    order = [rank for rank in order if rank < len(pts)]
    decoded = decode_times(pts, order)
    assert all(a < b for a, b in itertools.pairwise(decoded))
    assert all(dts <= pts[rank] for dts, rank in zip(decoded, order, strict=True))
