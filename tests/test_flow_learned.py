"""The learned confidence: what it answers, that it beats the check, and that it can be trained."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from flowguide.errors import ModelError
from flowguide.flow import estimator
from flowguide.flow import learned as room
from flowguide.flow.accuracy import Accuracy
from flowguide.flow.confidence import CONFIDENCE
from flowguide.flow.learned import CHANNELS, WEIGHTS, ConfidenceNetwork, evidence, judged, learned
from flowguide.training.confidence import CROP, Samples, Settings, save, train
from flowguide.training.drawn_scenes import drawn_difficulty, weathered
from flowguide.training.flow_scenes import DIFFICULTIES, make_pair, procedural
from flowguide.types import Flow, Frame

SIZE = (160, 208)


@pytest.fixture(scope="module")
def pairs():
    made = estimator("dis", confidence=None)
    found = []
    for difficulty in DIFFICULTIES:
        for number in range(2):
            pair = make_pair(difficulty, number, SIZE, seed=77)
            found.append((pair, *made.displacements(pair.first, pair.second)))
    return found


def test_confidence_is_a_probability_per_pixel(pairs):
    pair, uv, back = pairs[2]
    right, visible = judged(pair.first, pair.second, uv, back)
    for answer in (right, visible):
        assert answer.shape == SIZE
        assert answer.dtype == torch.float32
        assert 0 <= answer.min() <= answer.max() <= 1
    assert torch.equal(learned(pair.first, pair.second, uv, back), right)
    flow = estimator("dis", confidence="learned")(pair.first, pair.second)
    assert torch.equal(flow.confidence, right)
    assert torch.equal(flow.visible, visible)
    assert flow.resized((80, 104)).visible.shape == (80, 104)
    assert estimator("dis")(pair.first, pair.second).visible is None


def test_flow_that_leaves_the_frame_or_is_unknown_is_not_believed(pairs):
    pair, uv, back = pairs[0]
    flow = uv.clone()
    flow[0, 50:60, 60:70] = 1000
    flow[1, 80:90, 60:70] = torch.nan
    confidence = learned(pair.first, pair.second, flow, back)
    assert (confidence[50:60, 60:70] == 0).all()
    assert (confidence[80:90, 60:70] == 0).all()
    assert confidence.isfinite().all()


def test_it_beats_the_check_on_scenes_it_never_saw(pairs):
    rows = {}
    for measure in ("check", "forward-backward", "learned"):
        accuracy = Accuracy()
        for pair, uv, back in pairs:
            confidence, called = CONFIDENCE[measure](pair.first, pair.second, uv, back), None
            if measure == "learned":
                called = judged(pair.first, pair.second, uv, back)[1] >= 0.5
            accuracy.add(Flow(uv, 0, 1, confidence), pair.forward, pair.forward_visible, called)
        rows[measure] = accuracy
    for other in ("check", "forward-backward"):
        assert rows["learned"].occlusion_f1 > rows[other].occlusion_f1 + 0.1
        assert rows["learned"].calibration_error < rows[other].calibration_error
        assert rows["learned"].sparsification_area < rows[other].sparsification_area


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (2, 3), (17, 9), (33, 65)])
def test_pictures_of_any_size_are_taken(size):
    noise = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    at, to = (Frame(rgb, i) for i, rgb in enumerate(noise))
    flow = estimator("dis", confidence="learned")(at, to)
    assert flow.confidence.shape == size
    assert flow.confidence.isfinite().all()


def test_another_light_leaves_no_trace_in_the_structure():
    pair = make_pair("small", 1, SIZE, seed=3)
    flow = torch.zeros(2, *SIZE)
    darker = Frame((pair.first.rgb.float() * 0.6 + 20).round().to(torch.uint8), 1)
    same, dimmed = (evidence(pair.first, to, flow, flow) for to in (pair.first, darker))
    assert same.shape == (CHANNELS, SIZE[0] // 2, SIZE[1] // 2)
    assert dimmed[3].mean() > 0.2  # the colours differ
    assert dimmed[4].mean() < 0.15 * dimmed[3].mean()


def test_threads_do_not_change_it(pairs):
    pair, uv, back = pairs[1]
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(learned(pair.first, pair.second, uv, back))
    finally:
        torch.set_num_threads(threads)
    assert (found[0] - found[1]).abs().max() < 1e-4


def test_the_network_is_small_and_its_weights_are_half_precision():
    from safetensors.torch import load_file

    assert sum(p.numel() for p in ConfidenceNetwork().parameters()) <= 200_000
    assert all(value.dtype == torch.float16 for value in load_file(WEIGHTS).values())
    assert WEIGHTS.stat().st_size < 500_000


def test_missing_weights_are_named(monkeypatch, tmp_path, pairs):
    monkeypatch.setattr(room, "WEIGHTS", tmp_path / "absent.safetensors")
    room._network.cache_clear()
    pair, uv, back = pairs[0]
    try:
        with pytest.raises(ModelError, match=r"absent.safetensors is missing"):
            learned(pair.first, pair.second, uv, back)
    finally:
        room._network.cache_clear()


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "data" / "photos"
    folder.mkdir(parents=True)
    for number in range(3):
        picture = procedural(np.random.default_rng(number), 96).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.jpg"), picture)
    return folder.parent


def test_training_goes_on_where_it_stopped(photos, tmp_path):
    settings = Settings(samples=4, steps=3, batch=1)
    half = Settings(samples=4, steps=1, batch=1)
    stopped = tmp_path / "stopped"
    train(photos, stopped, 5, half)
    assert json.loads((stopped / "samples.json").read_text()) == {"made": 4}
    network = train(photos, stopped, 5, settings)
    lines = [json.loads(line) for line in (stopped / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 3
    assert all(math.isfinite(line["loss"]) for line in lines)
    save(network, tmp_path / "weights.safetensors")
    assert (tmp_path / "weights.safetensors").stat().st_size < 500_000


def test_samples_hold_evidence_and_truth(photos, tmp_path):
    settings = Settings(samples=4, steps=1, batch=2)
    samples = Samples(tmp_path / "work", sorted((photos / "photos").iterdir()), settings)
    assert samples.make(math.inf)
    seen, truth = samples.batch(0)
    assert seen.shape == (2, CHANNELS, CROP // 2, CROP // 2)
    assert truth.shape == (2, 2, CROP, CROP)
    assert set(truth.unique().tolist()) <= {0.0, 1.0}
    assert (truth[:, 0] <= truth[:, 1]).all()  # right implies visible
    again = Samples(tmp_path / "work", sorted((photos / "photos").iterdir()), settings)
    assert again.made == 4
    assert torch.equal(again.batch(0)[0], seen)


def test_training_scenes_are_drawn_and_weathered_from_their_number():
    pair = make_pair(drawn_difficulty(np.random.default_rng(1)), 0, (96, 128))
    first, again = (weathered(pair, np.random.default_rng(2)) for _ in range(2))
    assert torch.equal(first[1].rgb, again[1].rgb)
    changed = [weathered(pair, np.random.default_rng(seed))[1] for seed in range(8)]
    assert any(not torch.equal(frame.rgb, pair.second.rgb) for frame in changed)
