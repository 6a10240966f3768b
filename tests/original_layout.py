"""A diffusers folder written as one file under the names of the original code, as A1111 and ComfyUI keep models."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

Weights = dict[str, torch.Tensor]

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_TOP = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def save_single_file(folder: Path, file: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The weights of the Stable Diffusion 1, 2 or XL folder in one `.safetensors` file."""
    from flowguide.diffusion.loading import folder_parts

    parts = folder_parts(folder, dtype)
    weights = unet_weights(parts.unet)
    weights |= prefixed("first_stage_model.", vae_weights(parts.vae))
    texts = [encoder.state_dict() for encoder in parts.text_encoders]
    if len(texts) == 2:
        weights |= prefixed("conditioner.embedders.0.transformer.", in_text_model(texts[0]))
        weights |= prefixed("conditioner.embedders.1.model.", open_clip(texts[1]))
    elif parts.unet.config.use_linear_projection:
        weights |= prefixed("cond_stage_model.model.", open_clip(texts[0]))
    else:
        weights |= prefixed("cond_stage_model.transformer.", in_text_model(texts[0]))
    save_file({key: value.contiguous() for key, value in weights.items()}, file)
    return file


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + key: value for key, value in weights.items()}


def in_text_model(weights: Weights) -> Weights:
    return {key if key.startswith("text_model.") else f"text_model.{key}": value for key, value in weights.items()}


def renamed(name: str, table: dict[str, str]) -> str:
    """The start of `name` as `table` has it."""
    for ours, original in table.items():
        if name.startswith(ours + "."):
            return original + name[len(ours) :]
    return name


def unet_weights(unet: torch.nn.Module) -> Weights:
    per_block = unet.config.layers_per_block + 1
    attended_up = [kind.startswith("CrossAttn") for kind in unet.config.up_block_types]
    weights = {}
    for key, value in unet.state_dict().items():
        match = re.match(
            r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", key
        )
        if match is None:
            weights["model.diffusion_model." + renamed(key, _TOP)] = value
            continue
        side, kind, rest = match.group(1), match.group(3), match.group(5)
        block, layer = int(match.group(2) or 0), int(match.group(4))
        if kind == "resnets":
            rest = renamed(rest, _RESNET)
        second = {"resnets": 0, "attentions": 1}.get(kind, 0)
        if side == "mid":
            place = f"middle_block.{1 if kind == 'attentions' else 2 * layer}"
        elif kind == "downsamplers":
            place, rest = f"input_blocks.{(block + 1) * per_block}.0", rest.replace("conv.", "op.")
        elif kind == "upsamplers":
            place = f"output_blocks.{(block + 1) * per_block - 1}.{2 if attended_up[block] else 1}"
        elif side == "down":
            place = f"input_blocks.{block * per_block + layer + 1}.{second}"
        else:
            place = f"output_blocks.{block * per_block + layer}.{second}"
        weights[f"model.diffusion_model.{place}.{rest}"] = value
    return weights


def vae_weights(vae: torch.nn.Module) -> Weights:
    blocks = len(vae.config.block_out_channels)
    weights = {}
    for key, value in vae.state_dict().items():
        name = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{blocks - 1 - int(m[1])}.block.{m[2]}", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            name = name.replace("to_out.0", "proj_out").replace("to_q", "q").replace("to_k", "k").replace("to_v", "v")
            value = value if ".norm." in name or value.ndim == 1 else value[..., None, None]
        weights[name] = value
    return weights


def open_clip(weights: Weights) -> Weights:
    """One text encoder as OpenCLIP writes it: query, key and value in one matrix, the projection transposed."""
    weights = {key.removeprefix("text_model."): value for key, value in weights.items()}
    width = weights["final_layer_norm.weight"].shape[0]
    original = {
        "token_embedding.weight": weights["embeddings.token_embedding.weight"],
        "positional_embedding": weights["embeddings.position_embedding.weight"],
        "ln_final.weight": weights["final_layer_norm.weight"],
        "ln_final.bias": weights["final_layer_norm.bias"],
        "text_projection": weights.get("text_projection.weight", torch.eye(width)).T,
    }
    for layer in sorted(layers(weights)):
        ours, theirs = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            stacked = [weights[f"{ours}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            original[f"{theirs}attn.in_proj_{kind}"] = torch.cat(stacked)
            for a, b in (("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
                         ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):  # fmt: skip
                original[f"{theirs}{b}.{kind}"] = weights[f"{ours}{a}.{kind}"]
    return original


def layers(weights: Iterable[str]) -> set[int]:
    return {int(match.group(1)) for key in weights if (match := re.match(r"encoder\.layers\.(\d+)\.", key))}
