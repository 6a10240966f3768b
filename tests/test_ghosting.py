"""The ghost slope by an instrument against known truth, Gaussian paintings of one scene."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from flowguide import ops
from flowguide.flow import TrueFlow
from flowguide.metrics import measure
from flowguide.synthetic import crossing
from flowguide.types import Frame

ROOT = Path(__file__).resolve().parents[1]
FRAMES, PIXELS, NOISE, CONTRAST = 30, 3000, 20.0, 25.0


@pytest.fixture
def ghosting(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return pytest.importorskip("ghosting")


class Paintings:
    """Per frame a scene's mean, what stood before it, and paintings of either with independent noise."""

    def __init__(self) -> None:
        self.scene = 128 + CONTRAST * torch.randn(FRAMES, PIXELS)
        self.hider = self.scene + CONTRAST * torch.randn(FRAMES, PIXELS)
        self.plain, self.other = self.painted(self.scene), self.painted(self.scene)
        self.warped, self.other_warped = self.painted(self.hider), self.painted(self.hider)

    def painted(self, mean: Tensor) -> Tensor:
        return mean + NOISE * torch.randn(FRAMES, PIXELS)

    def fresh(self, noise: str) -> Tensor:
        """What has come into view, painted with one or the other's noise."""
        if noise == "of the unguided":
            return self.plain
        return self.painted(self.scene) if noise == "its own" else self.scene + self.warped - self.hider


@pytest.fixture
def found(ghosting: ModuleType) -> Callable[..., tuple[float, float]]:
    def slope(*clips: Tensor) -> tuple[float, float]:
        return ghosting.slope(torch.stack([ghosting.moments(*frame) for frame in zip(*clips, strict=True)]))

    return slope


@pytest.mark.parametrize("ghost", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("noise", ["its own", "of the unguided", "of the frame before"])
def test_an_instrument_takes_the_bias_away(found: Callable[..., Any], ghost: float, noise: str) -> None:
    clips = Paintings()
    shown = ghost * clips.warped + (1 - ghost) * clips.fresh(noise)
    regressed = shown, clips.warped, clips.plain
    plain, _ = found(*regressed, clips.warped - clips.plain)
    unbiased, error = found(*regressed, clips.warped - clips.other)
    content, content_error = found(*regressed, clips.other_warped - clips.other)
    assert error < 0.02
    assert content_error < 0.02
    assert content == pytest.approx(ghost, abs=3 * content_error + 1e-6)
    bias = (1 - ghost) * NOISE**2 / (CONTRAST**2 + NOISE**2)  # of W - U2 where P has the noise of W
    biased = bias if noise == "of the frame before" else 0.0
    assert unbiased == pytest.approx(ghost + biased, abs=3 * error + 1e-6)
    bias = (1 - ghost) * NOISE**2 / (CONTRAST**2 + 2 * NOISE**2)  # of W - U1, by U1's noise, W's, or both
    biased = {"its own": bias, "of the unguided": 0.0, "of the frame before": 2 * bias}[noise]
    assert plain == pytest.approx(ghost + biased, abs=0.02)


def test_the_instrument_must_not_share_the_noise_of_what_is_judged(found: Callable[..., Any]) -> None:
    clips = Paintings()
    swapped, error = found(clips.plain, clips.warped, clips.other, clips.warped - clips.plain)
    assert swapped < -10 * error


def test_in_pictures_whose_dis_occlusions_are_known(ghosting: ModuleType) -> None:
    scene = crossing(size=(96, 160), near=(5, 1), far=(-3, 0), frames=12)
    exact, source = TrueFlow(scene.flow), list(scene.frames())
    plain, *others, fresh = ([painted(frame) for frame in source] for _ in range(4))
    ghosts = fresh[:1]
    for now, before, frame in zip(source[1:], source, fresh[1:], strict=False):
        warped = ops.warp(ghosts[-1].rgb[None].float(), exact(now, before).uv[None])[0]
        ghosts.append(Frame((0.7 * frame.rgb + 0.3 * warped).round().to(torch.uint8), now.index))
    clips = {"plain": plain, "second": others[0], "third": others[1], "ghosts": ghosts}
    report = measure(source, clips, estimator=exact, unguided="plain")
    found = ghosting.unbiased_ghosts(source, clips, exact, "plain", ["second", "third"], shots=[0])
    assert set(found) == {"second", "third", "ghosts"}
    for name, truth in {"second": 0.0, "third": 0.0, "ghosts": 0.3}.items():
        for value, error in found[name].values():
            assert error < 0.03
            assert value == pytest.approx(truth, abs=3 * error)
        assert report[name].ghost > truth + 0.1


def painted(frame: Frame) -> Frame:
    """Never cut off at 0 or 255, where noise would not be symmetrical."""
    noise = (NOISE * torch.randn(frame.rgb.shape)).clamp(-60, 60)
    return Frame((80 + 0.3 * frame.rgb.float() + noise).round().to(torch.uint8), frame.index)
