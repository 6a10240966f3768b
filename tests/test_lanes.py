"""Lanes: what is painted side by side in one batch is what is painted alone."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from going_on import goes_on_bit_by_bit, resumed_equals_whole, written
from test_guidance_render import pan

import flowguide
from flowguide.cli import main
from flowguide.config import render_config
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.diffusion.lanes import Lanes
from flowguide.errors import Interrupted, UsageError
from flowguide.renderer import Renderer
from flowguide.shot_lanes import ShotLanes
from flowguide.types import Frame
from flowguide.video import ClipReader

CPU = torch.device("cpu")
Pictures = list[torch.Tensor]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_checkpoint), torch.float32, CPU)


def film(*lengths: int) -> list[Frame]:
    """Shots of these lengths, one texture after the other."""
    frames: list[Frame] = []
    for number, length in enumerate(lengths):
        for frame in pan(length, cut_at=0 if number % 2 else None):
            frames.append(Frame(frame.rgb.roll(7 * number, 2), len(frames), len(frames)))
    return frames


def pictures(made: Renderer, *parts: list[Frame]) -> Pictures:
    return [styled.picture.clone() for part in parts for styled in made(part)]


def close(a: Pictures, b: Pictures) -> None:
    assert len(a) == len(b)
    for place, (one, other) in enumerate(zip(a, b, strict=True)):
        assert float((one - other).abs().max()) <= 1e-3, place


@pytest.mark.parametrize("options", [
    {}, {"noise": "carried"}, {"noise": "fixed", "init": "first"}, {"strategy": "step-aligned"},
    {"strategy": "anchors", "anchors": "3"}, {"guidance": False, "guidance_scale": 1.0},
], ids=str)  # fmt: skip
def test_shots_side_by_side_are_what_they_are_alone(checkpoint: Checkpoint, options: dict[str, Any]) -> None:
    """Five shots of unequal length over three lanes, in two calls, the second of which begins within a shot."""
    frames = film(3, 2, 4, 1, 2)
    config = render_config({"steps": 8, "noise": "per-frame", **options})
    parts = frames[:7], frames[7:]
    alone = Renderer(config, checkpoint=checkpoint)
    expected = [(styled.source.index, styled.shot) for part in parts for styled in alone(part)]
    lanes = ShotLanes(render_config({**config.model_dump(), "lanes": 3}), checkpoint=checkpoint)
    assert [(styled.source.index, styled.shot) for part in parts for styled in lanes(part)] == expected
    lanes = ShotLanes(lanes.config, checkpoint=checkpoint)
    close(pictures(lanes, *parts), pictures(Renderer(config, checkpoint=checkpoint), *parts))
    counts = {count for (stage, count), _ in lanes._lanes.batches.items() if stage == "unet"}
    assert max(counts) == 3, "lanes fall into step"
    if "anchors" not in options:  # which paint too few frames here for a lane to end before the others
        assert min(counts) < 3, "and those that ended are waited for no longer"


def test_a_run_in_lanes_goes_on_from_its_state(checkpoint: Checkpoint, tmp_path: Path) -> None:
    frames = film(4, 3, 6)
    config = render_config(steps=8, noise="per-frame", lanes=2)
    goes_on_bit_by_bit(lambda: ShotLanes(config, checkpoint=checkpoint), frames, 9, tmp_path)


def test_the_painter_too() -> None:
    frames = film(2, 2)
    config = render_config(dtype="float32", steps=8, noise="per-frame")
    painter = load_checkpoint("painter", torch.float32, CPU, config)
    lanes = ShotLanes(render_config({**config.model_dump(), "lanes": 2}), checkpoint=painter)
    close(pictures(lanes, frames), pictures(Renderer(config, checkpoint=painter), frames))
    spent = lanes.clock.seconds
    assert {"unet", "encode", "decode", "flow", "read"} <= spent.keys()


def test_lanes_that_fail_or_stop_do_not_leave_the_others_waiting(checkpoint: Checkpoint) -> None:
    frames = film(4, 4, 4)

    class Breaks:
        name = "breaks"

        def both(self, at: Frame, to: Frame) -> Any:
            raise ValueError("no flow in frame 6") if at.index == 6 else NotImplementedError

        __call__ = both

    config = render_config(steps=8, lanes=3, lookahead=0, guidance=False)
    stopped = ShotLanes(config, checkpoint=checkpoint)
    made = stopped(frames)
    next(made)
    stopped.cancel()
    with pytest.raises(Interrupted):
        list(made)
    broken = ShotLanes(render_config(steps=8, lanes=3, lookahead=0), checkpoint=checkpoint, flow=Breaks())
    with pytest.raises((ValueError, TypeError, NotImplementedError)):
        list(broken(frames))
    abandoned = ShotLanes(config, checkpoint=checkpoint)(frames)
    next(abandoned)
    abandoned.close()


def test_memory_that_runs_out_makes_lanes_go_one_by_one(checkpoint: Checkpoint, caplog: Any) -> None:
    frames = film(2, 2, 2)
    expected = pictures(Renderer(render_config(steps=8), checkpoint=checkpoint), frames)
    made = ShotLanes(render_config(steps=8, lanes=3), checkpoint=checkpoint)
    real = made._lanes._together

    def small(calls: Any) -> None:
        if len(calls) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        real(calls)

    made._lanes._together = small  # type: ignore[method-assign]
    close(pictures(made, frames), expected)
    assert "one lane at a time" in caplog.text


def test_a_raw_stream_has_no_lanes(tmp_path: Path) -> None:
    from io import BytesIO

    from flowguide.runs.raw import stream_raw

    with pytest.raises(UsageError, match="--lanes holds whole shots"):
        stream_raw(tmp_path / "in.mkv", BytesIO(), render_config(lanes=2))


def test_calls_of_different_steps_share_a_batch(checkpoint: Checkpoint) -> None:
    """Two lanes at other timesteps, one with one row and one with two: what each gets is what it would get alone."""
    lanes = Lanes(checkpoint, 2)
    told = checkpoint.prompts("a boat")
    from flowguide.diffusion.conditioning import Condition

    given = [torch.randn(1, 4, 8, 8), torch.randn(2, 4, 8, 8)]
    times: list[Any] = [401.0, torch.tensor([21.0, 801.0])]
    conditions = [Condition(told.text).expanded(rows) for rows in (1, 2)]
    made: dict[int, torch.Tensor] = {}

    def ask(lane: int) -> None:
        with lanes.working(lane):
            made[lane] = lanes.checkpoint(lane).denoiser(given[lane], times[lane], conditions[lane])

    for lane in range(2):
        lanes.begin(lane)
    threads = [Thread(target=ask, args=(lane,)) for lane in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lanes.batches == {("unet", 2): 1}
    for lane in range(2):
        torch.testing.assert_close(
            made[lane], checkpoint.denoiser(given[lane], times[lane], conditions[lane]), rtol=1e-4, atol=1e-5
        )


def read(path: Path) -> Pictures:
    with ClipReader(path) as reader:
        return [frame.rgb for frame in reader]


def test_clips_side_by_side_are_what_they_are_alone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Three clips of unequal length over two lanes, one of them broken, by the command; then each by itself."""
    for name, frames in (("a", film(5)), ("b", film(2)), ("d", film(4))):
        written(tmp_path / f"{name}.mkv", frames, codec="ffv1")
    (tmp_path / "c.mkv").write_bytes(b"no video")
    settings = {"model": str(tiny_checkpoint), "steps": 8, "dtype": "float32", "noise": "per-frame", "codec": "ffv1"}
    given = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    with pytest.raises(SystemExit) as ended:
        main(["render", str(tmp_path / "?.mkv"), "--out-dir", str(tmp_path / "out"), "--lanes", "2", *given])
    assert ended.value.code == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())["clips"]
    assert {Path(entry["source"]).stem: entry["frames"] for entry in report} == {"a": 5, "b": 2, "c": None, "d": 4}
    for name, count in (("a", 5), ("d", 4)):
        [made] = list((tmp_path / "out").glob(f"{name}.m[kp][v4]"))
        flowguide.render(tmp_path / f"{name}.mkv", tmp_path / f"{name}-alone{made.suffix}", **settings)
        pairs = list(zip(read(made), read(tmp_path / f"{name}-alone{made.suffix}"), strict=True))
        assert len(pairs) == count
        assert max(int((a.int() - b.int()).abs().max()) for a, b in pairs) <= 1


def test_shots_of_a_clip_by_the_command_and_gone_on_with(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = written(tmp_path / "in.mkv", film(4, 3, 5), codec="ffv1")
    options: dict[str, Any] = {
        "model": str(tiny_checkpoint), "steps": 8, "lanes": 3, "codec": "ffv1", "segment_frames": 8,
    }  # fmt: skip
    resumed = resumed_equals_whole(source, tmp_path, "out.mkv", options, stop=9)
    alone = flowguide.render(source, tmp_path / "alone.mkv", **{**options, "lanes": 1})
    assert alone.shots == 3
    pairs = zip(read(resumed), read(tmp_path / "alone.mkv"), strict=True)
    assert max(int((a.int() - b.int()).abs().max()) for a, b in pairs) <= 1
