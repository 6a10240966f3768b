"""Flow that was found once comes back the same, from a folder that does not outgrow its limit."""

from __future__ import annotations

import os

import pytest
import torch
from textures import texture, view

from flowguide.errors import UsageError
from flowguide.flow import CachedFlow, FlowEstimator, estimator
from flowguide.flow.cache import ENDING
from flowguide.types import Frame

SIZE = (60, 90)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    canvas = texture(90, 140, 3)
    return [view(canvas, 20 - i, 20 + 2 * i, SIZE, i) for i in range(6)]


class Counting:
    """How often an estimator was asked."""

    def __init__(self, monkeypatch, made):
        self.calls = 0
        find = made.displacements

        def counted(at, to):
            self.calls += 1
            return find(at, to)

        monkeypatch.setattr(made, "displacements", counted)


def test_what_is_in_the_cache_is_what_was_found(tmp_path, frames, monkeypatch):
    made = estimator("dis")
    plain = made.both(frames[0], frames[1])
    count = Counting(monkeypatch, made)
    cached = CachedFlow(made, tmp_path)
    assert isinstance(cached, FlowEstimator)
    assert cached.name == "dis-medium"
    first = cached.both(frames[0], frames[1])
    again = cached.both(frames[0], frames[1])
    assert count.calls == 1
    for found, stored, true in zip(first, again, plain, strict=True):
        assert torch.equal(found.uv, stored.uv)
        assert torch.equal(found.confidence, stored.confidence)
        assert (found.at, found.to) == (stored.at, stored.to) == (true.at, true.to)
        assert (found.uv - true.uv).abs().max() <= 1 / 64
        assert (found.confidence - true.confidence).abs().max() <= 1 / 510 + 1e-6


def test_one_direction_is_kept_by_itself_and_serves_both(tmp_path, frames, monkeypatch):
    made = estimator("dis")
    count = Counting(monkeypatch, made)
    cached = CachedFlow(made, tmp_path)
    forward = cached(frames[0], frames[1])
    assert torch.equal(cached(frames[0], frames[1]).uv, forward.uv)
    assert count.calls == 1
    backward = cached.both(frames[1], frames[0])[0]
    assert count.calls == 2
    assert torch.equal(cached(frames[1], frames[0]).uv, backward.uv)
    assert count.calls == 2


def test_the_key_is_made_of_pixels_and_settings(tmp_path, frames, monkeypatch):
    made = estimator("dis")
    count = Counting(monkeypatch, made)
    cached = CachedFlow(made, tmp_path)
    cached(frames[0], frames[1])
    renumbered = cached(Frame(frames[0].rgb, 70), Frame(frames[1].rgb, 71))
    assert count.calls == 1
    assert (renumbered.at, renumbered.to) == (70, 71)
    touched = frames[1].rgb.clone()
    touched[0, 0, 0] ^= 1
    cached(frames[0], Frame(touched, 1))
    assert count.calls == 2
    for other in (estimator("dis:fast"), estimator("dis", confidence="forward-backward"), estimator("farneback")):
        count = Counting(monkeypatch, other)
        CachedFlow(other, tmp_path)(frames[0], frames[1])
        assert count.calls == 1


def test_the_folder_stays_below_its_limit_and_keeps_what_was_used_last(tmp_path, frames, monkeypatch):
    made = estimator("dis")
    unlimited = CachedFlow(made, tmp_path / "free")
    unlimited(frames[0], frames[1])
    (file,) = (tmp_path / "free").rglob(f"*{ENDING}")
    limit = int(2.9 * file.stat().st_size)
    cached = CachedFlow(made, tmp_path / "small", limit)
    for i in range(3):
        cached(frames[i], frames[i + 1])
        for age, path in enumerate(sorted((tmp_path / "small").rglob(f"*{ENDING}"), key=os.path.getmtime)):
            os.utime(path, (1000 + age, 1000 + age))
    held = sum(path.stat().st_size for path in (tmp_path / "small").rglob(f"*{ENDING}"))
    assert 0 < held <= limit
    count = Counting(monkeypatch, made)
    cached(frames[2], frames[3])
    assert count.calls == 0
    cached(frames[0], frames[1])
    assert count.calls == 1


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_damaged_files_are_made_anew(tmp_path, frames, damage):
    cached = CachedFlow(estimator("dis"), tmp_path)
    flow = cached(frames[0], frames[1])
    (file,) = tmp_path.rglob(f"*{ENDING}")
    file.write_bytes(file.read_bytes()[:-40] if damage is None else damage)
    assert torch.equal(cached(frames[0], frames[1]).uv, flow.uv)
    assert torch.equal(cached(frames[0], frames[1]).uv, flow.uv)


def test_unknown_and_endless_vectors_stay_unknown(tmp_path, frames):
    made = estimator("dis", confidence=None)
    uv = torch.zeros(2, *SIZE)
    uv[0, 3, 4], uv[1, 5, 6], uv[0, 7, 8], uv[1, 9, 9] = torch.nan, 5000.0, -1000.5, 0.125
    made.displacement = lambda at, to: uv
    cached = CachedFlow(made, tmp_path)
    for _ in range(2):
        found = cached(frames[0], frames[1])
        assert found.confidence is None
        assert found.uv[0, 3, 4].isnan()
        assert found.uv[1, 5, 6].isnan()
        assert (found.uv[0, 7, 8].item(), found.uv[1, 9, 9].item()) == (-1000.5, 0.125)
        assert found.uv.isnan().sum() == 2


def test_files_are_small(tmp_path, frames):
    cached = CachedFlow(estimator("dis"), tmp_path)
    cached(frames[0], frames[1])
    (file,) = tmp_path.rglob(f"*{ENDING}")
    assert file.stat().st_size < 2 * SIZE[0] * SIZE[1]  # of 12 bytes a pixel in memory


def test_a_users_function_is_not_cached(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text("def flow(at, to):\n    return at[:2].float()\n")
    with pytest.raises(UsageError, match="cannot be cached"):
        CachedFlow(estimator(f"{script}:flow"), tmp_path)
    with pytest.raises(UsageError, match="cannot be cached"):
        CachedFlow(estimator("dis", confidence=lambda at, to, uv, back: uv[0]), tmp_path)
