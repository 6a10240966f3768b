"""Strategy `step-aligned`: the batch of frames at different steps gives what one frame after the other gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from going_on import decoded, goes_on_bit_by_bit, resumed_equals_whole, written
from test_guidance_render import pan

from flowguide import ops
from flowguide.config import render_config
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.diffusion.image_to_image import ImageToImage
from flowguide.diffusion.noise import keyed_noise
from flowguide.errors import UsageError
from flowguide.flow import estimator
from flowguide.guidance.previous import PreviousFrame
from flowguide.guidance.same_step import SameStep, pulled_toward, smoothed
from flowguide.pictures import padded
from flowguide.renderer import Renderer
from flowguide.step_aligned import StepAlignedFrames
from flowguide.timing import StageClock
from flowguide.types import Frame

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_checkpoint), torch.float32, CPU)


def renderer(checkpoint: Checkpoint, **options: Any) -> Renderer:
    chosen = {"steps": 8, "strategy": "step-aligned", "noise": "per-frame", **options}
    return Renderer(render_config(chosen), checkpoint=checkpoint)


def painted(checkpoint: Checkpoint, frames: list[Frame], **options: Any) -> list[torch.Tensor]:
    return [one.picture.clone() for one in renderer(checkpoint, **options)(frames)]


def one_after_the_other(checkpoint: Checkpoint, frames: list[Frame], **options: Any) -> list[torch.Tensor]:
    """The rule as it is written: for each frame, for each step, toward the frame before at that step."""
    config = render_config({"steps": 8, "noise": "per-frame", **options})
    model = ImageToImage(checkpoint, config, StageClock())
    flow = estimator(config.flow, confidence=None)
    cell = checkpoint.autoencoder.cell
    pixels = PreviousFrame(flow, config, cell, StageClock())
    rule = SameStep(flow, config, cell)
    table, scale, prompts = model.table, config.guidance_scale, checkpoint.prompts
    text = torch.cat([prompts(config.negative_prompt).text, prompts(config.prompt).text])
    before: tuple[Frame, torch.Tensor, list[torch.Tensor]] | None = None
    pictures = []
    for frame in frames:
        whole = padded(frame, checkpoint.grid)
        source = ops.to_model(whole.rgb[None])[0]
        z = model.encode(source[None])
        pull = None if before is None else rule(whole, before[0], source, before[1], table)

        def noise(step: int, frame: Frame = frame, shape: Any = z.shape) -> torch.Tensor:
            return keyed_noise("per-frame", seed=0, shot=0, frame=frame.index, step=step, shape=shape)

        x = table.s_z * z + table.s_n * noise(0)
        trail: list[torch.Tensor] = []
        for step in range(len(table)):
            with torch.inference_mode():
                both = checkpoint.unet(
                    torch.cat([table.c_in[step] * x] * 2).float(), table.timestep[step], text, return_dict=False
                )[0]
            m = both[:1] + scale * (both[1:] - both[:1])
            x0 = table.P[step] * x + table.Q[step] * m
            if pull is not None and before is not None:
                k0 = pulled_toward(x0.float(), before[2][step], pull)
                least = -torch.nn.functional.max_pool2d(-pull.weights[step][None], 3, 1, 1)
                x0 = x0 + least * (k0 - x0)
            x = table.A[step] * x + table.B[step] * x0
            if table.C[step]:
                x = x + table.C[step] * trail[-1]
            if table.D[step]:
                x = x + table.D[step] * noise(step + 1)
            trail.append(x0.float())
        carried = pixels.carry(whole, source)
        generated = model.decode(x.float())[0]
        picture = generated if carried is None else pixels.finish(generated, carried)
        pixels.remember(whole, source, picture, carried)
        before = whole, source, trail
        pictures.append(picture[:, : frame.size[0], : frame.size[1]])
    return pictures


@pytest.mark.parametrize("options", [{}, {"sampler": "dpm++-2m"}, {"sampler": "euler-a", "strength": 1.0}], ids=str)
def test_the_batch_gives_what_one_frame_after_the_other_gives(checkpoint: Checkpoint, options: dict[str, Any]) -> None:
    frames = pan(7)
    expected = one_after_the_other(checkpoint, frames, **options)
    made = painted(checkpoint, frames, **options)
    assert len(made) == len(frames)
    for place, (a, b) in enumerate(zip(made, expected, strict=True)):
        assert float((a - b).abs().max()) <= 1e-3, place
    unguided = painted(checkpoint, frames, guidance=False, **options)
    assert float((made[-1] - unguided[-1]).abs().mean()) > 1e-3, "there is something to guide"


def test_the_painter_too() -> None:
    config = render_config(dtype="float32", steps=8, strength=0.5, noise="per-frame", strategy="step-aligned")
    painter = load_checkpoint("painter", torch.float32, CPU, config)
    frames = pan(5)
    whole = [one.picture for one in Renderer(config, checkpoint=painter)(frames)]
    alone = Renderer(config, checkpoint=painter)
    assert isinstance(alone._later, StepAlignedFrames)
    alone._later._at_once = 1
    for a, b in zip(whole, alone(frames), strict=True):
        assert float((a - b.picture).abs().max()) <= 1e-3


def test_a_frame_comes_out_when_its_steps_are_done(checkpoint: Checkpoint) -> None:
    """Four steps: frame t is given out as soon as frame t + 3 has come in; each call holds at most four frames."""
    made = renderer(checkpoint)
    read: list[int] = []

    def reading() -> Any:
        for frame in pan(8):
            read.append(frame.index)
            yield frame

    made._flow._depth = 0
    for styled in made(reading()):
        assert read[-1] == min(styled.source.index + 3, 7)


def test_frames_come_out_in_order_across_a_cut_which_nothing_crosses(checkpoint: Checkpoint) -> None:
    frames = pan(9, cut_at=5)
    styled = list(renderer(checkpoint)(frames))
    assert [one.source.index for one in styled] == list(range(9))
    assert [one.shot for one in styled] == [0] * 5 + [1] * 4
    alone = list(renderer(checkpoint, noise="per-frame")(frames[5:]))
    for a, b in zip(styled[5:], alone, strict=True):
        assert float((a.picture - b.picture).abs().max()) <= 1e-3


@pytest.mark.parametrize("options", [{}, {"noise": "carried"}, {"init": "first"}, {"sampler": "dpm++-2m"}], ids=str)
def test_a_restored_renderer_goes_on_bit_by_bit(
    checkpoint: Checkpoint, tmp_path: Path, options: dict[str, Any]
) -> None:
    frames = pan(12, cut_at=8)
    expected = goes_on_bit_by_bit(lambda: renderer(checkpoint, **options), frames, 6, tmp_path)
    if "noise" not in options:
        for styled, picture in zip(renderer(checkpoint, **options)(frames), expected, strict=True):
            assert float((styled.picture - picture).abs().max()) <= 1e-3, "the parts of a run are no seams"


def test_an_interrupted_run_is_gone_on_with(tiny_checkpoint: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "model": str(tiny_checkpoint), "steps": 8, "strategy": "step-aligned", "codec": "ffv1", "segment_frames": 4,
    }  # fmt: skip
    source = written(tmp_path / "in.mkv", pan(11), codec="ffv1")
    assert len(decoded(resumed_equals_whole(source, tmp_path, "out.mkv", options, stop=6))) == 11


def test_no_confidence_is_no_guidance(checkpoint: Checkpoint) -> None:
    from test_renderer import Blind

    frames = pan(4)
    config = render_config(steps=8, strategy="step-aligned", cut_share=0.0, noise="per-frame")
    blind = [one.picture for one in Renderer(config, checkpoint=checkpoint, flow=Blind())(frames)]
    unguided = painted(checkpoint, frames, guidance=False)
    for a, b in zip(blind, unguided, strict=True):
        assert float((a - b).abs().max()) <= 1e-3


def test_only_low_frequencies_are_taken_from_the_frame_before() -> None:
    from flowguide.guidance.same_step import SameStepPull

    x0 = torch.randn(1, 4, 24, 32)
    chequers = ((torch.arange(24)[:, None] + torch.arange(32)) % 2 * 2.0 - 1)[None, None].expand(1, 4, -1, -1)
    pull = SameStepPull(torch.zeros(1, 2, 24, 32), torch.ones(1, 1, 24, 32), torch.ones(4, 24, 32))
    inner = (slice(None), slice(None), slice(6, -6), slice(6, -6))
    assert float((pulled_toward(x0, x0 + chequers, pull) - x0)[inner].abs().max()) < 0.02
    torch.testing.assert_close(pulled_toward(x0, x0 + 3.0, pull), x0 + 3.0)
    unsure = SameStepPull(pull.flow, pull.sure * 0, pull.weights)
    assert torch.equal(pulled_toward(x0, x0 + 3.0, unsure), x0)
    assert torch.allclose(smoothed(torch.ones(1, 1, 30, 30))[0, 0, 10, 10], torch.tensor(1.0))


@pytest.mark.parametrize("strength", [0.0, 0.125])
def test_no_step_and_one_step_work_as_well(checkpoint: Checkpoint, strength: float) -> None:
    assert len(painted(checkpoint, pan(3), strength=strength)) == 3


def test_what_needs_the_finished_frame_is_refused(checkpoint: Checkpoint) -> None:
    for init in ("warped", "previous", "blend"):
        with pytest.raises(UsageError, match=f"init '{init}'.*'previous'"):
            renderer(checkpoint, init=init)
    with pytest.raises(UsageError, match="'step-aligned' needs the frames after"):
        renderer(checkpoint).render(pan(1)[0])
    under_way = renderer(checkpoint)
    frames = under_way(pan(6))
    next(frames)
    with pytest.raises(UsageError, match="strength cannot change while frames are under way"):
        under_way.update(strength=0.3)
    under_way.update(paste=0.5)
    assert len(list(frames)) == 5
