"""What is plugged into a checkpoint: LoRAs, textual inversions, ControlNets, an IP-Adapter.

Each is named in the configuration as NAME, or NAME@SCALE; a ControlNet as HINT:NAME@SCALE.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import RenderConfig
from ..errors import BackendMissing, ModelError, UnknownName, UsageError
from .denoiser import Control
from .hints import HINTS, Depth, Hint
from .loading import Parts, first_line, load, pickle_refused, quiet
from .model_folders import find_model
from .prompts import inversion_token

log = logging.getLogger("flowguide.diffusion")


def scaled(text: str) -> tuple[str, float]:
    """NAME@SCALE taken apart; the scale is 1 where none is given."""
    name, mark, number = text.rpartition("@")
    if not mark:
        return text, 1.0
    try:
        return name, float(number)
    except ValueError:
        raise UsageError(f"A scale is a number after @, as in NAME@0.8; got {text!r}.") from None


def pipeline_around(parts: Parts) -> Any:
    """diffusers' own pipeline of the same networks: its loaders know every format of adapter."""
    import diffusers as library

    diffusers: Any = library
    shared = {
        "unet": parts.unet,
        "vae": parts.vae,
        "scheduler": diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
    }
    with quiet():
        if len(parts.text_encoders) == 2:
            encoders = dict(zip(("text_encoder", "text_encoder_2"), parts.text_encoders, strict=True))
            tokenizers = dict(zip(("tokenizer", "tokenizer_2"), parts.tokenizers, strict=True))
            return diffusers.StableDiffusionXLImg2ImgPipeline(**shared, **encoders, **tokenizers)
        return diffusers.StableDiffusionImg2ImgPipeline(
            **shared, text_encoder=parts.text_encoders[0], tokenizer=parts.tokenizers[0], safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip


def fuse_loras(parts: Parts, config: RenderConfig) -> None:
    """Add the LoRAs of `config.lora` to the weights, so that they cost nothing later."""
    if not config.lora:
        return
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise BackendMissing("A LoRA needs peft: pip install 'flowguide[adapters]'.") from error
    pipeline = pipeline_around(parts)
    names, scales = [], []
    for number, entry in enumerate(config.lora):
        name, scale = scaled(entry)
        path = _file("lora", name, config)
        with _one_sentence(f"The LoRA {path}", "made for another family of models, or damaged"):
            found = pipeline.lora_state_dict(str(path.parent), weight_name=path.name, local_files_only=True)
            tensors = found[0] if isinstance(found, tuple) else found
            _check_lora(tensors, parts.unet)
            pipeline.load_lora_weights(
                str(path.parent), weight_name=path.name, adapter_name=f"lora{number}", local_files_only=True
            )
        names.append(f"lora{number}")
        scales.append(scale)
    with quiet():
        pipeline.set_adapters(names, scales)
        pipeline.fuse_lora(adapter_names=names)
        pipeline.unload_lora_weights()


def _check_lora(tensors: dict[str, Tensor], unet: Any) -> None:
    """Raises ValueError where nothing in it is a LoRA's, or a layer that it changes is not in the UNet."""
    if not any(key.startswith(("unet.", "text_encoder")) for key in tensors):
        raise ValueError("no LoRA weights of a UNet or text encoder in it")
    present = dict(unet.named_modules())
    changed = {
        key[len("unet.") : key.index(".lora")]: tensor.shape[1]
        for key, tensor in tensors.items()
        if key.startswith("unet.")
        and ".lora" in key
        and ".processor" not in key
        and ("lora_A." in key or "down." in key)
    }
    absent = sorted(changed.keys() - present.keys())
    if absent:
        raise ValueError(f"it changes {len(absent)} layers that the UNet does not have, such as {absent[0]}")
    for name, width in changed.items():
        own = present[name].weight.shape[1]
        if width != own:
            raise ValueError(f"its {name} takes {width} channels, the UNet's {own}")


def add_embeddings(parts: Parts, config: RenderConfig) -> None:
    """Teach the text encoders the words of `config.embedding`; a word is its file's name without the suffix."""
    for name in config.embedding:
        path = _file("embedding", name, config)
        pipeline = pipeline_around(parts)
        with _one_sentence(f"The embedding {path}", "made for another text encoder, or damaged"):
            vectors = _vectors(path)
            if ("clip_g" in vectors) != (len(parts.text_encoders) == 2):
                raise ValueError(
                    f"it has {' and '.join(sorted(vectors))}; Stable Diffusion XL alone has clip_g and clip_l"
                )
            if len(parts.text_encoders) == 1:
                pipeline.load_textual_inversion(str(path), token=inversion_token(path.stem), local_files_only=True)
                continue
            for key, encoder, tokenizer in zip(
                ("clip_l", "clip_g"), parts.text_encoders, parts.tokenizers, strict=True
            ):
                pipeline.load_textual_inversion(
                    vectors[key], token=inversion_token(path.stem), text_encoder=encoder, tokenizer=tokenizer
                )


def _vectors(path: Path) -> dict[str, Any]:
    """What an embedding's file holds, by name; a pickle is opened with tensors as the only objects it may hold."""
    from safetensors.torch import load_file

    content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    if not isinstance(content, dict) or not content:
        raise ValueError("no vectors in it")
    return content


def load_controls(parts: Parts, dtype: torch.dtype, config: RenderConfig) -> tuple[tuple[Control, Hint], ...]:
    """The ControlNets of `config.control` with what makes their hints."""
    return tuple(_control(entry, parts, dtype, config) for entry in config.control)


def _control(entry: str, parts: Parts, dtype: torch.dtype, config: RenderConfig) -> tuple[Control, Hint]:
    from diffusers import ControlNetModel

    kind, colon, rest = entry.partition(":")
    if not colon or kind not in (*HINTS, "depth"):
        raise UnknownName("hint (a ControlNet is given as HINT:NAME@SCALE)", kind, [*HINTS, "depth"])
    name, scale = scaled(rest)
    path = find_model("controlnet", name, config.model_folders)
    if path.is_dir():
        network = load(ControlNetModel, path, torch_dtype=dtype, allow_pickle=config.allow_pickle)
    else:
        _refuse_pickle(path, config)
        network = _control_file(path, parts, dtype)
    for field in ("cross_attention_dim", "block_out_channels", "addition_embed_type"):
        own, wanted = (_plain(net.config[field]) for net in (network, parts.unet))
        if own != wanted:
            raise ModelError(
                f"The ControlNet {path} is for another family of models: its {field} is {own}, the UNet's {wanted}."
            )
    if kind != "depth":
        return Control(network, scale), HINTS[kind]
    if config.depth_model is None:
        raise UsageError("A depth ControlNet needs a depth network: give --depth-model FILE.onnx.")
    return Control(network, scale), Depth(Path(config.depth_model).expanduser())


def _plain(value: Any) -> Any:
    """A config's value as JSON would give it back."""
    return list(value) if isinstance(value, tuple) else value


def _control_file(path: Path, parts: Parts, dtype: torch.dtype) -> Any:
    from diffusers import ControlNetModel

    with (
        tempfile.TemporaryDirectory(prefix="flowguide-") as scratch,
        _one_sentence(f"The ControlNet {path}", "made for another family of models, or damaged"),
    ):
        like = ControlNetModel.from_unet(parts.unet, load_weights_from_unet=False)
        # A ControlNet sees the noisy latents alone, also where the UNet is for inpainting.
        like.register_to_config(in_channels=parts.vae.config.latent_channels)
        like.save_config(scratch)
        return ControlNetModel.from_single_file(str(path), config=scratch, local_files_only=True, torch_dtype=dtype)


class ImagePrompts:
    """The IP-Adapter of `config.ip_adapter`, plugged into the UNet.

    Its CLIP image encoder lies in the folder image_encoder beside its file.
    """

    def __init__(self, parts: Parts, device: torch.device, config: RenderConfig):
        from transformers import CLIPVisionModelWithProjection

        name, scale = scaled(config.ip_adapter or "")
        self._path, self._device = _file("ip-adapter", name, config), device
        beside = self._path.parent / "image_encoder"
        if not beside.is_dir():
            raise ModelError(f"The IP-Adapter {self._path} needs its CLIP image encoder in {beside}.")
        self._pipeline = pipeline_around(parts)
        encoder = load(CLIPVisionModelWithProjection, beside, dtype=parts.unet.dtype, allow_pickle=config.allow_pickle)
        self._pipeline.register_modules(image_encoder=encoder)
        with self._told():
            self._pipeline.load_ip_adapter(
                str(self._path.parent), subfolder="", weight_name=self._path.name, image_encoder_folder=None,
                local_files_only=True,
            )  # fmt: skip
            self.scale(scale)
            self._pipeline.image_encoder.to(device)
            parts.unet.to(device)

    def scale(self, value: float) -> None:
        """How much of the picture is heard from now on."""
        self._pipeline.set_ip_adapter_scale(value)

    def __call__(self, picture: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(without, with): the embeddings of no picture and of `picture`, a PIL image, each [1, pictures, width] per
        adapter."""
        with self._told(), torch.inference_mode():
            both = self._pipeline.prepare_ip_adapter_image_embeds([picture], None, self._device, 1, True)
        return tuple(entry[:1] for entry in both), tuple(entry[1:] for entry in both)

    def _told(self) -> contextlib.AbstractContextManager[None]:
        return _one_sentence(f"The IP-Adapter {self._path}", "made for another family of models, or damaged")


def image_prompts(
    parts: Parts, device: torch.device, config: RenderConfig
) -> tuple[ImagePrompts | None, tuple[tuple[Tensor, ...], ...]]:
    """The IP-Adapter of `config`, None where there is none; and the embeddings (without, with) of `config.ip_image`,
    empty where there is none. Raises UsageError where it has no picture to look at, or one that cannot be read."""
    if config.ip_adapter is None:
        return None, ()
    if config.ip_image is None and config.strategy != "source":
        raise UsageError("An IP-Adapter needs a picture: give --ip-image FILE.")
    from PIL import Image

    try:
        picture = None if config.ip_image is None else Image.open(config.ip_image).convert("RGB")
    except OSError as error:
        raise UsageError(f"The picture {config.ip_image} cannot be read: {first_line(error)}") from error
    prompts = ImagePrompts(parts, device, config)
    return prompts, () if picture is None else prompts(picture)


def _file(kind: str, name: str, config: RenderConfig) -> Path:
    path = find_model(kind, name, config.model_folders)
    _refuse_pickle(path, config)
    return path


def _refuse_pickle(path: Path, config: RenderConfig) -> None:
    if path.is_file() and path.suffix != ".safetensors" and not config.allow_pickle:
        raise pickle_refused(path)


@contextlib.contextmanager
def _one_sentence(subject: str, likely: str) -> Iterator[None]:
    try:
        with quiet():
            yield
    except (ModelError, UsageError):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines()]
        # torch's first line announces a list; what follows in diffusers' is advice about its own arguments.
        reason = lines[1] if len(lines) > 1 and lines[0].endswith(":") else first_line(error)
        reason = reason.split(". If you want", 1)[0].rstrip(".")
        raise ModelError(f"{subject} does not fit the checkpoint ({likely}): {reason}") from error
