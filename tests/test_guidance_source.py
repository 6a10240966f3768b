"""Strategy `source`: weights as expressions of time, and what each knob pulls toward."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as draw
from torch import Tensor

from flowguide.config import RenderConfig, render_config
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.diffusion.semantics import Likeness
from flowguide.errors import ModelError, UsageError
from flowguide.guidance.expressions import Expression
from flowguide.guidance.source import Aims, Knob, SourcePull, Strength, knobs_of
from flowguide.guidance.source_terms import DepthTerm, SemanticTerm, edges
from flowguide.renderer import Renderer
from flowguide.types import Frame, Guide

SIZE = (48, 64)
EVERYWHERE = Strength(1.0, None, None)


def frame(index: int = 0, seconds: float = 0.0) -> Frame:
    rgb = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
    return Frame(rgb, index, round(1000 * seconds))


def smooth(seed: int) -> Tensor:
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 1)[0] * 1.6 - 0.8


@pytest.mark.parametrize(
    ("text", "t", "value"),
    [
        ("1 + sin(2*pi*t)", 0.25, 2.0),
        ("2 if t < 3 else 0.5", 4.0, 0.5),
        ("max(0, 1 - t) ** 2", 0.5, 0.25),
        ("-t % 3", 1.0, 2.0),
        ("1 < t < 3", 2.0, 1.0),
        ("e", 0.0, np.e),
    ],
)
def test_expressions_are_arithmetic(text: str, t: float, value: float) -> None:
    assert Expression(text)(t) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    ["__import__('os').system('true')", "t.real", "(lambda: 1)()", "[1]", "x", "'a'", "True", "1 if", "", "t := 1",
     "f'{t}'", "abs(t, key=1)", "exec('1')", "(" * 300 + "1" + ")" * 300, "1+" * 400 + "1", "t[0]", "1j"],
)  # fmt: skip
def test_expressions_are_nothing_else(text: str) -> None:
    with pytest.raises(UsageError, match="is no expression of t"):
        Expression(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("t_nope", r"'t_nope' is the weight 't' where the mask 'nope' is white, .*nope does not exist.*underscore"),
        ("nope", r"The weight 'nope' is no expression of t"),
        ("1:nope", r"The weight 'nope' is no expression of t"),
    ],
)
def test_what_is_no_weight_is_told_with_its_option(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"^--edge-stabilization-weight:? {says}"):
        knobs_of(RenderConfig(edge_stabilization_weight=text))
    knob = knobs_of(RenderConfig(edge_stabilization_weight="1/t"))["edge"]
    with pytest.raises(UsageError, match=r"^--edge-stabilization-weight: .* divides by zero at t = 0 s"):
        knob.at(Frame(torch.zeros(3, 8, 8, dtype=torch.uint8), 0))


@given(draw.text(max_size=40))
def test_any_text_is_an_expression_or_a_sentence(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert np.isfinite(Expression(text)(1.5))


@pytest.mark.parametrize(
    ("text", "t", "says"),
    [
        ("1/(t - 2)", 2.0, "'1/(t - 2)' divides by zero at t = 2 s"),
        ("t % 0", 0.5, "divides by zero at t = 0.5 s"),
        ("log(t)", 0.0, "has no value at t = 0 s"),
        ("9**9**9**9", 0.0, "has no value at t = 0 s"),
        ("(-1)**0.5", 0.0, "should be a finite number"),
        ("1e308*10", 0.0, "should be a finite number"),
        ("abs()", 0.0, "has no value"),
    ],
)
def test_a_weight_without_a_value_is_told_with_its_time(text: str, t: float, says: str) -> None:
    with pytest.raises(UsageError) as told:
        Expression(text)(t)
    assert says in str(told.value)


def test_weights_are_written_with_a_mask_and_a_stop(tmp_path: Path) -> None:
    half = np.zeros(SIZE, np.uint8)
    half[:, 32:] = 255
    cv2.imwrite(str(tmp_path / "half_mask.png"), half)
    config = RenderConfig()
    plain = Knob("direct", "2*t", config).at(frame(seconds=1.5))
    assert (plain.weight, plain.stop, plain.mask) == (3.0, None, None)
    stopped = Knob("direct", "2:0.1*t", config).at(frame(seconds=2.0))
    assert (stopped.weight, stopped.stop) == (2.0, 0.2)
    masked = Knob("direct", f"1_{tmp_path}/half_mask.png", config).at(frame())
    assert masked.map(smooth(0), 8)[0].tolist() == [0.0] * 4 + [1.0] * 4
    both = Knob("direct", f"1_{tmp_path}/half_mask.png:0.3", config).at(frame())
    assert both.stop == 0.3
    assert Knob("direct", "0", config).is_off
    assert not Knob("direct", "0*t", config).is_off
    cv2.imwrite(str(tmp_path / "small.png"), half[:40])
    with pytest.raises(UsageError, match=r"small\.png is 64x40 and frame 0 is 64x48"):
        Knob("direct", f"1_{tmp_path}/small.png", config).at(frame())


def pull(x0: Tensor, source: Tensor, *, share: float = 1.0, terms: Any = None, **knobs: Any) -> Tensor:
    """x0 after the pull; a latent is a picture here, of cells of one pixel."""
    strengths = {name: Strength(0.0, None, None) for name in ("direct", "semantic", "edge", "depth", "flow")} | knobs
    sure = torch.ones(SIZE)
    aims = Aims(Guide(source, sure), None, source, strengths, source, source, torch.zeros(2, *SIZE))
    weights = {name: strengths[name].map(source, 1) for name in ("flow", "direct")}
    latents = {"flow": torch.zeros_like(x0), "direct": source[None]}
    made = SourcePull([share], latents, weights, aims, terms or {}, 1, lambda p: p, lambda z: z)
    k0, weight = made(0, x0)
    return x0 + weight[:, None] * (k0 - x0)


def test_the_pull_is_the_minimiser_of_the_losses() -> None:
    x0, source = smooth(1)[None], smooth(2)
    direct, flow = Strength(1.5, None, None), Strength(0.5, None, None)
    found = pull(x0, source, direct=direct, flow=flow)
    torch.testing.assert_close(found, (x0 + 1.5 * source) / 3.0)
    assert torch.equal(pull(x0, source), x0)
    assert torch.equal(pull(x0, source, direct=direct, share=0.0), x0)
    away = pull(x0, source, direct=Strength(-1.0, None, None))
    assert float((away - source).square().mean()) > float((x0 - source).square().mean())
    assert float((away - x0).abs().max()) <= float((x0 - source).abs().max()), "bounded however strong"


def test_a_stop_is_the_loss_that_is_left() -> None:
    x0, source = smooth(1)[None], smooth(2)
    loss = float((x0 - source).square().mean())
    found = pull(x0, source, direct=Strength(1e6, 0.25 * loss, None))
    assert float((found - source).square().mean()) == pytest.approx(0.25 * loss, rel=1e-3)
    assert torch.equal(pull(x0, source, direct=Strength(5.0, 2 * loss, None)), x0)
    assert torch.equal(pull(x0, source, direct=Strength(-5.0, 0.5 * loss, None)), x0)


def sobel(picture: Tensor) -> Tensor:
    grey = ((picture + 1) / 2 * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)
    padded = F.pad(grey[None, None], (1, 1, 1, 1), mode="replicate")
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8.0
    return torch.cat([F.conv2d(padded, kernel[None, None]), F.conv2d(padded, kernel.T[None, None])])


def test_edges_are_pulled_to_the_minimum_of_their_loss() -> None:
    """The gradient of |y - x|² + W |∇y - ∇T|² over changes of the grey picture is 0 there."""
    x, source, weight = smooth(1), smooth(2), 3.0
    change = edges(x, source, Strength(weight, None, None))
    assert torch.equal(change[0], change[1])
    grey = (change[0] / 2.0).requires_grad_()
    energy = grey.square().sum() + weight * (sobel(x + 2 * grey) - sobel(source)).square().sum()
    (gradient,) = torch.autograd.grad(energy, grey)
    assert float(gradient.abs().max()) < 1e-4
    before, after = ((sobel(y) - sobel(source)).square().mean() for y in (x, x + change))
    assert float(after) < 0.7 * float(before)
    assert float(((x + change).mean() - x.mean()).abs()) < 1e-5, "its brightness is its own"
    assert not edges(x, source, Strength(weight, 1.0, None)).any()
    mask = torch.zeros(SIZE)
    mask[:, :32] = 1.0
    assert not edges(x, source, Strength(weight, None, mask))[:, :, 32:].any()


def test_depth_pulls_where_it_differs() -> None:
    x, source = smooth(1), smooth(2)
    source[:, :, 32:] = x[:, :, 32:] * 0.5

    def nearness(picture: Tensor) -> Tensor:
        left = picture[:, :, :, :32].mean(1, keepdim=True) * 0.5 + 0.5
        return F.pad(left, (0, 32)).expand(-1, 3, -1, -1)

    change = DepthTerm(nearness)(x, source, EVERYWHERE)
    assert not change[:, :, 32:].any(), "same depth, other colours"
    after = (nearness((x + change)[None]) - nearness(source[None])).square().mean()
    assert float(after) < float((nearness(x[None]) - nearness(source[None])).square().mean())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    folder = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        small = CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32,
            patch_size=8, projection_dim=12,
        )  # fmt: skip
        CLIPVisionModelWithProjection(small).save_pretrained(folder)
    return folder


def test_semantics_pull_toward_what_clip_sees(clip: Path) -> None:
    likeness = Likeness(clip, torch.device("cpu"))
    x, source = smooth(1), smooth(2)
    term = SemanticTerm(likeness)
    change = term(x, source, EVERYWHERE)
    before, after = likeness.loss(x, source)[0], likeness.loss(x + 0.2 * change, source)[0]
    assert after < before
    assert float(change.square().mean().sqrt()) <= 0.2 + 1e-6
    assert likeness.loss(source, source)[0] == pytest.approx(0.0, abs=1e-5)
    assert not term(x, source, Strength(1.0, 3.0, None)).any()
    away = term(x, source, Strength(-1.0, None, None))
    assert likeness.loss(x + 0.2 * away, source)[0] > before


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_checkpoint), torch.float32, torch.device("cpu"))


def painted(checkpoint: Checkpoint, frames: list[Frame], **options: Any) -> list[Tensor]:
    config = render_config({"strategy": "source", "steps": 4, "noise": "per-frame", "flow": "dis", **options})
    return [styled.picture for styled in Renderer(config, checkpoint=checkpoint)(frames)]


def test_what_the_checkpoint_cannot_do_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"semantic_stabilization_weight needs .* --clip-model"):
        painted(checkpoint, [], semantic_stabilization_weight="1")
    with pytest.raises(UsageError, match="depth_stabilization_weight needs a depth network"):
        painted(checkpoint, [], depth_stabilization_weight="t")
    with pytest.raises(ModelError, match="CLIP image encoder"):
        painted(checkpoint, [], semantic_stabilization_weight="1", clip_model=str(tmp_path))
    with pytest.raises(UsageError, match=r"init 'previous' .* reencode_each_frame"):
        painted(checkpoint, [], reencode_each_frame=False, init="previous")


def test_every_knob_moves_the_render_its_way(clip: Path) -> None:
    """With the bundled model, whose autoencoder knows pictures."""
    painter = load_checkpoint("painter", torch.float32, torch.device("cpu"), RenderConfig())
    source = smooth(4)
    frames = [Frame(((source + 1) * 127.5).round().to(torch.uint8), 0)]
    plain = painted(painter, frames)[0]

    def apart(**options: Any) -> float:
        return float((painted(painter, frames, **options)[0] - source).square().mean())

    assert apart(direct_stabilization_weight="4") < apart(direct_stabilization_weight="1")
    assert apart(direct_stabilization_weight="1") < float((plain - source).square().mean())
    drawn = painted(painter, frames, edge_stabilization_weight="20")[0]
    assert float((sobel(drawn) - sobel(source)).square().mean()) < float((sobel(plain) - sobel(source)).square().mean())
    seen = painted(painter, frames, semantic_stabilization_weight="1", clip_model=str(clip))[0]
    assert not torch.equal(seen, plain)


def test_a_division_by_zero_during_the_clip_names_the_time(checkpoint: Checkpoint) -> None:
    frames = [frame(0, 0.0), frame(0, 0.04)]
    frames[1] = Frame(frames[1].rgb, 1, 40)
    with pytest.raises(UsageError, match=r"divides by zero at t = 0.04 s"):
        painted(checkpoint, frames, direct_stabilization_weight="1/(t - 0.04)")


def test_an_ip_adapter_is_shown_each_source(tmp_path: Path) -> None:
    """The weight is its scale: 0 is the model without it."""
    from test_diffusion_attachments import save_ip_adapter
    from tiny_checkpoint import save_family

    folder = save_family(tmp_path / "model", "sd1")
    plain = load_checkpoint(str(folder), torch.float32, torch.device("cpu"), RenderConfig())
    file = save_ip_adapter(tmp_path, plain.unet)
    options: dict[str, Any] = {"strategy": "source", "ip_adapter": str(file)}
    frames = [frame(0), Frame(frame(1).rgb, 1, 40)]

    def made(weight: str) -> list[Tensor]:
        config = render_config({**options, "semantic_stabilization_weight": weight})
        adapted = load_checkpoint(str(folder), torch.float32, torch.device("cpu"), config)
        return painted(adapted, frames, ip_adapter=str(file), semantic_stabilization_weight=weight)

    late, never = made("1 if t > 0.02 else 0"), painted(plain, frames)
    torch.testing.assert_close(late[0], never[0], atol=1e-4, rtol=0)
    assert float((late[1] - never[1]).abs().max()) > 1e-3
    with pytest.raises(UsageError, match="leave its mask and its stop out"):
        made("1:0.2")
    with pytest.raises(UsageError, match="--ip-image"):
        made("0")
