"""The clip that settings mean, opened, and what its output is to be."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from ..config import RenderConfig
from ..errors import UsageError
from ..machine import choose_device
from ..masks import leaves_nothing, needs_alpha
from ..video import ClipReader, Codec
from ..video.choice import read_rate
from ..video.formats import CONTAINERS, PICTURES, codec_for, suffix_for
from ..video.presets import preset_codec, read_preset

log = logging.getLogger("flowguide.runs")

NUMBERED_NAME = "converted_%06d"
"""How pictures are called where only their folder is named."""


def open_clip(source: str | Path, config: RenderConfig, *, alpha: bool = False) -> ClipReader:
    """The part of `source` that `config` asks for, at its size and rate. Raises VideoError, UsageError, and
    BackendMissing where its decoder cannot be had."""
    return ClipReader(
        source,
        size=config.size,
        start_seconds=config.start_seconds,
        end_seconds=config.end_seconds,
        max_frames=config.max_frames,
        every=config.every,
        frame_rate=None if config.frame_rate is None else read_rate(config.frame_rate),
        video_stream=config.video_stream,
        audio_stream=config.audio_stream,
        pictures_per_second=None if config.input_rate is None else read_rate(config.input_rate),
        alpha=alpha or needs_alpha(config),
        decoder=config.decoder,
        device=choose_device(config.device),
    )


def tell_what_stays(config: RenderConfig) -> None:
    """Warn where the masks leave nothing to paint. Raises UsageError and VideoError."""
    if leaves_nothing(config):
        given = " and ".join(f"--{name} {value}" for name in ("mask", "keep") if (value := getattr(config, name)))
        log.warning("%s: nothing is left to paint, so every frame stays as it is.", given)


def named_output(output: Path, source: str | Path, config: RenderConfig) -> Path:
    """`output` itself, or where that is a folder the numbered pictures in it. Raises UsageError where that holds the
    pictures to be painted."""
    if not output.is_dir():
        return output
    if Path(source).is_dir() and output.samefile(source):
        raise UsageError(f"{output} is the input itself; choose another folder for the output.")
    suffix = suffix_of(config)
    return output / f"{NUMBERED_NAME}{suffix if CONTAINERS[suffix].format == PICTURES else '.png'}"


def suffix_of(config: RenderConfig) -> str:
    """The suffix of an output that has no name yet: the first one that takes the codec asked for."""
    return suffix_for(config.codec if config.output_preset is None else read_preset(config.output_preset)[0])


def output_codec(output: Path, config: RenderConfig) -> Codec:
    """The codec for the output's suffix, its preset, and the quality that `config.crf` asks for."""
    if config.codec is not None and config.output_preset is not None:
        raise UsageError(f"The output preset {config.output_preset!r} names a codec; leave --codec out.")
    if config.output_preset is None:
        codec = codec_for(output, config.codec)
    else:
        codec = preset_codec(output, config.output_preset)
    if config.crf is None:
        return codec
    if "crf" not in codec.options:
        raise UsageError(f"The codec of {output.name} has no crf; leave --crf out.")
    return replace(codec, options={**codec.options, "crf": str(config.crf)})
