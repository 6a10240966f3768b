"""Pictures stored as two fields are made whole, and that is said; nothing else is touched."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from coded_frames import write
from torch import Tensor

from flowguide.video import ClipReader, probe

SIZE = (64, 128)
COUNT = 20


def bar(position: int) -> np.ndarray:
    """A bright bar on grey, [H, W, 3]."""
    picture = np.full((*SIZE, 3), 60, np.uint8)
    picture[:, position : position + 16] = 230
    return picture


def make_interlaced(path: Path, height: int = SIZE[0]) -> Path:
    """A bar that moves 2 pixels from field to field."""
    with av.open(str(path), "w") as container:
        options = {"crf": "4", "preset": "ultrafast", "x264-params": "tff=1:keyint=5"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = SIZE[1], height, "yuv420p"
        for index in range(COUNT):
            woven = bar(10 + 4 * index)
            woven[1::2] = bar(12 + 4 * index)[1::2]
            picture = av.VideoFrame.from_ndarray(woven, "rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def combing(rgb: Tensor) -> float:
    """How much neighbouring lines differ, in levels."""
    grey = rgb.float().mean(0)[8:-8]
    return float((grey[1:] - grey[:-1]).abs().mean())


def test_fields_are_made_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make_interlaced(tmp_path / "fields.mp4")
    with av.open(str(path)) as container:
        woven = [torch.from_numpy(f.to_ndarray(format="rgb24")).permute(2, 0, 1) for f in container.decode(video=0)]
    with ClipReader(path) as reader:
        found = list(reader)
        assert reader.info.interlaced
    assert "interlaced" in caplog.text
    assert len(found) == COUNT
    assert [frame.pts * frame.time_base for frame in found] == [Fraction(n, 25) for n in range(COUNT)]
    assert min(combing(picture) for picture in woven) > 4
    assert max(combing(frame.rgb) for frame in found[1:-1]) < 1.5


def test_a_part_is_the_same_pictures(tmp_path: Path) -> None:
    path = make_interlaced(tmp_path / "fields.mp4")
    with ClipReader(path) as reader:
        whole = [frame.rgb for frame in reader]
    with ClipReader(path, start_seconds=0.28, max_frames=4) as reader:
        part = [frame.rgb for frame in reader]
    differences = [(a.float() - b.float()).abs().mean() for a, b in zip(part, whole[7:11], strict=True)]
    assert max(differences[1:]) == 0
    assert differences[0] < 3


def test_progressive_clips_are_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", range(5), Fraction(1, 25))
    assert not probe(path).interlaced
