"""Encoding on an NVIDIA card (NVENC), by PyNvVideoCodec: one segment of a run, from the card's memory to a file.

Never executed on a card so far: see docs/engines.md.
"""

from __future__ import annotations

import io
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import torch
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.packet import Packet
from torch import Tensor

from flowguide import ops
from flowguide.errors import BackendMissing, VideoError
from flowguide.types import Frame

from . import nvidia
from .decode_times import decode_times
from .encoders import exact_times, explained, replace_durably, unfinished_name
from .formats import Codec, container_for
from .nvidia import codec_library, current_context, first_line, log
from .segments import Segment, copies_packets
from .writer import ASSUMED_RATE

ENCODERS = {"libx264": "h264", "libx265": "hevc"}
"""Encoder of the CPU -> codec that the card has instead, in 8 bits of 4:2:0."""
PRESET = "P5"
ALIGNED = 2
TAGS = "colour_primaries=1:transfer_characteristics=1:matrix_coefficients=1:video_full_range_flag=0"


class NvencSegment:
    """Encodes the frames of one segment; a context manager, with the face of `segments.SegmentWriter`.

    The codec's crf becomes a constant quantiser: the same quality for all pictures of a kind. Raises VideoError where
    the card stops.
    """

    def __init__(
        self,
        path: Path,
        output: Path,
        codec: Codec,
        *,
        size: tuple[int, int],
        time_base: Fraction,
        rate: Fraction | None,
        device: torch.device,
    ) -> None:
        """path: the segment's file. output, codec: what it will be joined into."""
        self.path, self.pts = path, list[int]()
        self._codec, self._device, self._time_base = codec, device, time_base
        self._rate, self._size = rate or ASSUMED_RATE, codec.stored_size(size)
        self._kind = container_for(output)
        self._library, self._packets = codec_library(), list[dict[str, Any]]()
        self._unfinished = unfinished_name(path)
        height, width = self._size
        on_card = device.type == "cuda"
        with self._told():
            self._encoder = self._library.CreateEncoder(
                width, height, "NV12", False,
                codec=ENCODERS[codec.encoder], gpu_id=device.index or 0, preset=PRESET, tuning_info="high_quality",
                rc="constqp", constqp=codec.options.get("crf", "20"), fps=round(self._rate), bf=0,
                cudacontext=current_context() if on_card else 0,
                cudastream=torch.cuda.default_stream(device).cuda_stream if on_card else 0,
            )  # fmt: skip

    def write(self, frame: Frame) -> None:
        """Encode `frame`, where it lies."""
        params = self._library.NV_ENC_PIC_PARAMS()
        params.inputTimeStamp = len(self.pts)
        self.pts.append(frame.pts)
        with self._told():
            self._packets += self._encoder.Encode(surface_of(frame.rgb.to(self._device), self._size), params)

    def finish(self) -> Segment:
        """Complete the file, on the disk, and tell what is in it."""
        with self._told():
            self._packets += self._encoder.EndEncode()
        order = [int(packet["timestamp"]) for packet in self._packets]
        if sorted(order) != list(range(len(self.pts))):
            raise VideoError(f"NVENC gave {len(order)} packets for {len(self.pts)} frames; give --encoder cpu.")
        with explained(self.path):
            self._mux(order)
            replace_durably(self._unfinished, self.path)
        return Segment(self.path, self.pts, order)

    def _mux(self, order: list[int]) -> None:
        """Put the encoder's bare stream into the container that the segments of this output have."""
        data = _tagged([bytes(packet["data"]) for packet in self._packets], ENCODERS[self._codec.encoder])
        shown = [pts - self.pts[0] for pts in self.pts]
        options = exact_times(self._kind, self._time_base)
        with (
            _opened(data, ENCODERS[self._codec.encoder]) as stored,
            av.open(f"file:{self._unfinished}", "w", format=self._kind.format, options=options) as output,
        ):
            stream = output.add_stream_from_template(stored.streams.video[0], opaque=True)
            stream.time_base = self._time_base
            if self._codec.mp4_tag and self._kind.exact_times:
                stream.codec_context.codec_tag = self._codec.mp4_tag
            for held, place, dts in zip(data, order, decode_times(shown, order), strict=True):
                packet = Packet(held)
                packet.stream, packet.time_base = stream, self._time_base
                packet.pts, packet.dts, packet.is_keyframe = shown[place], dts, place == 0
                output.mux(packet)

    def _told(self) -> Any:
        return _Told(self._library, self.path)

    def __enter__(self) -> NvencSegment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._unfinished.unlink(missing_ok=True)


class _Told:
    """Turns what the library raises into a VideoError."""

    def __init__(self, library: Any, path: Path) -> None:
        self._library, self._path = library, path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        theirs = (self._library.PyNvVCException, self._library.PyNvVCExceptionUnsupported, RuntimeError)
        if isinstance(error, theirs):
            raise VideoError(f"NVENC cannot encode {self._path} ({first_line(error)}); give --encoder cpu.") from error


def _opened(data: list[bytes], codec: str) -> InputContainer:
    return av.open(io.BytesIO(b"".join(data)), mode="r", format=codec)


def _tagged(data: list[bytes], codec: str) -> list[bytes]:
    """The packets, whose headers say that the colours are BT.709 of limited range."""
    with _opened(data, codec) as bare:
        tagging = BitStreamFilterContext(f"{codec}_metadata={TAGS}", bare.streams.video[0])
        tagged = [out for packet in data for out in tagging.filter(Packet(packet))]
        return [bytes(packet) for packet in [*tagged, *tagging.filter(None)]]


def surface_of(rgb: Tensor, size: tuple[int, int]) -> Tensor:
    """NV12 in one piece, uint8 [H · 3 / 2, W], of `rgb` uint8 [3, h, w]; its last row and column are repeated up to
    `size` = (H, W), which is even."""
    height, width = size
    image = ops.to_model(rgb[None], pad_to=ALIGNED)
    luma, chroma = ops.from_model(image, layout="nv12")
    return torch.cat([luma[0], chroma[0].reshape(height // 2, width)])


def nvenc_for(
    asked: str, output: str | os.PathLike[str], codec: Codec, size: tuple[int, int], device: torch.device
) -> bool:
    """Whether the card encodes: 'cpu' never, 'nvenc' always, 'auto' where it can.

    Raises BackendMissing with the reason where 'nvenc' cannot be had; 'auto' logs it instead.
    """
    if asked == "cpu":
        return False
    try:
        reason = _why_not(output, codec, codec.stored_size(size), device)
    except BackendMissing as error:
        reason = str(error)
    if reason is None:
        return True
    if asked != "auto":
        raise BackendMissing(f"{reason} Give --encoder cpu, or auto.")
    log.warning("%s The CPU encodes.", reason)
    return False


def _why_not(output: str | os.PathLike[str], codec: Codec, size: tuple[int, int], device: torch.device) -> str | None:
    if device.type != nvidia.ON:
        return "NVENC takes pictures from a GPU's memory, and the model is not on one."
    if codec.encoder not in ENCODERS or not copies_packets(output) or codec.pixel_format != "yuv420p":
        return f"NVENC is used for {' and '.join(ENCODERS.values())} in 8 bits, not for {codec.encoder}."
    library, name = codec_library(), ENCODERS[codec.encoder]
    try:
        caps = library.GetEncoderCaps(gpuid=device.index or 0, codec=name)
    except (RuntimeError, library.PyNvVCException, library.PyNvVCExceptionUnsupported) as error:
        return f"This card has no encoder for {name} ({first_line(error)})."
    if not caps.get("num_encoder_engines"):
        return f"This card has no encoder for {name}; data-centre cards have none."
    height, width = size
    wide = caps.get("width_min", 0) <= width <= caps.get("width_max", width)
    high = caps.get("height_min", 0) <= height <= caps.get("height_max", height)
    return None if wide and high else f"This card's encoder does not take {width}x{height}."
