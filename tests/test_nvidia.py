"""NVDEC and NVENC against a faithful fake of PyNvVideoCodec, on CPU tensors."""

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import fake_nvcodec
import numpy as np
import pytest
import torch

import flowguide
from flowguide import doctor
from flowguide.errors import BackendMissing
from flowguide.types import Frame
from flowguide.video import CODECS, ClipReader, ClipWriter, Codec, nvidia
from flowguide.video.nvenc import surface_of

CPU = torch.device("cpu")
SIZE = (64, 96)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> object:
    """A card whose memory is the main one."""
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", fake_nvcodec)
    monkeypatch.setattr(nvidia, "ON", "cpu")
    monkeypatch.setitem(fake_nvcodec.ENCODERS, "engines", 1)
    monkeypatch.setitem(fake_nvcodec.SEEN, "packets", 0)
    return fake_nvcodec


def smooth(index: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    """Colours without edges, so that chroma at half size says all of it."""
    y, x = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    waves = [np.sin((x + 3 * index) / 17 + shift) * np.cos(y / 13 - shift) for shift in (0.0, 0.7, 1.9)]
    return torch.from_numpy(np.stack([127.5 + 90 * wave for wave in waves]).astype(np.uint8))


def clip(path: Path, codec: str | Codec = "h264", *, frames: int = 30, size: tuple[int, int] = SIZE) -> Path:
    pts = 0
    with ClipWriter(path, size=size, time_base=Fraction(1, 600), frame_rate=Fraction(25), codec=codec) as writer:
        for index in range(frames):
            writer.write(Frame(smooth(index, size), index, pts, Fraction(1, 600)))
            pts += 24 if index % 3 else 31  # times that no constant rate explains
    return path


def both(path: Path, **options: object) -> tuple[list[Frame], list[Frame]]:
    with ClipReader(path, **options) as reader:  # type: ignore[arg-type]
        by_cpu = list(reader)
    with ClipReader(path, decoder="nvdec", device=CPU, **options) as reader:  # type: ignore[arg-type]
        by_card = list(reader)
    return by_cpu, by_card


def agree(by_cpu: list[Frame], by_card: list[Frame], most: float = 3.0) -> None:
    assert [f.pts for f in by_card] == [f.pts for f in by_cpu]
    assert [f.index for f in by_card] == [f.index for f in by_cpu]
    for one, other in zip(by_cpu, by_card, strict=True):
        difference = (one.rgb.float() - other.rgb.float()).abs()
        assert difference.mean() < most / 3
        assert difference.flatten().quantile(0.99) <= most


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_pictures_and_times_are_those_of_the_cpu(card: object, tmp_path: Path, codec: str) -> None:
    by_cpu, by_card = both(clip(tmp_path / "in.mp4", codec))
    assert len(by_card) == 30
    agree(by_cpu, by_card)


def test_ten_bits_come_as_p016(card: object, tmp_path: Path) -> None:
    deep = Codec("libx265", "yuv420p10le", {"crf": "4", "x265-params": "log-level=error"}, mp4_tag="hvc1")
    agree(*both(clip(tmp_path / "in.mp4", deep)))


@pytest.mark.parametrize(
    "options",
    [
        {"start_seconds": 0.4},
        {"start_seconds": 0.4, "end_seconds": 0.7},
        {"every": 3, "max_frames": 4},
        {"frame_rate": Fraction(12)},
        {"size": 32},
    ],
    ids=str,
)
def test_a_part_of_a_clip_is_the_same_part(card: object, tmp_path: Path, options: dict[str, object]) -> None:
    by_cpu, by_card = both(clip(tmp_path / "in.mp4"), **options)
    assert by_card
    agree(by_cpu, by_card, most=6.0)


def test_nothing_before_the_key_frame_is_decoded(card: object, tmp_path: Path) -> None:
    keyed = Codec("libx264", "yuv420p", {"crf": "18", "g": "5", "bf": "0"})
    path = clip(tmp_path / "in.mp4", keyed)
    with ClipReader(path, decoder="nvdec", device=CPU, start_seconds=1.0, max_frames=2) as reader:
        assert len(list(reader)) == 2
    assert fake_nvcodec.SEEN["packets"] < 16


def test_a_turned_clip_is_upright(card: object, tmp_path: Path) -> None:
    turned = tmp_path / "turned.mp4"
    path = clip(tmp_path / "in.mp4")
    with av.open(str(path)) as stored, av.open(str(turned), "w") as output:
        stream = output.add_stream_from_template(stored.streams.video[0], opaque=True)
        stream.set_display_rotation(90) if hasattr(stream, "set_display_rotation") else None
        for packet in stored.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    agree(*both(turned))


@pytest.mark.parametrize("orientation", ["transpose", "flip_rows", "flip_columns"])
def test_surfaces_are_turned_as_arrays_are(orientation: str) -> None:
    from flowguide.video.orientation import Orientation

    turn = Orientation(**{orientation: True})
    luma = torch.arange(16 * 24, dtype=torch.uint8).reshape(16, 24)
    surface = nvidia.Surface(luma, torch.full((8, 12, 2), 128, dtype=torch.uint8), 0)
    to_rgb = nvidia.SurfaceToRgb(turn.size((16, 24)), turn, matrix="bt709", full_range=True)
    upright, _ = to_rgb(surface)
    plain, _ = nvidia.SurfaceToRgb((16, 24), Orientation(), matrix="bt709", full_range=True)(surface)
    assert np.array_equal(upright.numpy(), turn.apply(plain.numpy()))


def test_a_card_that_cannot_is_refused_or_passed_over(
    card: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = clip(tmp_path / "in.mp4", frames=4)
    monkeypatch.setattr(fake_nvcodec, "DECODES", set())
    with pytest.raises(BackendMissing, match=r"this card does not decode h264 in 8 bits.*--decoder cpu"):
        ClipReader(path, decoder="nvdec", device=CPU)
    with caplog.at_level(logging.WARNING), ClipReader(path, decoder="auto", device=CPU) as reader:
        assert len(list(reader)) == 4
    assert "does not decode h264" in caplog.text
    assert "The CPU decodes." in caplog.text


def test_what_belongs_to_the_cpu_is_told(card: object, tmp_path: Path) -> None:
    full_colour = clip(tmp_path / "in.mkv", "ffv1", frames=2)
    with pytest.raises(BackendMissing, match="its pictures are bgr0"):
        ClipReader(full_colour, decoder="nvdec", device=CPU)
    with pytest.raises(BackendMissing, match="8 bits without opacity"):
        ClipReader(clip(tmp_path / "in.mp4", frames=2), decoder="nvdec", device=CPU, deep=True)


def test_a_failure_on_the_way_is_a_sentence(card: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, packet: object) -> list[object]:
        raise fake_nvcodec.PyNvVCException("HandlePictureDecode :\nError code : 700")

    monkeypatch.setattr(fake_nvcodec.PyNvDecoder, "Decode", broken)
    with pytest.raises(flowguide.FlowguideError, match=r"stops decoding on the GPU \(HandlePictureDecode.*--decoder"):
        ClipReader(clip(tmp_path / "in.mp4", frames=2), decoder="nvdec", device=CPU)


def test_without_a_card_it_is_a_sentence(tmp_path: Path) -> None:
    path = clip(tmp_path / "in.mp4", frames=2)
    with pytest.raises(BackendMissing, match="not on one"):
        ClipReader(path, decoder="nvdec", device=CPU)
    rows = {finding.name: finding for finding in doctor.examine()}
    for name in ("NVDEC", "NVENC"):
        assert rows[name].state == "missing"
        assert rows[name].cost
        assert rows[name].cure


def test_a_driver_that_is_too_old_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "PyNvVideoCodec.py").write_text('raise RuntimeError("Driver version is too old\\n\\n=== STEPS ===")')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "PyNvVideoCodec", raising=False)
    with pytest.raises(BackendMissing, match=r"Driver version is too old\); install or update the driver"):
        nvidia.codec_library()


def painted(path: Path, out: Path, checkpoint: Path, **options: object) -> flowguide.RenderReport:
    settings = {"model": str(checkpoint), "steps": 2, "device": "cpu", "segment_frames": 4}
    return flowguide.render(path, out, **{**settings, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(("codec", "name"), [("h264", "out.mp4"), ("hevc", "out.mp4"), ("h264", "out.mkv")])
def test_a_run_is_encoded_on_the_card(
    card: object, tmp_path: Path, tiny_checkpoint: Path, codec: str, name: str
) -> None:
    path = clip(tmp_path / "in.mp4", frames=9)
    report = painted(path, tmp_path / name, tiny_checkpoint, encoder="nvenc", decoder="nvdec", codec=codec)
    assert report.frames == 9
    painted(path, tmp_path / f"cpu-{name}", tiny_checkpoint, decoder="nvdec", codec=codec)
    with ClipReader(tmp_path / name) as reader, ClipReader(tmp_path / f"cpu-{name}") as expected:
        assert reader.info.codec == codec
        assert (reader.info.matrix, reader.info.full_range) == ("bt709", False)
        agree(list(expected), list(reader), most=8.0)


def test_packets_out_of_order_keep_their_times(
    card: object, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = fake_nvcodec.CreateEncoder
    monkeypatch.setattr(fake_nvcodec, "CreateEncoder", lambda *a, **k: create(*a, **{**k, "bf": 2}))
    path = clip(tmp_path / "in.mp4", frames=9)
    painted(path, tmp_path / "out.mp4", tiny_checkpoint, encoder="nvenc", segment_frames=9)
    with ClipReader(tmp_path / "out.mp4") as reader, ClipReader(path) as source:
        assert [frame.pts for frame in reader] == [frame.pts for frame in source]


def test_a_card_without_an_encoder_leaves_it_to_the_cpu(
    card: object, tmp_path: Path, tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake_nvcodec.ENCODERS["engines"] = 0
    path = clip(tmp_path / "in.mp4", frames=2)
    with caplog.at_level(logging.WARNING):
        assert painted(path, tmp_path / "out.mp4", tiny_checkpoint, encoder="auto").frames == 2
    assert "This card has no encoder for h264 (OpenEncodeSessionEx failed: unsupported device (2))" in caplog.text
    with pytest.raises(BackendMissing, match=r"no encoder for h264.*--encoder cpu"):
        painted(path, tmp_path / "again.mp4", tiny_checkpoint, encoder="nvenc")


def test_a_codec_that_the_card_is_not_used_for_is_told(card: object, tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = clip(tmp_path / "in.mp4", frames=2)
    with pytest.raises(BackendMissing, match="NVENC is used for h264 and hevc in 8 bits"):
        painted(path, tmp_path / "out.webm", tiny_checkpoint, encoder="nvenc")


def test_odd_sides_are_repeated_up_to_even_ones() -> None:
    rgb = smooth(0, (33, 51))
    surface = surface_of(rgb, CODECS["h264"].stored_size((33, 51)))
    assert surface.shape == (34 * 3 // 2, 52)
    assert torch.equal(surface[33, :51], surface[32, :51])


WHEEL = importlib.util.find_spec("PyNvVideoCodec")


@pytest.mark.skipif(WHEEL is None, reason="PyNvVideoCodec is not installed")
def test_the_fake_has_the_signatures_of_the_library(tmp_path: Path) -> None:
    """The library's own extension, loaded over empty stand-ins for the driver's libraries."""
    assert WHEEL is not None
    assert WHEEL.origin is not None
    extension = next(Path(WHEEL.origin).parent.glob("PyNvVideoCodec_130*.so"))
    listed = subprocess.run(["nm", "-D", "--undefined-only", extension], capture_output=True, text=True, check=True)
    wanted = re.findall(r" U (cu[A-Z]\w+|cuvid\w+)", listed.stdout)
    (tmp_path / "empty.c").write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in wanted))
    for library in ("libcuda.so.1", "libnvcuvid.so.1", "libnvidia-encode.so.1"):
        command = ["gcc", "-shared", "-fPIC", "-o", tmp_path / library, tmp_path / "empty.c", f"-Wl,-soname,{library}"]
        subprocess.run(command, check=True)
    script = f"""
import importlib.util, json
spec = importlib.util.spec_from_file_location("_PyNvVideoCodec", {str(extension)!r})
m = importlib.util.module_from_spec(spec); spec.loader.exec_module(m)
clip = m.CreateDemuxer(filename={str(clip(tmp_path / "in.mp4"))!r})
print(json.dumps({{
    "docs": {{
        n: getattr(m, n).__doc__ for n in ("CreateDecoder", "GetDecoderCaps", "GetEncoderCaps", "CreateDemuxer")
    }},
    "members": {{n: dir(getattr(m, n)) for n in ("PyNvDemuxer", "PyNvDecoder", "DecodedFrame", "PyNvEncoder")}},
    "codecs": {{n: int(v) for n, v in m.cudaVideoCodec.__members__.items()}},
    "clip": [int(clip.GetNvCodecId()), int(clip.ChromaFormat()), clip.BitDepth(), clip.GetVideoStreamId(),
             clip.GetTimebaseNum(), clip.GetTimebaseDen()],
    "packets": [[p.pts, p.dts] for p in clip],
}}))"""
    environment = {"LD_LIBRARY_PATH": f"{tmp_path}:{extension.parent}"}
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    real = json.loads(told.stdout)
    for name, text in real["docs"].items():
        ours = list(inspect.signature(getattr(fake_nvcodec, name)).parameters)
        first = re.search(rf"{name}\((\w+: .*?)\) ->", text)
        assert first is not None
        theirs = re.findall(r"(?:^|, )(\w+): ", first[1])
        assert ours == theirs, name
    for name, members in real["members"].items():
        public = [member for member in vars(getattr(fake_nvcodec, name)) if not member.startswith("_")]
        assert set(public) <= set(members), name
    assert {code.name: int(code) for code in fake_nvcodec.cudaVideoCodec}.items() <= real["codecs"].items()
    ours = fake_nvcodec.CreateDemuxer(str(tmp_path / "in.mp4"))
    assert real["clip"] == [int(ours.GetNvCodecId()), int(ours.ChromaFormat()), ours.BitDepth(),
                            ours.GetVideoStreamId(), ours.GetTimebaseNum(), ours.GetTimebaseDen()]  # fmt: skip
    assert real["packets"][:-1] == [[p.pts, p.dts] for p in ours][:-1]
    assert real["packets"][-1] == [0, 0], "the last packet is empty"
