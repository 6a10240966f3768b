"""Layers in oneDNN's layout give what the layers they replace give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_checkpoint import tiny_unet, tiny_vae
from torch import nn

from flowguide.diffusion.long_attention import LongAttention, attend, use_long_attention
from flowguide.diffusion.packed import can_pack, pack
from flowguide.diffusion.packed_layers import PackedConv2d, PackedLinear, PackedUpsample, SmallGroupNorm

pytestmark = pytest.mark.skipif(not can_pack(), reason="this PyTorch has no oneDNN")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 24), (2, 5, 24), (1, 2, 3, 24)])
def test_linear(bias: bool, shape: tuple[int, ...]) -> None:
    layer, x = nn.Linear(24, 10, bias=bias), torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(layer)(x), layer(x))
        strided = torch.randn(*shape[:-1], 48)[..., ::2]
        torch.testing.assert_close(PackedLinear(layer)(strided), layer(strided))


@pytest.mark.parametrize("options", [
    {"kernel_size": 3, "padding": 1}, {"kernel_size": 1}, {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": 3, "padding": 2, "dilation": 2}, {"kernel_size": 3, "groups": 4},
])  # fmt: skip
@pytest.mark.parametrize("channels_last", [True, False])
def test_convolution(options: dict[str, Any], channels_last: bool) -> None:
    layer = nn.Conv2d(8, 12, **options)
    with torch.inference_mode():
        for size in ((2, 8, 9, 7), (1, 8, 16, 20)):
            x = torch.randn(size)
            x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
            torch.testing.assert_close(PackedConv2d(layer)(x), layer(x), rtol=1e-5, atol=1e-5)


def test_whole_networks() -> None:
    unet, vae = tiny_unet().eval(), tiny_vae(kl=True).eval()
    x, text = torch.randn(2, 4, 6, 8), torch.randn(2, 77, 16)
    with torch.inference_mode():
        before = unet(x, 500, text)[0], vae.decode(x)[0]
        assert pack(unet) > 20
        assert pack(vae) > 10
        after = unet(x, 500, text)[0], vae.decode(x)[0]
        assert pack(unet) == 0, "already packed"
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [
    {}, {"addition_embed_type": "text", "addition_embed_type_num_heads": 4, "resnet_time_scale_shift": "scale_shift"},
])  # fmt: skip
def test_bfloat16_errs_no_more_than_twice_pytorchs_own(options: dict[str, Any]) -> None:
    unet, x, text = tiny_unet(**options).eval(), torch.randn(2, 4, 32, 24), torch.randn(2, 77, 16)
    with torch.inference_mode():
        truth = unet(x, 500, text)[0]
        unet, x, text = unet.bfloat16(), x.bfloat16(), text.bfloat16()
        own = unet(x, 500, text)[0]
        assert pack(unet) > 20
        use_long_attention(unet)
        packed = unet(x, 500, text)[0]
    errors = [float((made.float() - truth).square().mean().sqrt()) for made in (packed, own)]
    assert packed.dtype == torch.bfloat16
    assert errors[0] <= 2 * errors[1]


def test_another_size_is_laid_out_anew() -> None:
    layer = nn.Conv2d(96, 96, 3, stride=2, padding=1)
    packed = PackedConv2d(layer)
    with torch.inference_mode():
        for size in ((2, 96, 32, 32), (1, 96, 4, 4), (2, 96, 32, 32)):
            x = torch.randn(size)
            torch.testing.assert_close(packed(x), layer(x), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(packed.plus(layer(x), x), 2 * layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pixels", [(8, 8), (40, 40)])
def test_group_norm_of_bfloat16(pixels: tuple[int, int]) -> None:
    layer, x = nn.GroupNorm(4, 12).bfloat16(), torch.randn(2, 12, *pixels).bfloat16()
    nn.init.normal_(layer.weight)
    with torch.inference_mode():
        made = SmallGroupNorm(layer)(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(made, layer(x), rtol=1e-2, atol=1e-2)


def test_other_precisions_and_layers_are_left_alone() -> None:
    network = nn.Sequential(nn.Linear(4, 4).double(), nn.Conv2d(4, 4, 3, padding_mode="reflect", padding=1))
    network.append(nn.Conv2d(4, 4, 3, padding="same"))
    network.append(nn.GroupNorm(2, 4))
    assert pack(network) == 0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(1, 6, 1, 1), (2, 6, 5, 8)])
def test_doubling_and_convolution_in_one(bias: bool, size: tuple[int, ...]) -> None:
    layer, x = nn.Conv2d(6, 5, 3, padding=1, bias=bias), torch.randn(size)
    packed = PackedUpsample(layer)
    with torch.inference_mode():
        expected = layer(nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        torch.testing.assert_close(packed(x), expected, rtol=1e-5, atol=1e-5)
        odd = (2 * size[2] - 1, 2 * size[3] - 1)
        expected = layer(nn.functional.interpolate(x, size=odd, mode="nearest"))
        torch.testing.assert_close(packed(x, odd), expected, rtol=1e-5, atol=1e-5)


def test_the_tiny_autoencoder_is_fused() -> None:
    vae, x = tiny_vae(kl=False).eval(), torch.randn(1, 4, 6, 8)
    with torch.inference_mode():
        before = vae.decode(x)[0]
        pack(vae)
        torch.testing.assert_close(vae.decode(x)[0], before, rtol=1e-4, atol=1e-5)
    kinds = [type(layer).__name__ for layer in vae.decoder.modules()]
    assert kinds.count("PackedUpsample") == 3
    assert "Conv2d" not in kinds
    assert "Upsample" not in kinds


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_long_attention_errs_no_more_than_twice_pytorchs_own(dtype: torch.dtype, spread: float) -> None:
    query, key, value = (torch.randn(2, 3, tokens, 24, dtype=torch.float64) for tokens in (300, 600, 600))
    given = [(query * spread).to(dtype), key.to(dtype), value.to(dtype)]
    attention = nn.functional.scaled_dot_product_attention
    truth = attention(*(part.double() for part in given))
    with torch.inference_mode():
        errors = [float((made.double() - truth).square().mean().sqrt()) for made in (attend(*given), attention(*given))]
    assert errors[0] <= 2 * errors[1] + 1e-9


def test_short_attention_is_pytorchs_own() -> None:
    parts = [torch.randn(1, 2, 20, 8) for _ in range(3)]
    assert torch.equal(attend(*parts), nn.functional.scaled_dot_product_attention(*parts))


def test_a_unet_with_many_tokens_gives_the_same() -> None:
    unet, x, text = tiny_unet().eval(), torch.randn(1, 4, 48, 56), torch.randn(1, 77, 16)
    with torch.inference_mode():
        before = unet(x, 500, text)[0]
        use_long_attention(unet)
        assert sum(type(processor) is LongAttention for processor in unet.attn_processors.values()) > 1
        torch.testing.assert_close(unet(x, 500, text)[0], before, rtol=1e-4, atol=1e-5)
