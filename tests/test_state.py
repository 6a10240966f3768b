"""The renderer's state: taken, written, read and restored between any two frames, bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowguide.config import render_config
from flowguide.diffusion.checkpoint import Checkpoint, load_checkpoint
from flowguide.errors import FlowguideError
from flowguide.renderer import Renderer
from flowguide.runs.state_file import load_state, pack, save_state
from flowguide.types import Frame


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(tiny_checkpoint), torch.float32, torch.device("cpu"))


def scene(count: int, cut_at: int) -> list[Frame]:
    """A pan over a texture, another texture from `cut_at` on; an odd size, so that frames are padded."""
    textures = np.random.default_rng(5).integers(0, 255, (2, 3, 33, 120), dtype=np.uint8)
    return [
        Frame(torch.from_numpy(textures[int(i >= cut_at)][:, :, 2 * i : 2 * i + 49].copy()), i, 7 * i)
        for i in range(count)
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"noise": "carried", "sampler": "ddim", "eta": 1.0},
        {"init": "previous"},
        {"init": "first", "noise": "per-frame"},
        {"init": "blend", "strength": 0.8},
        {"guidance": False},
        {"paste": 0.0, "feather_px": 3, "unsharp": 0.1},
    ],
    ids=str,
)
def test_a_restored_renderer_goes_on_bit_by_bit(
    checkpoint: Checkpoint, tmp_path: Path, options: dict[str, Any]
) -> None:
    config = render_config({"steps": 4, **options})
    frames = scene(7, cut_at=5)
    whole = Renderer(config, checkpoint=checkpoint)
    expected = [whole.render(frame).picture.clone() for frame in frames]
    for stop in (3, 5):
        before = Renderer(config, checkpoint=checkpoint)
        for frame in frames[:stop]:
            before.render(frame)
        save_state(tmp_path / "state", pack(before.state()))
        after = Renderer(config, checkpoint=checkpoint)
        after.restore(load_state(tmp_path / "state"))
        for frame, picture in zip(frames[stop:], expected[stop:], strict=True):
            styled = after.render(frame)
            assert torch.equal(styled.picture, picture), (stop, frame.index)
        assert styled.shot == 1


def test_a_state_keeps_values_and_the_order_in_memory(tmp_path: Path) -> None:
    pixels = torch.rand(1, 3, 4, 5)
    state = {
        "plain": pixels,
        "last": pixels.to(memory_format=torch.channels_last),
        "view": pixels[0].permute(1, 2, 0),
        "deep": {"numbers": [1, 2.5, None, "a"], "mask": pixels > 0.5, "empty": {}},
    }
    save_state(tmp_path / "state", pack(state))
    loaded = load_state(tmp_path / "state")
    for name in ("plain", "last", "view"):
        assert torch.equal(loaded[name], state[name]), name
        assert loaded[name].stride() == state[name].stride(), name
    assert loaded["deep"]["numbers"] == state["deep"]["numbers"]
    assert torch.equal(loaded["deep"]["mask"], state["deep"]["mask"])
    assert loaded["deep"]["empty"] == {}


def test_a_damaged_state_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, pack({"a": torch.arange(100)}))
    whole = path.read_bytes()
    for damaged in (b"", whole[:50], whole[:-4], b"\xff" * len(whole), whole.replace(b"state", b"stale")):
        path.write_bytes(damaged)
        with pytest.raises(FlowguideError, match="cannot be read"):
            load_state(path)
