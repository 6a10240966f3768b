"""Frames whose number can be read back from their pixels, and small files made with PyAV alone, apart from ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flowguide.types import Frame
from flowguide.video import ClipReader, ClipWriter, Codec

BITS = 10
SIZE = (48, 80)


def coded(number: int, size: tuple[int, int] = SIZE) -> Tensor:
    """uint8 [3, H, W]: the bits of `number` as dark and bright bars, the lower half inverted."""
    height, width = size
    columns = torch.arange(width) * BITS // width
    bright = (number >> columns) & 1
    rows = torch.arange(height)[:, None] < height // 2
    bars = torch.where(rows, bright, 1 - bright) * 180 + 40
    return bars.to(torch.uint8).expand(3, height, width).contiguous()


def number_in(rgb: Tensor) -> int:
    """The number that `coded` put in, checked against its inverted copy."""
    grey = rgb.float().mean(0)
    height, width = grey.shape
    centres = ((torch.arange(BITS) + 0.5) * width / BITS).long()
    upper, lower = (grey[height * part // 8, centres] > 128 for part in (2, 6))
    assert bool((upper != lower).all()), "the two halves of the code disagree"
    return int((upper.long() << torch.arange(BITS)).sum())


def frames(pts: Sequence[int], time_base: Fraction, size: tuple[int, int] = SIZE) -> Iterable[Frame]:
    for index, time in enumerate(pts):
        yield Frame(coded(index, size), index, time, time_base)


def write(
    path: Path,
    pts: Sequence[int],
    time_base: Fraction,
    size: tuple[int, int] = SIZE,
    *,
    rate: Fraction | None = None,
    codec: str | Codec | None = None,
    audio_from: Path | ClipReader | None = None,
) -> Path:
    """A clip of coded frames at `pts`, written by ClipWriter."""
    with ClipWriter(
        path, size=size, time_base=time_base, frame_rate=rate, codec=codec, audio_from=audio_from
    ) as writer:
        for frame in frames(pts, time_base, size):
            writer.write(frame)
    return path


def reference_times(path: Path, stream: int = 0) -> list[Fraction]:
    """Times of all frames by PyAV's plain decode loop, in seconds."""
    with av.open(str(path)) as container:
        video = container.streams.video[stream]
        return [frame.pts * frame.time_base for frame in container.decode(video)]


def make_raw(
    path: Path,
    planes: Sequence[npt.NDArray[np.uint8] | npt.NDArray[np.uint16]],
    pixel_format: str,
    *,
    codec: str = "ffv1",
    count: int = 1,
    tags: tuple[int, int] = (2, 0),
    matrix: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    transfer: int = 2,
) -> Path:
    """`count` equal frames of the given planes, stored without loss, with (colour matrix, range) and transfer tags, a
    display matrix and a pixel aspect."""
    height, width = planes[0].shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.colorspace, stream.codec_context.color_range = tags
        stream.codec_context.color_trc = transfer
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            stream.set_display_matrix(list(matrix))
        for index in range(count):
            picture = av.VideoFrame(width, height, pixel_format)
            picture.colorspace, picture.color_range = tags
            picture.color_trc = transfer
            for plane, values in zip(picture.planes, planes, strict=True):
                line = np.frombuffer(plane, values.dtype).reshape(-1, plane.line_size // values.itemsize)
                line[: values.shape[0], : values.shape[1]] = values
            picture.pts, picture.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def make_clicking(
    path: Path, seconds: float, clicks: Sequence[float], *, codec: str = "aac", rate: int = 48000
) -> Path:
    """A clip of grey frames at 25 fps with silence and clicks at the given seconds."""
    samples = np.zeros(round(seconds * rate), np.float32)
    for click in clicks:
        begin = round(click * rate)
        samples[begin : begin + 480] = 0.8 * np.sin(np.arange(480) * 0.3)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        sound = container.add_stream(codec, rate=rate, layout="mono")
        for index in range(round(seconds * 25)):
            picture = av.VideoFrame.from_ndarray(coded(index).permute(1, 2, 0).contiguous().numpy(), "rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            container.mux(video.encode(picture))
        block = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
        block.sample_rate, block.pts, block.time_base = rate, 0, Fraction(1, rate)
        container.mux(sound.encode(block))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path


def clicks_in(path: Path) -> list[float]:
    """Seconds at which sound begins after silence, by the decoder's own times."""
    found, quiet_until = [], -1.0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            values = np.abs(frame.to_ndarray().astype(np.float32)).max(0)
            scale = 32768 if frame.format.name.startswith("s16") else 1
            begin = float(frame.pts * frame.time_base)
            for sample in np.flatnonzero(values / scale > 0.1):
                at = begin + float(sample) / frame.sample_rate
                if at > quiet_until:
                    found.append(at)
                quiet_until = at + 0.1
    return found


def repainted(source: Path, output: Path, **choice: object) -> Path:
    """Read and write again with sound, as a render does."""
    with ClipReader(source, **choice) as reader:  # type: ignore[arg-type]
        info = reader.info
        with ClipWriter(
            output, size=info.size, time_base=info.time_base, frame_rate=info.frame_rate, audio_from=reader
        ) as writer:
            for frame in reader:
                writer.write(frame)
    return output
