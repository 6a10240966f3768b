"""Decoding on an NVIDIA card (NVDEC), by PyNvVideoCodec: pictures stay in the card's memory.

The library says which packet a picture came from and nothing of how it is to be shown, so PyAV opens the clip as ever
(`source.Source`) and the card takes over the decoding. Never executed on a card so far: see docs/engines.md.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowguide import ops
from flowguide.errors import BackendMissing, VideoError

from .orientation import Orientation
from .source import STDIN, Clock, Source

log = logging.getLogger("flowguide.video")
cuda: Any = torch.cuda

FORMATS = {"yuv420p": 8, "yuvj420p": 8, "nv12": 8, "yuv420p10le": 10, "p010le": 10}
"""Pixel format of a clip -> bits: what the card gives as NV12 or P016."""
MATRICES = ("bt601", "bt709", "bt2020")
ON = "cuda"
"""Kind of device whose memory the card works in."""


def codec_library() -> Any:
    """PyNvVideoCodec. Raises BackendMissing, in one sentence, where it or the driver is not here."""
    try:
        return importlib.import_module("PyNvVideoCodec")
    except ImportError as error:
        raise BackendMissing(
            f"PyNvVideoCodec cannot be loaded ({first_line(error)}); pip install 'flowguide[nvidia]' (NVIDIA GPUs)."
        ) from error
    except (RuntimeError, OSError) as error:  # it looks for the driver while it is imported
        raise BackendMissing(
            f"PyNvVideoCodec finds no NVIDIA driver that it can use ({first_line(error)}); install or update the "
            "driver, in a container with NVIDIA_DRIVER_CAPABILITIES=video."
        ) from error


def capabilities(gpu: int = 0) -> dict[str, list[str]]:
    """What the card decodes ("NVDEC") and encodes ("NVENC"). Raises BackendMissing, as `codec_library`."""
    library = codec_library()
    colour = library.cudaVideoChromaFormat.__members__["420"]
    decoded = []
    for name, bits in (("H264", 8), ("HEVC", 8), ("HEVC", 10), ("VP9", 8), ("AV1", 8), ("AV1", 10)):
        codec = library.cudaVideoCodec.__members__[name]
        try:
            caps = library.GetDecoderCaps(gpuid=gpu, codec=codec, chromaformat=colour, bitdepth=bits)
        except (RuntimeError, library.PyNvVCException, library.PyNvVCExceptionUnsupported):
            continue
        decoded += [f"{name} {bits} bit"] * bool(caps.get("num_decoder_engines"))
    encoded = []
    for name in ("h264", "hevc"):
        try:
            caps = library.GetEncoderCaps(gpuid=gpu, codec=name)
        except (RuntimeError, library.PyNvVCException, library.PyNvVCExceptionUnsupported):
            continue
        encoded += [name.upper()] * bool(caps.get("num_encoder_engines"))
    return {"NVDEC": decoded, "NVENC": encoded}


@dataclass(frozen=True)
class Surface:
    """A decoded picture in the card's memory, of 4:2:0 colour."""

    luma: Tensor
    """uint8 or uint16 [H, W]; 10 bits stand in the upper part of 16."""
    chroma: Tensor
    """[H / 2, W / 2, 2], (Cb, Cr), of the same dtype."""
    pts: int | None
    dts: int | None = None

    @property
    def height(self) -> int:
        return self.luma.shape[0]

    @property
    def width(self) -> int:
        return self.luma.shape[1]


class Nvdec:
    """The pictures of an opened clip, decoded on `device`.

    Raises BackendMissing with the reason where library, driver, card or clip do not allow it: asked before anything is
    decoded.
    """

    def __init__(self, source: Source, device: torch.device) -> None:
        self._source, self._device = source, device
        self._library = codec_library()
        reason = _unfit(source)
        if reason is not None:
            raise BackendMissing(f"NVDEC does not take {source.path}: {reason}.")
        try:
            self._demuxer = self._library.CreateDemuxer(source.path)
            reason = self._differs() or self._beyond_the_card()
            if reason is not None:
                raise BackendMissing(f"NVDEC does not take {source.path}: {reason}.")
            self._stream: Any = cuda.Stream(device) if device.type == "cuda" else None
            self._decoder = self._library.CreateDecoder(
                gpuid=device.index or 0,
                codec=self._demuxer.GetNvCodecId(),
                cudacontext=current_context() if self._stream else 0,
                cudastream=self._stream.cuda_stream if self._stream else 0,
                usedevicememory=True,
            )
        except (RuntimeError, OSError, self._library.PyNvVCException) as error:
            raise BackendMissing(f"NVDEC cannot be opened for {source.path} ({first_line(error)}).") from error

    def pictures_from(self, pts: int) -> Iterator[tuple[int, Surface]]:
        """(pts, picture) of the pictures at or after `pts`, in order; to be called once. Raises VideoError."""
        clock, begin, begun = Clock(self._source.stream, self._source.path), self._source.key_pts(pts), False
        packets = iter(self._demuxer)
        while True:
            with self._on_stream():
                try:
                    packet = next(packets, None)
                    begun = begun or (packet is not None and (begin is None or packet.pts == begin))
                    frames = self._decoder.Decode(packet) if begun and packet is not None else []
                except (RuntimeError, self._library.PyNvVCException) as error:
                    raise VideoError(
                        f"{self._source.path} stops decoding on the GPU ({first_line(error)}); give --decoder cpu."
                    ) from error
                found = [self._kept(frame) for frame in frames]
            for surface in found:
                shown = clock.pts_of(surface)
                if shown >= pts:
                    yield shown, surface
            if packet is None:
                return

    def to_rgb(self, size: tuple[int, int]) -> SurfaceToRgb:
        """What makes RGB of `size` = (height, width) of the pictures."""
        info = self._source.info
        return SurfaceToRgb(size, self._source.orientation, matrix=info.matrix, full_range=info.full_range)

    def _kept(self, frame: Any) -> Surface:
        """A copy: the decoder writes over its surfaces at the next packet."""
        height, width = self._source.stored_size
        planes = torch.utils.dlpack.from_dlpack(frame)
        planes = planes.reshape(-1, planes.shape[1])  # luma, and under it chroma in lines of interleaved pairs
        rows = planes.shape[0] * 2 // 3
        luma = planes[:height, :width].clone()
        chroma = planes[rows : rows + height // 2, :width].clone().reshape(height // 2, width // 2, 2)
        if self._stream is not None:
            caller = cuda.default_stream(self._device)
            caller.wait_event(self._stream.record_event())
            for plane in (luma, chroma):
                plane.record_stream(caller)
        return Surface(luma, chroma, int(frame.getPTS()))

    def _on_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else cuda.stream(self._stream)

    def _differs(self) -> str | None:
        """Whether the library looks at another stream, or counts time otherwise."""
        demuxer, stream = self._demuxer, self._source.stream
        if demuxer.GetVideoStreamId() != stream.index:
            return f"it would decode stream {demuxer.GetVideoStreamId()}, and {stream.index} is asked for"
        units = demuxer.GetTimebaseNum() / demuxer.GetTimebaseDen()
        if units != float(self._source.info.time_base):
            return f"its clock counts in {units} s, the file's in {self._source.info.time_base} s"
        return None

    def _beyond_the_card(self) -> str | None:
        demuxer, (height, width) = self._demuxer, self._source.stored_size
        caps = self._library.GetDecoderCaps(
            gpuid=self._device.index or 0,
            codec=demuxer.GetNvCodecId(),
            chromaformat=demuxer.ChromaFormat(),
            bitdepth=demuxer.BitDepth(),
        )
        what = f"{self._source.info.codec} in {demuxer.BitDepth()} bits"
        if not caps.get("num_decoder_engines"):
            return f"this card does not decode {what}"
        blocks = -(-width // 16) * -(-height // 16)
        inside = caps["width_min"] <= width <= caps["width_max"] and caps["height_min"] <= height <= caps["height_max"]
        if not inside or blocks > caps["mb_num_max"]:
            return f"this card does not decode {what} at {width}x{height}"
        return None


class SurfaceToRgb:
    """Surfaces to uint8 [3, H, W] of `size` = (height, width), turned upright, on their device."""

    def __init__(self, size: tuple[int, int], orientation: Orientation, *, matrix: str, full_range: bool) -> None:
        self._size, self._orientation = orientation.size(size), orientation
        self._matrix: Any = matrix
        self._full_range = full_range

    def __call__(self, picture: Surface) -> tuple[Tensor, None]:
        planes = picture.luma[None], picture.chroma[None]
        image = ops.to_model(*planes, matrix=self._matrix, full_range=self._full_range, size=self._size)
        rgb = ops.from_model(image)
        assert isinstance(rgb, Tensor)
        turn, upright = self._orientation, rgb[0]
        if turn.transpose:
            upright = upright.transpose(1, 2)
        flipped = [axis for axis, flip in ((1, turn.flip_rows), (2, turn.flip_columns)) if flip]
        return upright.flip(flipped).contiguous(), None


def nvdec_for(asked: str, source: object, device: torch.device, *, plain: bool) -> Nvdec | None:
    """The decoder that `asked` means: 'cpu' none, 'nvdec' it, 'auto' it where it can be had.

    plain: whether 8 bits without opacity are wanted. Raises BackendMissing where 'nvdec' cannot be had; 'auto' logs the
    reason instead.
    """
    if asked == "cpu":
        return None
    try:
        if device.type != ON:
            raise BackendMissing("NVDEC puts pictures into a GPU's memory, and the model is not on one.")
        if not plain:
            raise BackendMissing("NVDEC gives 8 bits without opacity, and more is wanted.")
        if not isinstance(source, Source):
            raise BackendMissing("NVDEC decodes video files, and this clip is pictures.")
        return Nvdec(source, device)
    except BackendMissing as error:
        if asked != "auto":
            raise BackendMissing(f"{error} Give --decoder cpu, or auto.") from error
        log.warning("%s The CPU decodes.", error)
        return None


def _unfit(source: Source) -> str | None:
    """Why a clip is for the CPU, whatever the card."""
    info = source.info
    if source.path == STDIN:
        return "standard input is read by the CPU"
    if info.pixel_format not in FORMATS:
        return f"its pictures are {info.pixel_format}, and {', '.join(FORMATS)} can be had"
    if any(side % 2 for side in source.stored_size):
        return "its sides are odd"
    if info.matrix not in MATRICES:
        return f"its colour matrix is {info.matrix}"
    if info.transfer != "sdr":
        return "high dynamic range is mapped on the CPU"
    if info.interlaced:
        return "its fields are made whole on the CPU"
    return None


def current_context() -> int:
    """Handle of the CUDA context that torch works in."""
    cuda.current_stream().synchronize()  # torch makes its context at the first use
    handle = ctypes.c_void_p()
    ctypes.CDLL("libcuda.so.1").cuCtxGetCurrent(ctypes.byref(handle))
    return handle.value or 0


def first_line(error: BaseException) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
