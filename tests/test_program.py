"""A frame as one program at fixed addresses: equal to the ordinary path, without memory of its own, recorded or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from allocations import allocations, counts_allocations
from test_guidance_render import pan
from test_native import native

from flowguide import ops
from flowguide.config import render_config
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.diffusion.program import FrameProgram, Networks, Volatile, Work
from flowguide.diffusion.programs import CarriedPrograms, FramePrograms, not_recorded_whole
from flowguide.guidance.generated import filled_around
from flowguide.renderer import Renderer
from flowguide.types import Guide

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_checkpoint), torch.float32, CPU)


def by_program(checkpoint: Checkpoint, record: Any = None, **options: Any) -> Renderer:
    config = render_config({"steps": 8, "noise": "per-frame", **options})
    made = Renderer(config, checkpoint=checkpoint)
    assert not_recorded_whole(config, made._model, None) is None
    made._frames.programs = FramePrograms(made._model, config, record)
    return made


@pytest.mark.parametrize("options", [
    {}, {"sampler": "dpm++-2m"}, {"sampler": "euler-a", "strength": 1.0}, {"guidance_scale": 1.0},
    {"noise": "carried", "sampler": "lcm"}, {"paste": 0.0}, {"strength": 0.0}, {"prompt": "0:(a boat) 6:(oil)"},
], ids=str)  # fmt: skip
def test_a_program_gives_what_the_ordinary_path_gives(checkpoint: Checkpoint, options: dict[str, Any]) -> None:
    """A cut within: first frames and guided ones by turns, at an odd size."""
    frames = pan(6, cut_at=3)
    made = by_program(checkpoint, **options)
    config = made.config
    for one, other in zip(made(frames), Renderer(config, checkpoint=checkpoint)(frames), strict=True):
        assert float((one.picture - other.picture).abs().max()) <= 1e-5
        assert one.packed is not None
        assert torch.equal(one.frame().rgb, ops.from_model(one.picture[None].contiguous())[0])
    programs = made._frames.programs
    assert programs is not None
    assert sorted(program.kind for program in programs._made.values()) == ["first", "guided"]


def test_a_controlnet_and_sdxl_go_through_a_program(tmp_path: Path) -> None:
    from tiny_checkpoint import save_controlnet, save_family

    for family in ("sd1", "sdxl"):
        folder = save_family(tmp_path / family, family)
        options: dict[str, Any] = {"model": str(folder), "dtype": "float32"}
        if family == "sd1":
            net = save_controlnet(tmp_path / "net", load_checkpoint(str(folder), torch.float32, CPU).unet)
            options["control"] = (f"canny:{net}",)
        config = render_config(steps=4, **options)
        loaded = load_checkpoint(config.model, torch.float32, CPU, config)
        frames = pan(3)
        made = by_program(loaded, **{**options, "noise": "fixed", "steps": 4})
        for one, other in zip(made(frames), Renderer(config, checkpoint=loaded)(frames), strict=True):
            assert float((one.picture - other.picture).abs().max()) <= 1e-5


def test_every_buffer_stays_where_it_is(checkpoint: Checkpoint) -> None:
    made = by_program(checkpoint)
    seen: dict[str, list[list[int]]] = {"first": [], "guided": []}
    for _ in made(pan(8, cut_at=4)):
        programs = made._frames.programs
        assert programs is not None
        for program in programs._made.values():
            seen[program.kind].append(program.addresses())
    for kind, addresses in seen.items():
        assert addresses, kind
        assert all(places == addresses[0] for places in addresses)


def test_changed_settings_make_new_programs(checkpoint: Checkpoint) -> None:
    frames = pan(4)
    made, plain = by_program(checkpoint), Renderer(render_config(steps=8, noise="per-frame"), checkpoint=checkpoint)
    for frame in frames:
        if frame.index == 2:
            made.update(strength=0.75, paste=0.5)
            plain.update(strength=0.75, paste=0.5)
        assert float((made.render(frame).picture - plain.render(frame).picture).abs().max()) <= 1e-5


def test_settings_that_exclude_a_program_end_it(checkpoint: Checkpoint, caplog: Any) -> None:
    made, plain = by_program(checkpoint), Renderer(render_config(steps=8, noise="per-frame"), checkpoint=checkpoint)
    for frame in pan(3):
        if frame.index == 1:
            made.update(init="blend")
            plain.update(init="blend")
        assert float((made.render(frame).picture - plain.render(frame).picture).abs().max()) <= 1e-5
    assert "no longer recorded whole, for init 'blend'" in caplog.text


def test_what_cannot_be_recorded_whole_is_recorded_by_piece_and_said(checkpoint: Checkpoint, caplog: Any) -> None:
    recorded: list[Work] = []

    def record(work: Work) -> Work:
        """Refuses the whole frame and, of its pieces, the decoder."""
        if work.__name__ in ("whole", "_decode"):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        recorded.append(work)
        return work

    made = by_program(checkpoint, record)
    plain = Renderer(made.config, checkpoint=checkpoint)
    frames = pan(3)
    for one, other in zip(made(frames), plain(frames), strict=True):
        assert float((one.picture - other.picture).abs().max()) <= 1e-5
    programs = made._frames.programs
    assert programs is not None
    for program in programs._made.values():
        assert program.recorded == ("colour and encoding", "steps", "paste and packing")
    assert "A guided frame cannot be recorded whole (operation not permitted" in caplog.text
    assert "The piece 'decoding' cannot be recorded" in caplog.text
    whole = by_program(checkpoint, lambda work: work)
    list(whole(frames))
    programs = whole._frames.programs
    assert programs is not None
    assert {program.recorded for program in programs._made.values()} == {("frame",)}


@pytest.mark.parametrize(("options", "says"), [
    ({"strategy": "anchors"}, "strategy 'anchors'"), ({"init": "first"}, "init 'first'"),
], ids=str)  # fmt: skip
def test_what_excludes_a_whole_frame_is_said(checkpoint: Checkpoint, options: dict[str, Any], says: str) -> None:
    config = render_config(**options)
    why = not_recorded_whole(config, Renderer(config, checkpoint=checkpoint)._model, None)
    assert why is not None
    assert says in why
    plain = render_config()
    callback = not_recorded_whole(plain, Renderer(plain, checkpoint=checkpoint)._model, lambda *step: None)
    assert callback == "a callback looks at every step"


def test_an_overflow_ends_the_programs_and_the_frame_is_painted(checkpoint: Checkpoint, monkeypatch: Any) -> None:
    made = by_program(checkpoint)
    programs = made._frames.programs
    assert programs is not None
    monkeypatch.setattr(type(made._model), "may_overflow", True)
    real = made._model.networks()
    overflow = Networks(real.encode, real.predict, lambda latents: real.decode(latents) * float("nan"))
    monkeypatch.setattr(made._model, "networks", lambda: overflow)
    frames = pan(2)
    plain = Renderer(made.config, checkpoint=checkpoint)
    for one, other in zip(made(frames), plain(frames), strict=True):
        assert torch.equal(one.picture, other.picture)
    assert made._frames.programs is None


def carried_frame() -> tuple[Volatile, Guide]:
    prior = torch.rand(1, 3, 40, 56) * 2 - 1
    confidence = (torch.rand(1, 40, 56) > 0.1).float()
    return Volatile(prior=prior, confidence=confidence), Guide(prior[0], confidence[0])


def test_a_carried_frame_is_filled_without_a_model() -> None:
    program = FrameProgram("carried", None, None, carried_frame()[0], CPU)
    for _ in range(2):
        volatile, guide = carried_frame()
        picture, packed = program(volatile)
        torch.testing.assert_close(picture, filled_around(guide))
        assert torch.equal(packed, ops.from_model(picture[None])[0])


def test_frames_between_anchors_are_carried_by_a_program(checkpoint: Checkpoint) -> None:
    config = render_config(steps=4, strategy="anchors", anchors="3", noise="per-frame")
    plain, made = (Renderer(config, checkpoint=checkpoint) for _ in range(2))
    carried = CarriedPrograms(None)
    made._later._generated.fill = carried  # type: ignore[union-attr]
    frames = pan(7)
    for one, other in zip(made(frames), plain(frames), strict=True):
        assert float((one.picture - other.picture).abs().max()) <= 1e-5
    assert [program.kind for program in carried._made.values()] == ["carried"]


STEADY = """
from flowguide.diffusion.program import FrameProgram, Networks, Settings, Volatile
from flowguide.diffusion.conditioning import Condition
from flowguide.diffusion.samplers import step_table

latent, output, picture = torch.rand(1, 4, 24, 32), torch.rand(2, 4, 24, 32), torch.rand(1, 3, 192, 256)
networks = Networks(lambda p: latent, lambda x, t, c: output, lambda z: picture)
config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
          "prediction_type": "epsilon", "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}
for sampler in ("ddim", "dpm++-2m", "euler-a"):
    table = step_table(sampler, config, 8, 0.5)
    noises = {number: torch.rand(1, 4, 24, 32) for number in range(len(table) + 1)}
    condition = Condition(torch.rand(2, 77, 64))
    guided = dict(filled=torch.rand(1, 3, 192, 256), prior=torch.rand(1, 3, 192, 256),
                  confidence=torch.ones(1, 192, 256), weights=torch.rand(len(table), 1, 24, 32),
                  tone=torch.rand(1, 3, 192, 256), alike=torch.rand(1, 192, 256))
    rgb = torch.zeros(1, 3, 192, 256, dtype=torch.uint8)
    carried = Volatile(prior=guided["prior"], confidence=guided["confidence"])
    for kind, told in (("first", Volatile(rgb, noises, condition)),
                       ("guided", Volatile(rgb, noises, condition, **guided)), ("carried", carried)):
        program = FrameProgram(kind, networks, Settings(table, 2.0), told, torch.device("cpu"))
        count(f"{sampler} {kind}", lambda: program(told))
"""


@native
@counts_allocations
def test_nothing_but_the_networks_takes_memory(tmp_path: Path) -> None:
    counted = allocations(STEADY, tmp_path)
    assert len(counted) == 9
    assert {name: number for name, number in counted.items() if number} == {}


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"sampler": "euler-a"}, {"noise": "carried"}], ids=str)
def test_a_recorded_frame_equals_the_ordinary_one_and_never_waits(tiny_checkpoint: Path, options: Any) -> None:
    config = render_config(
        model=str(tiny_checkpoint), steps=8, device="cuda", dtype="bfloat16", runtime="torch-graphed", **options
    )
    frames = pan(10, cut_at=5)
    plain = Renderer(render_config({**config.model_dump(), "runtime": "torch"}))
    expected = [styled.picture for styled in plain(frames)]
    made = Renderer(config)
    for styled, picture in zip(made(frames), expected, strict=True):
        assert float((styled.picture - picture).abs().max()) <= 2e-2
    programs = made._frames.programs
    assert programs is not None
    assert {program.recorded for program in programs._made.values()} == {("frame",)}
    for program in programs._made.values():
        told = program._held
        before = torch.cuda.memory_allocated()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                program(told)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.cuda.memory_allocated() == before
