"""Regions: what is painted, what stays bit for bit, and opacity all the way through."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from going_on import resumed_equals_whole, written
from torch import Tensor

import flowguide
from flowguide.config import RenderConfig, render_config
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.errors import UsageError, VideoError
from flowguide.masks import Region, leaves_nothing, needs_alpha, region_of
from flowguide.renderer import Renderer
from flowguide.types import Frame
from flowguide.video import ClipReader

HEIGHT, WIDTH, FRAMES = 45, 61, 5


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_checkpoint), torch.float32, torch.device("cpu"))


def clip(count: int = FRAMES, *, alpha: bool = False) -> list[Frame]:
    coarse = np.random.default_rng(0).random((12, 30, 3), dtype=np.float32)
    wide = (cv2.resize(coarse, (240, 96), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255).astype(np.uint8)
    frames = []
    for index in range(count):
        rgb = torch.from_numpy(np.ascontiguousarray(wide[20 : 20 + HEIGHT, index : index + WIDTH].transpose(2, 0, 1)))
        frames.append(Frame(rgb, index, index, Fraction(1, 25), disc(index) * 255 if alpha else None))
    return frames


def disc(index: int) -> Tensor:
    """uint8 [H, W]: 1 in a disc that moves to the right."""
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    return torch.from_numpy(((x - 20 - 3 * index) ** 2 + (y - 22) ** 2 <= 15**2).astype(np.uint8))


def write(path: Path, mask: Tensor) -> Path:
    cv2.imwrite(str(path), (mask * 255).numpy())
    return path


def write_video(path: Path, count: int) -> Path:
    masks = [Frame((disc(index) * 255).expand(3, -1, -1).contiguous(), index) for index in range(count)]
    return written(path, masks, codec="ffv1")


def painted(checkpoint: Checkpoint, frames: list[Frame], **options: Any) -> list[Tensor]:
    config = render_config({"steps": 2, "flow": "dis", **options})
    return [styled.frame().rgb for styled in Renderer(config, checkpoint=checkpoint)(frames)]


def eroded(mask: Tensor, by: int) -> Tensor:
    return torch.from_numpy(cv2.erode(mask.numpy(), np.ones((2 * by + 1, 2 * by + 1), np.uint8))).bool()


STRATEGIES: list[dict[str, Any]] = [
    {}, {"strategy": "anchors", "anchors": "3"}, {"strategy": "joint", "window": 2}, {"passes": 2, "window": 3},
    {"guidance": False},
]  # fmt: skip


@pytest.mark.parametrize("options", STRATEGIES, ids=str)
def test_outside_stays_bit_for_bit_and_inside_is_what_it_would_be(
    checkpoint: Checkpoint, tmp_path: Path, options: dict[str, Any]
) -> None:
    frames, mask = clip(), write(tmp_path / "mask.png", disc(0))
    plain = painted(checkpoint, frames, **options)
    masked = painted(checkpoint, frames, mask=str(mask), mask_feather_px=3, **options)
    kept = painted(checkpoint, frames, keep=str(mask), mask_feather_px=3, **options)
    inside, around = disc(0).bool(), ~disc(0).bool()
    for frame, whole, one, other in zip(frames, plain, masked, kept, strict=True):
        assert torch.equal(one[:, around], frame.rgb[:, around])
        assert torch.equal(other[:, inside], frame.rgb[:, inside])
        core = eroded(disc(0), 6)
        assert torch.equal(one[:, core], whole[:, core])
        rest = eroded(1 - disc(0), 6)
        assert torch.equal(other[:, rest], whole[:, rest])
    seam = inside & ~eroded(disc(0), 3)
    assert bool((masked[0] != frames[0].rgb)[:, seam].any()), "the seam lies inside"


def test_a_mask_that_is_a_video_moves_with_its_frames(checkpoint: Checkpoint, tmp_path: Path) -> None:
    frames, mask = clip(), write_video(tmp_path / "mask.mkv", FRAMES)
    for frame, shown in zip(frames, painted(checkpoint, frames, mask=str(mask)), strict=True):
        around = ~disc(frame.index).bool()
        assert torch.equal(shown[:, around], frame.rgb[:, around])
        core = eroded(disc(frame.index), 8)
        assert not torch.equal(shown[:, core], frame.rgb[:, core])


def test_masks_are_found_again_where_a_run_goes_on(tmp_path: Path) -> None:
    region = Region(render_config({"mask": str(write_video(tmp_path / "mask.mkv", FRAMES))}))
    frames = clip()
    for index in (3, 4, 1, 0, 2, 2):
        assert torch.equal(region.of(frames[index]), disc(index).float()), index


def test_both_masks_count(tmp_path: Path) -> None:
    left = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
    left[:, :20] = 1
    options = {"mask": str(write(tmp_path / "a.png", disc(0))), "keep": str(write(tmp_path / "b.png", left))}
    assert torch.equal(Region(render_config(options)).of(clip(1)[0]), (disc(0) * (1 - left)).float())
    assert region_of(RenderConfig()) is None


@pytest.mark.parametrize("option", ["mask", "keep"])
def test_a_mask_that_does_not_fit_is_told_before_anything_is_painted(
    checkpoint: Checkpoint, tmp_path: Path, option: str
) -> None:
    small = write(tmp_path / "small.png", disc(0)[:40])
    with pytest.raises(UsageError, match=rf"The {option} .*small\.png is 61x40 and frame 0 is 61x45"):
        painted(checkpoint, clip(), **{option: str(small)})
    with pytest.raises((UsageError, VideoError), match=r"no\.png"):
        painted(checkpoint, clip(), **{option: str(tmp_path / "no.png")})
    short = write_video(tmp_path / "short.mkv", 2)
    with pytest.raises(UsageError, match=rf"The {option} .*short\.mkv ends before frame 2"):
        painted(checkpoint, clip(), **{option: str(short)})


def test_the_opacity_of_the_input_is_a_mask(checkpoint: Checkpoint) -> None:
    assert needs_alpha(render_config({"keep": "alpha"}))
    frames = clip(alpha=True)
    for frame, shown in zip(frames, painted(checkpoint, frames, mask="alpha"), strict=True):
        around = ~disc(frame.index).bool()
        assert torch.equal(shown[:, around], frame.rgb[:, around])
    with pytest.raises(UsageError, match="--mask alpha takes the input's opacity, and frame 0 has none"):
        painted(checkpoint, clip(), mask="alpha")


@pytest.mark.parametrize("strategy", ["previous", "joint"])
def test_opacity_comes_out_as_it_went_in(tiny_checkpoint: Path, tmp_path: Path, strategy: str) -> None:
    """From PNG to PNG by the whole renderer, masked by that opacity."""
    folder = tmp_path / "in"
    folder.mkdir()
    for frame in clip(3, alpha=True):
        assert frame.alpha is not None
        picture = torch.cat([frame.rgb.flip(0), frame.alpha[None]]).permute(1, 2, 0).numpy()
        cv2.imwrite(str(folder / f"{frame.index}.png"), picture)
    options: dict[str, Any] = {"model": str(tiny_checkpoint), "steps": 2, "mask": "alpha", "strategy": strategy}
    flowguide.render(folder, tmp_path / "out_%06d.png", **options)
    for frame, file in zip(clip(3, alpha=True), sorted(tmp_path.glob("out_*.png")), strict=True):
        shown = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        assert frame.alpha is not None
        assert np.array_equal(shown[:, :, 3], frame.alpha.numpy())
        around = ~disc(frame.index).bool().numpy()
        assert np.array_equal(shown[around][:, 2::-1], frame.rgb.permute(1, 2, 0).numpy()[around])


def test_a_masked_run_is_gone_on_with(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = written(tmp_path / "in.mkv", clip(6), codec="ffv1")
    mask = write_video(tmp_path / "mask.mkv", 6)
    options: dict[str, Any] = {
        "model": str(tiny_checkpoint), "steps": 2, "codec": "ffv1", "segment_frames": 2, "mask": str(mask),
    }  # fmt: skip
    with ClipReader(resumed_equals_whole(source, tmp_path, "out.mkv", options)) as reader:
        shown = list(reader)
    assert len(shown) == 6
    for frame in shown:
        around = ~disc(frame.index).bool()
        assert torch.equal(frame.rgb[:, around], clip(6)[frame.index].rgb[:, around])
    write_video(mask, 5)
    with pytest.raises(UsageError, match=r"files\.mask"):
        flowguide.render(source, tmp_path / "parts" / "out.mkv", request=flowguide.Request(resume=True), **options)


def test_masks_that_leave_nothing_are_told_once(
    tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    black = write(tmp_path / "black.png", torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8))
    white = write(tmp_path / "white.png", torch.ones(HEIGHT, WIDTH, dtype=torch.uint8))
    still, moving = write(tmp_path / "disc.png", disc(0)), write_video(tmp_path / "disc.mkv", FRAMES)
    other = write_video(tmp_path / "other.mkv", FRAMES)
    for left, masks in (
        (False, {}),
        (False, {"mask": still}),
        (False, {"mask": moving, "keep": still}),
        (False, {"mask": white, "keep": "alpha"}),
        (True, {"mask": black}),
        (True, {"keep": white}),
        (True, {"mask": still, "keep": white}),
        (True, {"mask": "alpha", "keep": "alpha"}),
        (True, {"mask": moving, "keep": other}),
        (True, {"mask": moving, "keep": still, "max_frames": 1}),
    ):
        assert leaves_nothing(render_config({name: str(value) for name, value in masks.items()})) == left, masks
    source = written(tmp_path / "in.mkv", clip(), codec="ffv1")
    options = {"model": str(tiny_checkpoint), "steps": 2, "codec": "ffv1", "segment_frames": 2}
    flowguide.render(source, tmp_path / "out.mkv", mask=str(still), keep=str(still), **options)
    told = [record.getMessage() for record in caplog.records if "nothing is left" in record.getMessage()]
    assert told == [f"--mask {still} and --keep {still}: nothing is left to paint, so every frame stays as it is."]
