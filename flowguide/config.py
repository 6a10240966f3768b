"""Every option, once: name, type, range, default, help. The CLI, TOML files, the environment and Python read these."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .errors import UnknownName, UsageError

# Options of more than one command.
ANCHOR_FRAMES = Field(
    16, ge=1, le=1000, description="Most frames between two anchors by coverage or edges; they wait in memory."
)
FLOW = Field("dis-filled", description="Flow estimator by name.")
MAX_FRAMES = Field(None, ge=1, description="Stop after this many frames.")
CODEC = Field(None, description="Video codec by name. Default: the output suffix's own.")
CRF = Field(None, ge=0, le=63, description="Encoder quality, 0 is best. Default: the codec's own.")
THREADS = Field(
    0, ge=0, le=1024, description="CPU threads of the model; 0 is all cores but one, which reads, finds flow, encodes."
)


class RenderConfig(BaseModel):
    """How a clip is painted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field(
        "oil painting",
        description="What the picture should look like; over time as '0:(a) 48:(b)', in TOML as a table by frame.",
    )
    negative_prompt: str = Field("", description="What it should not look like.")
    model: str = Field(
        "painter", description="A bundled model's name, a folder in diffusers layout, or a .safetensors file."
    )
    model_folders: tuple[str, ...] = Field(
        (), description="Where models are found by name: roots of A1111 or ComfyUI, or an extra_model_paths.yaml."
    )
    model_layout: str | None = Field(
        None, description="For a model in one file: a folder with its configs and tokenizers, in diffusers layout."
    )
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = Field(
        None, description="What the model predicts, where its own config does not say so or is wrong."
    )
    allow_pickle: bool = Field(False, description="Open pickled models (.ckpt, .bin, .pt), which can run any code.")
    vae: str | None = Field(None, description="Another autoencoder: a folder or a .safetensors file.")
    lora: tuple[str, ...] = Field((), description="LoRAs, each FILE or FILE@SCALE.")
    embedding: tuple[str, ...] = Field((), description="Textual inversions; a file's name is the word.")
    control: tuple[str, ...] = Field(
        (), description="ControlNets, each HINT:FOLDER@SCALE; hints: canny, softedge, tile, depth."
    )
    depth_model: str | None = Field(
        None, description="ONNX file of the depth network for the hint depth and the depth weight."
    )
    ip_adapter: str | None = Field(None, description="IP-Adapter, FILE@SCALE, beside its folder image_encoder.")
    ip_image: str | None = Field(None, description="Picture that the IP-Adapter is shown.")
    strength: float = Field(0.5, ge=0.0, le=1.0, description="How far the picture may leave the source: 0 to 1.")
    steps: int = Field(8, ge=1, le=1000, description="Steps of the whole schedule; steps x strength of them run.")
    guidance_scale: float = Field(
        2.0, ge=0.0, le=50.0, description="Classifier-free guidance (CFG); up to 1 it is off."
    )
    sampler: str = Field("ddim", description="Sampler by name.")
    eta: float = Field(0.0, ge=0.0, le=1.0, description="Fresh noise per step: 0 none, 1 as DDPM.")
    seed: int = Field(0, ge=0, lt=2**63, description="Key of all noise.")
    noise: Literal["fixed", "per-frame", "carried"] = Field(
        "fixed",
        description="The same noise for all frames of a shot, fresh noise for each, or noise that follows the flow.",
    )
    init: Literal["source", "warped", "previous", "first", "random", "blend"] = Field(
        "source",
        description="What a frame begins from: itself, the guide, the finished frame before, the shot's first finished "
        "frame, noise alone, or the guide where it is certain and the source elsewhere.",
    )
    init_weight: float = Field(1.0, ge=0.0, le=1.0, description="Share of the guide in init blend.")

    guidance: bool = Field(True, description="Guide frames by finished ones.")
    strategy: Literal["previous", "references", "anchors", "joint", "source", "step-aligned", "seed-v1"] = Field(
        "previous",
        description="What guides a frame: the one before it, several finished ones, anchors on both sides, which alone "
        "are painted, the frames of a window that are denoised together, the source itself beside the one before, or "
        "the one before it at the same step, several frames in one batch; seed-v1 is the first such system, to compare "
        "with.",
    )
    reference_lags: str = Field("1,2,4,8", description="Frames back to each of the strategy references.")
    passes: int = Field(
        1, ge=1, le=9, description="Times that each window of previous or references is gone over, to and fro."
    )
    window: int = Field(
        8, ge=2, le=64, description="Painted frames that are denoised together (joint) or gone over again (passes)."
    )
    lanes: int = Field(
        1,
        ge=1,
        le=64,
        description="Shots, or clips with --out-dir, that are painted side by side, in one batch of the model.",
    )
    joint_every: int = Field(
        4, ge=1, le=64, description="Under joint each n-th frame is painted; the others are carried from both sides."
    )
    reencode_each_frame: bool = Field(
        True, description="Under source a frame begins from the source; else from the finished frame before, moved."
    )
    direct_stabilization_weight: str = Field(
        "0", description="Under source: pull toward the source's colours; an expression of t, see docs/guidance.md."
    )
    semantic_stabilization_weight: str = Field("0", description="Pull toward what CLIP sees in the source.")
    edge_stabilization_weight: str = Field("0", description="Pull toward the source's edges.")
    depth_stabilization_weight: str = Field("0", description="Pull toward the source's depth, by --depth-model.")
    flow_stabilization_weight: str = Field("1", description="Pull toward the finished frames before, moved here.")
    flow_long_term_samples: int = Field(
        1, ge=0, le=6, description="Under source also frames 2, 4, … back guide, up to 2 to the power of this."
    )
    clip_model: str | None = Field(None, description="Folder of a CLIP image encoder, for the semantic weight.")
    anchors: str = Field(
        "coverage",
        description="Which frames become anchors: 'coverage' (as soon as too little is known), 'edges' (as those of "
        "the source change), a number (each so many frames), or frames:0,24,57.",
    )
    anchor_frames: int = ANCHOR_FRAMES
    flow: str = FLOW
    flow_runtime: str = Field(
        "torch",
        description="What runs a flow network (flowguide-flow, onnx:FILE), by name as for --runtime.",
    )
    flow_confidence: str = Field(
        "fused",
        description="How far flow is believed: 'fused' (the check that is part of the warp), 'learned', 'own' (the "
        "flow network's), 'check', 'forward-backward', or parts such as 'consistency+texture+photometric'.",
    )
    lookahead: int = Field(4, ge=0, le=64, description="Frames that are read and whose flow is found ahead; 0 is none.")
    flow_cache: str | None = Field(None, description="Folder in which flow is kept for the next run.")
    flow_cache_gib: float = Field(2.0, gt=0.0, description="Most room that the kept flow takes, in GiB.")
    shots: str | None = Field(
        None, description="CSV list of shots, as 'flowguide shots' and PySceneDetect write it, instead of found cuts."
    )
    flow_weight: str = Field(
        "share",
        description="Pull toward the warped frame: a number, a picture (white is 1), 'share', 'few-step', "
        "'seed-farneback', 'seed-raft', or FILE.py:FUNCTION.",
    )
    paste: float = Field(1.0, ge=0.0, le=1.0, description="Weight of the carried pixels in the finished frame.")
    feather_px: int = Field(1, ge=0, le=64, description="Width of the seam between carried and new pixels.")
    unsharp: float = Field(0.0, ge=0.0, le=1.0, description="Unsharp mask of the guide; the seed used 0.12.")
    cut_share: float = Field(0.03, ge=0.0, le=1.0, description="A confident share of the frame below this starts anew.")

    mask: str | None = Field(
        None,
        description="What is painted: white in a picture or a video of the clip's size, or 'alpha', the input's "
        "opacity; the rest stays as it is.",
    )
    keep: str | None = Field(None, description="What stays as it is: white in a picture or a video, or 'alpha'.")
    mask_feather_px: int = Field(4, ge=0, le=64, description="Width of the seam inside the painted region.")

    size: str | None = Field(
        None,
        description="HEIGHT, or WIDTHxHEIGHT, in pixels; the aspect is kept with one number. Default: the source's.",
    )
    start_seconds: float | None = Field(None, ge=0.0, description="Begin here.")
    end_seconds: float | None = Field(None, gt=0.0, description="Stop before here.")
    max_frames: int | None = MAX_FRAMES
    every: int = Field(1, ge=1, le=100_000, description="Paint each n-th frame only; times stay.")
    frame_rate: str | None = Field(
        None, description="Frames per second of the output, such as 12 or 30000/1001; frames are left out or repeated."
    )
    input_rate: str | None = Field(
        None, description="Frames per second of pictures in files, which do not say it. Default: 24."
    )
    video_stream: int | None = Field(None, ge=0, description="Video stream, from 0. Default: the first.")
    audio_stream: int | None = Field(None, ge=0, description="Sound stream to copy, from 0. Default: all.")
    audio: bool = Field(True, description="Copy the sound.")
    codec: str | None = CODEC
    output_preset: str | None = Field(
        None,
        description="Codec and quality by name: archive, edit, edit-alpha, hevc, light, master, small, web; or a "
        ".toml file.",
    )
    crf: int | None = CRF
    decoder: Literal["cpu", "auto", "nvdec"] = Field(
        "cpu", description="What decodes: the CPU, an NVIDIA card (nvdec), or auto, the card where it can."
    )
    encoder: Literal["cpu", "auto", "nvenc"] = Field(
        "cpu", description="What encodes: the CPU, an NVIDIA card (nvenc; H.264, HEVC), or auto, the card where it can."
    )

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="Arithmetic of the model.")
    runtime: str = Field(
        "torch",
        description="What runs the networks: torch, torch-compiled, torch-graphed, onnx, openvino, tensorrt, "
        "tensorrt-rtx.",
    )
    threads: int = THREADS

    vae_tiles: bool = Field(False, description="Encode and decode in tiles: less memory, a little slower.")

    @field_validator("model", "mask", "keep")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        """An empty name would be the current folder."""
        if value is not None and not value.strip():
            raise ValueError("it is empty; name something, or leave the option out")
        return value

    @field_validator("prompt", mode="before")
    @classmethod
    def _prompt_table(cls, value: Any) -> Any:
        """A table of prompts by frame, as TOML gives it, is written as a schedule."""
        if not isinstance(value, dict):
            return value
        if not all(str(frame).isdigit() for frame in value):
            raise ValueError("a table of prompts has frame numbers as keys")
        return " ".join(f"{frame}:({text})" for frame, text in sorted(value.items(), key=lambda entry: int(entry[0])))


class SteadyConfig(BaseModel):
    """How a painted clip is steadied."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    anchors: str = Field(
        "coverage",
        description="Which painted frames the others are carried from: 'coverage' (as soon as too little is known), "
        "'edges' (as the source's edges change), a number (each so many frames), or frames:0,24,57.",
    )
    anchor_frames: int = ANCHOR_FRAMES
    flow: str = FLOW
    feather_px: int = Field(1, ge=0, le=64, description="Width of the seam between carried and given pixels.")
    offset: int | None = Field(
        None,
        ge=-100_000,
        le=100_000,
        description="Frame of SOURCE that the first painted frame shows; negative where the painted clip begins "
        "earlier. Default: found in the pictures.",
    )
    max_frames: int | None = MAX_FRAMES
    audio: bool = Field(True, description="Copy the sound of the painted clip.")
    codec: str | None = CODEC
    crf: int | None = CRF
    threads: int = THREADS


Option = Annotated[Any, "the value of one field of RenderConfig or SteadyConfig"]
Settings = TypeVar("Settings", RenderConfig, SteadyConfig)
SECTIONS = ("render", "steady")
"""Tables of a TOML file, one for each command that takes settings."""


def render_config(values: dict[str, Option] | None = None, **changes: Option) -> RenderConfig:
    """A checked configuration. Raises UsageError that names the option, its range and what was got."""
    return _checked(RenderConfig, {**(values or {}), **changes})


def steady_config(values: dict[str, Option] | None = None, **changes: Option) -> SteadyConfig:
    """As `render_config`, for `flowguide steady`."""
    return _checked(SteadyConfig, {**(values or {}), **changes})


def changed(config: Settings, **changes: Option) -> Settings:
    """`config` with some options replaced, checked as a whole."""
    return _checked(type(config), {**config.model_dump(), **changes})


def _checked(kind: type[Settings], given: dict[str, Option]) -> Settings:
    unknown = [name for name in given if name not in kind.model_fields]
    if unknown:
        raise UnknownName("option", unknown[0], kind.model_fields)
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"Option {name}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}."
        ) from error


def read_toml(path: Path, section: str = "render") -> dict[str, Option]:
    """The options of a TOML file, under [`section`] or at the top level. Raises UsageError with the place."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"The configuration file {path} does not exist; check its name.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"The configuration file {path} cannot be read as TOML: {reason}.") from error
    others = [name for name in SECTIONS if name in content and name != section]
    if section not in content and others:
        raise UsageError(
            f"{path} has a table [{others[0]}] and none for this command; write its options in [{section}]."
        )
    found = content.get(section, content)
    if not isinstance(found, dict):
        raise UsageError(f"[{section}] in {path} should be a table.")
    return found
