"""Self-attention shared between frames, in every family of UNet."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_checkpoint import FAMILIES, save_family

from flowguide.config import render_config
from flowguide.diffusion.attention import AttentionSharing, KeyBank
from flowguide.diffusion.checkpoint import load_checkpoint
from flowguide.diffusion.image_to_image import ImageToImage, NoiseKey
from flowguide.errors import UsageError
from flowguide.timing import StageClock


def engine(folder: Path, family: str) -> ImageToImage:
    checkpoint = load_checkpoint(str(save_family(folder / family, family)), torch.float32, torch.device("cpu"))
    sampler = "lcm" if family == "lcm" else "ddim"
    config = render_config(prompt="a boat", sampler=sampler, steps=4, strength=0.7, guidance_scale=2.0)
    return ImageToImage(checkpoint, config, StageClock())


@pytest.mark.parametrize("family", FAMILIES)
def test_frames_that_are_alike_do_not_change_each_other(tmp_path: Path, family: str) -> None:
    """Softmax over the same keys twice is softmax over them once."""
    model = engine(tmp_path, family)
    start = model.encode(torch.rand(1, 3, 32, 48) * 2 - 1)
    alone = model.denoise(start, NoiseKey(0, 0))
    with model.attention.together(2):
        both = model.denoise(torch.cat([start, start]), [NoiseKey(0, 0), NoiseKey(0, 0)])
    torch.testing.assert_close(both, torch.cat([alone, alone]), rtol=1e-4, atol=1e-4)
    bank = KeyBank()
    with model.attention.remember(bank):
        torch.testing.assert_close(model.denoise(start, NoiseKey(0, 0)), alone, rtol=1e-4, atol=1e-4)
    with model.attention.recall(bank):
        torch.testing.assert_close(model.denoise(start, NoiseKey(0, 0)), alone, rtol=1e-4, atol=1e-4)
    assert bank.size_bytes > 0


def test_different_frames_see_each_other_and_the_bank(tmp_path: Path) -> None:
    model = engine(tmp_path, "sd1")
    starts = model.encode(torch.rand(2, 3, 32, 48) * 2 - 1)
    keys = [NoiseKey(0, 0), NoiseKey(0, 1)]
    apart = model.denoise(starts, keys)
    with model.attention.together(2):
        shared = model.denoise(starts, keys)
    assert float((shared - apart).abs().max()) > 1e-5
    bank = KeyBank()
    with model.attention.remember(bank):
        model.denoise(starts[:1], keys[0])
    with model.attention.recall(bank, frames=2):
        recalled = model.denoise(starts, keys)
    torch.testing.assert_close(recalled[:1], apart[:1], rtol=1e-4, atol=1e-4)
    assert float((recalled[1] - apart[1]).abs().max()) > 1e-5


def test_outside_the_unet_is_untouched(tmp_path: Path) -> None:
    model = engine(tmp_path, "sd1")
    unet = model.attention._unet
    before = dict(unet.attn_processors)
    with model.attention.together(2):
        assert unet.attn_processors != before
        with pytest.raises(UsageError, match="already shared"), AttentionSharing.together(model.attention, 2):
            pass
        with pytest.raises(UsageError, match="one batch, got 1 rows"):
            unet(torch.zeros(1, 4, 4, 4), 1, torch.zeros(1, 77, 16))
    assert unet.attn_processors == before
    assert not unet._forward_pre_hooks
