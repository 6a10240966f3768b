"""PyNvVideoCodec without a card: its names and signatures, decoding and encoding done by PyAV.

What the real library does and a careless caller would miss is done here too: surfaces are overwritten by the next
`Decode`, the last packet is empty and flushes, packets of the encoder come late and out of order of showing.
`test_nvidia.py` compares the signatures with those of the library where its wheel is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch


class PyNvVCException(Exception):
    pass


class PyNvVCExceptionUnsupported(Exception):
    pass


cudaVideoCodec = IntEnum(
    "cudaVideoCodec",
    {"MPEG1": 0, "MPEG2": 1, "MPEG4": 2, "VC1": 3, "H264": 4, "JPEG": 5, "HEVC": 8, "VP8": 9, "VP9": 10, "AV1": 11},
)
cudaVideoChromaFormat = IntEnum("cudaVideoChromaFormat", {"Monochrome": 0, "420": 1, "422": 2, "444": 3})
OutputColorType = IntEnum("OutputColorType", {"NATIVE": 0, "RGB": 1, "RGBP": 2})
DisplayDecodeLatencyType = IntEnum("DisplayDecodeLatencyType", {"NATIVE": 0, "LOW": 1, "ZERO": 2})

CODECS = {"h264": cudaVideoCodec.H264, "hevc": cudaVideoCodec.HEVC, "av1": cudaVideoCodec.AV1,
          "vp8": cudaVideoCodec.VP8, "vp9": cudaVideoCodec.VP9, "libdav1d": cudaVideoCodec.AV1}  # fmt: skip
DECODES = {cudaVideoCodec.H264, cudaVideoCodec.HEVC, cudaVideoCodec.VP8, cudaVideoCodec.VP9}
"""What this card decodes; a test takes some away, or adds AV1."""
ENCODERS = {"engines": 1}
"""Number of encoder engines; none on a data-centre card."""
SEEN: dict[str, Any] = {"packets": 0, "streams": []}
"""What callers did."""


@dataclass
class PacketData:
    pts: int = 0
    dts: int = 0
    bsl: int = 0
    key: int = 0
    packet: Any = field(default=None, repr=False)


class PyNvDemuxer:
    def __init__(self, filename: str) -> None:
        self._container = av.open(filename)
        self._stream = self._container.streams.best("video")
        self._packets = self._container.demux(self._stream)

    def __iter__(self) -> PyNvDemuxer:
        return self

    def __next__(self) -> PacketData:
        packet = next(self._packets)
        if packet.size == 0:
            return PacketData()
        return PacketData(packet.pts, packet.dts or 0, packet.size, int(packet.is_keyframe), packet)

    def GetNvCodecId(self) -> Any:
        return CODECS[self._stream.codec_context.codec.canonical_name]

    def ChromaFormat(self) -> Any:
        return cudaVideoChromaFormat["420"]

    def BitDepth(self) -> int:
        return int(self._stream.codec_context.format.components[0].bits)

    def GetVideoStreamId(self) -> int:
        return int(self._stream.index)

    def GetTimebaseNum(self) -> int:
        return int(self._stream.time_base.numerator)

    def GetTimebaseDen(self) -> int:
        return int(self._stream.time_base.denominator)


class DecodedFrame:
    """Planes [H · 3 / 2, W], as the library gives NV12 and P016 through DLPack."""

    def __init__(self, planes: torch.Tensor, pts: int) -> None:
        self._planes, self._pts = planes, pts
        self.shape = list(planes.shape)

    def __dlpack__(self, stream: object = 0) -> Any:
        return self._planes.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self._planes.__dlpack_device__()

    def getPTS(self) -> int:
        return self._pts


class PyNvDecoder:
    def __init__(self, codec: Any) -> None:
        name = {cudaVideoCodec.H264: "h264", cudaVideoCodec.HEVC: "hevc", cudaVideoCodec.VP9: "vp9",
                cudaVideoCodec.VP8: "vp8", cudaVideoCodec.AV1: "libdav1d"}[codec]  # fmt: skip
        self._codec = av.CodecContext.create(name, "r")
        self._given: list[torch.Tensor] = []

    def Decode(self, arg0: PacketData) -> list[DecodedFrame]:
        SEEN["packets"] += 1
        for surface in self._given:
            surface.fill_(77)  # the card writes its next picture here
        if arg0.packet is not None and self._codec.extradata is None:
            self._codec.extradata = arg0.packet.stream.codec_context.extradata
        pictures = self._codec.decode(arg0.packet)
        frames = [DecodedFrame(_planes(picture), picture.pts) for picture in pictures]
        self._given = [frame._planes for frame in frames]
        return frames


def _planes(picture: av.VideoFrame) -> torch.Tensor:
    deep = picture.format.components[0].bits > 8
    dtype = np.uint16 if deep else np.uint8
    lines = []
    for plane in picture.planes:
        stored = np.frombuffer(memoryview(plane), dtype).reshape(-1, plane.line_size // dtype().itemsize)
        lines.append(stored[: plane.height, : plane.width] << (16 - 10 if deep else 0))
    chroma = np.stack(lines[1:], axis=-1).reshape(lines[1].shape[0], -1)
    return torch.from_numpy(np.concatenate([lines[0], chroma]).astype(dtype))


def CreateDemuxer(filename: str) -> PyNvDemuxer:
    return PyNvDemuxer(filename)


def GetDecoderCaps(
    gpuid: int = 0,
    codec: Any = cudaVideoCodec.H264,
    chromaformat: Any = cudaVideoChromaFormat["420"],
    bitdepth: int = 8,
) -> dict[str, int]:
    there = codec in DECODES
    return {"num_decoder_engines": int(there), "width_max": 4096 * there, "height_max": 4096 * there,
            "mb_num_max": 65536 * there, "width_min": 48, "height_min": 16}  # fmt: skip


def CreateDecoder(
    gpuid: int = 0,
    codec: Any = cudaVideoCodec.H264,
    cudacontext: int = 0,
    cudastream: int = 0,
    usedevicememory: bool = False,
    maxwidth: int = 0,
    maxheight: int = 0,
    outputColorType: Any = OutputColorType.NATIVE,
    enableSEIMessage: bool = False,
    bWaitForSessionWarmUp: bool = False,
    latency: Any = DisplayDecodeLatencyType.NATIVE,
    enableDecodeStats: bool = False,
) -> PyNvDecoder:
    assert usedevicememory, "pictures would go through main memory"
    return PyNvDecoder(codec)


class NV_ENC_PIC_PARAMS:
    def __init__(self) -> None:
        self.inputTimeStamp = 0
        self.encodePicFlags = 0


class PyNvEncoder:
    def __init__(self, width: int, height: int, codec: str, settings: dict[str, str]) -> None:
        context = av.CodecContext.create({"h264": "libx264", "hevc": "libx265"}[codec], "w")
        context.width, context.height, context.pix_fmt = width, height, "nv12" if codec == "h264" else "yuv420p"
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
        quiet = {} if codec == "h264" else {"x265-params": "log-level=error:repeat-headers=1"}
        context.options = {"bf": settings.get("bf", "0"), "crf": "18", **quiet}
        self._context, self._size = context, (height, width)

    def Encode(self, arg0: Any, arg1: NV_ENC_PIC_PARAMS) -> list[dict[str, Any]]:
        height, width = self._size
        assert tuple(arg0.shape) == (height * 3 // 2, width), "NV12 in one piece"
        picture = av.VideoFrame.from_ndarray(arg0.cpu().numpy(), format="nv12").reformat(format=self._context.pix_fmt)
        picture.pts, picture.time_base = arg1.inputTimeStamp, Fraction(1, 25)
        return [*self._told(self._context.encode(picture))]

    def EndEncode(self) -> list[dict[str, Any]]:
        return [*self._told(self._context.encode(None))]

    def _told(self, packets: Any) -> Iterator[dict[str, Any]]:
        for packet in packets:
            yield {"data": bytes(packet), "timestamp": packet.pts, "picture_type": 0}


def GetEncoderCaps(gpuid: int = 0, codec: str = "h264") -> dict[str, int]:
    if not ENCODERS["engines"]:
        raise PyNvVCExceptionUnsupported("OpenEncodeSessionEx failed: unsupported device (2)")
    return {"num_encoder_engines": ENCODERS["engines"], "width_max": 4096, "height_max": 4096,
            "width_min": 33, "height_min": 17}  # fmt: skip


def CreateEncoder(width: int, height: int, fmt: str, usecpuinputbuffer: bool, **kwargs: Any) -> PyNvEncoder:
    assert fmt == "NV12"
    assert not usecpuinputbuffer
    settings = {name: str(value) for name, value in kwargs.items()}
    return PyNvEncoder(width, height, settings["codec"], settings)
