"""`flowguide flow`, `flowguide shots`, and what a render takes from them."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from textures import panned, texture

from flowguide.config import render_config
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.errors import FlowguideError, UnknownName, UsageError
from flowguide.flow import estimator
from flowguide.flow.chosen import chosen_flow
from flowguide.flow.formats import read_flow
from flowguide.flow_commands import flow_command, shots_command
from flowguide.renderer import Renderer
from flowguide.types import Frame
from flowguide.video import ClipReader, ClipWriter

SIZE = (64, 96)
CPU = torch.device("cpu")


def film(path: Path, frames: list[Frame]) -> Path:
    rate = Fraction(25)
    with ClipWriter(path, size=frames[0].size, time_base=1 / rate, frame_rate=rate, codec="ffv1") as writer:
        for index, frame in enumerate(frames):
            writer.write(Frame(frame.rgb, index, index, 1 / rate))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shots of five frames, in each of which everything moves three pixels to the right."""
    frames = [frame for seed in (1, 2) for frame in panned(texture(90, 140, seed), SIZE, 5, 3, 0)]
    return film(tmp_path_factory.mktemp("flow") / "pan.mkv", frames)


def test_flow_files_are_written_in_both_directions_and_serve_again(clip: Path, tmp_path: Path, capsys: Any) -> None:
    pattern = str(tmp_path / "flow" / "{at}-{to}.flo")
    flow_command(clip, pattern, flow="dis", max_frames=3, json=True)
    assert json.loads(capsys.readouterr().out) == {"output": pattern, "flow": "dis-medium", "written": 4}
    assert sorted(path.name for path in (tmp_path / "flow").iterdir()) == ["0-1.flo", "1-0.flo", "1-2.flo", "2-1.flo"]
    forward, backward = (read_flow(tmp_path / "flow" / name) for name in ("1-0.flo", "0-1.flo"))
    assert forward[0, 20:40, 20:60].mean() == pytest.approx(-3, abs=0.1)
    assert backward[0, 20:40, 20:60].mean() == pytest.approx(3, abs=0.1)
    with ClipReader(clip, max_frames=2) as reader:
        first, second = reader
    assert torch.equal(estimator(f"files:{pattern}")(second, first).uv, forward)


@pytest.mark.parametrize("view", ["wheel", "overlay"])
def test_flow_is_shown_as_a_video_of_the_same_frames(clip: Path, tmp_path: Path, view: Any, capsys: Any) -> None:
    output = tmp_path / "flow.mkv"
    flow_command(clip, str(output), flow="dis", view=view, max_frames=4)
    assert "4 frames, flow by dis-medium" in capsys.readouterr().out
    with ClipReader(output) as reader:
        shown = list(reader)
    assert [frame.size for frame in shown] == [SIZE] * 4
    if view == "wheel":
        assert shown[0].rgb.float().mean() > 250, "nothing moves in the first frame"
        red, green, blue = shown[2].rgb[:, 20:40, 20:60].float().mean((1, 2))
        assert min(green, blue) > red + 40, "content lies to the left in the frame before: cyan"


@pytest.mark.parametrize("name", ["flow.mkv", "{at}-{to}.flo"])
def test_flow_that_is_there_is_replaced_only_where_asked(clip: Path, tmp_path: Path, name: str) -> None:
    output = str(tmp_path / name)
    flow_command(clip, output, flow="dis:fast", max_frames=2)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="is there already"):
        flow_command(clip, output, flow="farneback", max_frames=2)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    flow_command(clip, output, flow="farneback", max_frames=2, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} != before


def test_a_single_frame_has_no_flow(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a single frame"):
        flow_command(clip, str(tmp_path / "{at}-{to}.flo"), max_frames=1)


def test_patterns_and_names_are_checked_before_the_clip_is_read(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"should hold \{at\} and \{to\}"):
        flow_command(clip, str(tmp_path / "{at}.flo"))
    with pytest.raises(UsageError, match="is a folder"):
        flow_command(clip, str(tmp_path))
    with pytest.raises(UnknownName, match="flow estimator"):
        flow_command(clip, str(tmp_path / "out.mp4"), flow="diss")


def test_shots_are_printed_written_edited_and_rendered_by(
    clip: Path, tmp_path: Path, tiny_checkpoint: Path, capsys: Any
) -> None:
    listed = tmp_path / "shots.csv"
    shots_command(clip, listed)
    assert capsys.readouterr().out.splitlines()[:2] == ["shot 1: frames 0-4, 0.00 s", "shot 2: frames 5-9, 0.20 s"]
    shots_command(clip, json=True)
    assert json.loads(capsys.readouterr().out)["shots"] == [{"first": 0, "end": 5}, {"first": 5, "end": 10}]
    listed.write_text(listed.read_text().replace("2,6,10", "2,4,10"))
    made = Renderer(render_config(shots=str(listed), lookahead=0), checkpoint=tiny(tiny_checkpoint))
    with ClipReader(clip) as reader:
        assert [styled.shot for styled in made(reader)] == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    with pytest.raises(UsageError, match=r"absent.csv cannot be read"):
        Renderer(render_config(shots=str(tmp_path / "absent.csv")), checkpoint=tiny(tiny_checkpoint))


def tiny(folder: Path) -> Checkpoint:
    return load_checkpoint(str(folder), torch.float32, CPU)


@pytest.mark.parametrize(
    "options", [{}, {"flow_confidence": "learned"}, {"flow": "dis"}, {"guidance": False, "noise": "carried"}]
)
def test_flow_found_ahead_changes_no_frame(clip: Path, tiny_checkpoint: Path, options: dict[str, Any]) -> None:
    checkpoint = tiny(tiny_checkpoint)
    finished = []
    for depth in (0, 3):
        with ClipReader(clip, max_frames=6) as reader:
            made = Renderer(render_config(lookahead=depth, **options), checkpoint=checkpoint)
            finished.append([styled.picture.clone() for styled in made(reader)])
    for alone, ahead in zip(*finished, strict=True):
        assert torch.equal(alone, ahead)


def test_learned_confidence_is_what_guides_where_it_is_asked_for(clip: Path, tiny_checkpoint: Path) -> None:
    shares = {}
    for measure in ("fused", "learned"):
        with ClipReader(clip, max_frames=4) as reader:
            made = Renderer(render_config(flow_confidence=measure), checkpoint=tiny(tiny_checkpoint))
            shares[measure] = [styled.confident_share for styled in made(reader)][-1]
    assert len(set(shares.values())) == 2
    assert all(share > 0.5 for share in shares.values())


def test_flow_is_kept_in_the_folder_that_the_settings_name(clip: Path, tmp_path: Path) -> None:
    with ClipReader(clip, max_frames=2) as reader:
        first, second = reader
    found = [chosen_flow(render_config(flow_cache=str(tmp_path)), CPU).both(second, first)[0].uv for _ in range(2)]
    assert torch.equal(*found)
    assert len(list(tmp_path.rglob("*.flowcache"))) == 2
    with pytest.raises(UsageError, match="cannot be cached"):
        chosen_flow(render_config(flow="files:{at}-{to}.flo", flow_cache=str(tmp_path)), CPU)


def test_confidence_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnknownName, match="confidence measure 'sure'"):
        chosen_flow(render_config(flow_confidence="sure"), CPU)
    with pytest.raises(UsageError, match="'own' is that of flowguide-flow"):
        chosen_flow(render_config(flow_confidence="own"), CPU)


def test_what_is_there_is_not_written_over_and_odd_options_are_refused(clip: Path, tmp_path: Path) -> None:
    before = clip.read_bytes()
    for output in (clip, tmp_path):
        with pytest.raises(UsageError, match="is there already"):
            shots_command(clip, output)
    assert clip.read_bytes() == before, "the input itself was named as the list"
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FlowguideError, match="cannot be written"):
        flow_command(clip, str(tmp_path / "file" / "{at}-{to}.flo"), flow="dis", max_frames=2)
    for longest_px in (0.0, -2.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="--longest-px"):
            flow_command(clip, str(tmp_path / "flow.mkv"), longest_px=longest_px)
    for seconds in (float("nan"), float("inf")):
        with pytest.raises(UsageError, match="number of seconds"):
            shots_command(clip, start_seconds=seconds)
    for name in ("files", "onnx"):
        with pytest.raises(UsageError, match=f"after a colon, '{name}:"):
            estimator(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
