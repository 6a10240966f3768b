"""Flow by networks: flowguide's own and torchvision's RAFT."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from textures import texture, view

from flowguide.errors import BackendMissing, ModelError, UnknownName, UsageError
from flowguide.flow import flowguide_flow as room
from flowguide.flow import raft
from flowguide.flow.flowguide_flow import NetworkFlow, load_weights, right_within, save_weights, working_size
from flowguide.flow.network import FlowNetwork
from flowguide.types import Frame

SIZE = (64, 96)


@pytest.fixture(scope="module")
def frames() -> tuple[Frame, Frame]:
    canvas = texture(120, 160, 3)
    return view(canvas, 20, 20, SIZE, 7), view(canvas, 28, 28, SIZE, 8)


@pytest.fixture(scope="module")
def untrained() -> NetworkFlow:
    torch.manual_seed(1)
    return NetworkFlow(network=FlowNetwork().eval().requires_grad_(False))


def test_the_network_is_small() -> None:
    assert sum(value.numel() for value in FlowNetwork().parameters()) <= 2_000_000


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (1, 40), (40, 1), (1, 1)])
def test_both_directions_come_from_one_pass_at_any_size(untrained: NetworkFlow, size: tuple[int, int]) -> None:
    canvas = texture(120, 160, 4)
    at, to = view(canvas, 5, 5, size, 0), view(canvas, 7, 6, size, 1)
    forward, backward = untrained.both(at, to)
    assert forward.size == backward.size == size
    assert (forward.at, forward.to, backward.at, backward.to) == (0, 1, 1, 0)
    for flow in (forward, backward):
        assert flow.uv.isfinite().all()
        assert flow.confidence is not None
        assert flow.visible is not None
        assert (flow.confidence <= flow.visible).all(), "right means visible"
        assert 0 <= flow.confidence.min() <= flow.confidence.max() <= 1
    assert torch.equal(untrained(at, to).uv, forward.uv)
    swapped = untrained.both(to, at)
    assert torch.allclose(swapped[0].uv, backward.uv, atol=1e-4)
    assert torch.allclose(swapped[1].uv, forward.uv, atol=1e-4)


def test_several_pairs_are_found_as_one_by_one(untrained: NetworkFlow, frames: tuple[Frame, Frame]) -> None:
    at, to = frames
    small = (Frame(at.rgb[:, :40], 3), Frame(to.rgb[:, :40], 4))
    for pairs in ([(at, to), (to, at), (at, at)], [(at, to), small]):
        for found, (here, there) in zip(untrained.several(pairs), pairs, strict=True):
            alone = untrained.both(here, there)
            for one, other in zip(found, alone, strict=True):
                assert (one.at, one.to) == (other.at, other.to)
                assert torch.allclose(one.uv, other.uv, atol=1e-3)
    with pytest.raises(UsageError, match="one size"):
        untrained.several([(at, small[1])])


@pytest.mark.parametrize("level", [0, 255])
def test_plain_pictures_give_finite_flow(untrained: NetworkFlow, level: int) -> None:
    plain = Frame(torch.full((3, *SIZE), level, dtype=torch.uint8), 0)
    flow = untrained(plain, plain)
    assert flow.uv.isfinite().all()
    assert flow.confidence is not None
    assert flow.confidence.isfinite().all()


def test_flow_out_of_the_frame_is_not_believed(untrained: NetworkFlow, frames: tuple[Frame, Frame]) -> None:
    flow = untrained(*frames)
    x = torch.arange(SIZE[1]) + flow.uv[0]
    y = torch.arange(SIZE[0])[:, None] + flow.uv[1]
    outside = (x < -0.5) | (x > SIZE[1] - 0.5) | (y < -0.5) | (y > SIZE[0] - 0.5)
    assert flow.confidence is not None
    assert (flow.confidence[outside] == 0).all()


def test_brightness_and_contrast_change_nothing(untrained: NetworkFlow) -> None:
    at = torch.randint(60, 190, (1, 3, 64, 64)).float()
    to = torch.randint(60, 190, (1, 3, 64, 64)).float()
    network = untrained._given
    assert network is not None
    plain, bright = network(at, to), network(at, 1.2 * to + 20)
    assert (plain.uv - bright.uv).abs().max() < 0.1 * plain.uv.abs().max()


def test_large_frames_are_looked_at_smaller() -> None:
    assert working_size((480, 640)) == (480, 640)
    height, width = working_size((1080, 1920))
    assert height * width == pytest.approx(room.LARGEST_AREA_PX, rel=0.01)
    assert width / height == pytest.approx(16 / 9, rel=0.01)


def test_the_scale_gives_the_probability_of_a_laplacian() -> None:
    random = np.random.default_rng(1)
    for scale in (0.3, 1.0, 4.0):
        # |e| of p(e) ~ exp(-|e| / b) over the plane is Gamma distributed with shape 2.
        share = float((random.gamma(2, scale, 200_000) <= 1).mean())
        assert float(right_within(torch.tensor(math.log(scale)))) == pytest.approx(share, abs=0.005)


def test_weights_are_kept_in_half_precision_and_refused_where_they_do_not_fit(tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = FlowNetwork()
    save_weights(network, tmp_path / "flow.safetensors")
    assert (tmp_path / "flow.safetensors").stat().st_size < 4_000_000
    again = load_weights(tmp_path / "flow.safetensors")
    for name, value in network.state_dict().items():
        assert torch.allclose(again.state_dict()[name], value, atol=1e-3)
    (tmp_path / "text.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(ModelError, match="holds no weights of flowguide-flow"):
        load_weights(tmp_path / "text.safetensors")
    with pytest.raises(ModelError, match="is missing"):
        load_weights(tmp_path / "absent.safetensors")


def test_what_is_cached_depends_on_weights_and_confidence(untrained: NetworkFlow, monkeypatch: Any) -> None:
    assert untrained.key is None
    keys = {NetworkFlow(confidence=measure).key for measure in ("own", None, "check")}
    monkeypatch.setattr(room, "weights_digest", lambda: "others")
    assert len(keys | {NetworkFlow().key}) == 4


@pytest.mark.slow
def test_the_network_leaves_as_plain_onnx(tmp_path: Path, frames: tuple[Frame, Frame], untrained: NetworkFlow) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from flowguide.flow import estimator
    from flowguide.training.flow_export import export_flow

    assert untrained._given is not None
    path = tmp_path / "flow.onnx"
    export_flow(untrained._given, path, SIZE)
    written = onnx.load(str(path))
    assert {node.domain for node in written.graph.node} == {""}, "operations of ONNX itself only"
    assert all(d.dim_value > 0 for v in written.graph.input for d in v.type.tensor_type.shape.dim), "static shapes"
    found = estimator(f"onnx:{path}", confidence=None)(*frames)
    assert (found.uv - untrained(*frames).uv).abs().max() < 0.01
    with pytest.raises(UsageError, match="multiples of 16"):
        export_flow(untrained._given, path, (60, 96))


def test_training_goes_on_where_it_stopped_and_measures_itself(tmp_path: Path) -> None:
    import json

    import cv2

    from flowguide.training import flow as training

    photos = tmp_path / "data" / "photos"
    photos.mkdir(parents=True)
    for number in range(2):
        picture = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(photos / f"{number}.jpg"), cv2.resize(picture, (640, 640), interpolation=cv2.INTER_CUBIC))
    settings = training.FlowSettings(pairs=2, steps=2, batch=1, measure_every=1)
    done = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "measure", lambda network: {"all": 1.0})
        for work, steps in (("whole", (2,)), ("parts", (1, 2))):
            for last in steps:
                part = replace(settings, measure_every=last)
                patch.setattr(training.TrainingLoop, "finished", property(lambda loop, last=last: loop.step >= last))
                to = tmp_path / f"{work}.safetensors"
                assert training.train_flow(tmp_path / "data", tmp_path / work, 10, part, to=to)
            done.append(to.read_bytes())
    assert done[0] == done[1], "a training in two parts is the training in one"
    curve = [json.loads(line) for line in (tmp_path / "parts" / "epe.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curve] == [1, 2]


def test_what_training_sees_keeps_its_truth_when_turned(tmp_path: Path) -> None:
    from flowguide import ops
    from flowguide.training import flow as training

    made = training.Pairs.__new__(training.Pairs)
    made.settings, made.made = training.FlowSettings(pairs=1, batch=1), 1
    canvas = texture(training.CROP + 40, training.CROP + 40, 5)
    shift = torch.tensor([3.0, -2.0])
    at, to = (view(canvas, *place, (training.CROP, training.CROP), 0) for place in ((20, 20), (22, 17)))
    flow = shift.view(2, 1, 1).expand(2, training.CROP, training.CROP)
    made._stored = {
        "pictures": torch.stack([at.rgb, to.rgb])[None].numpy(),
        "flows": torch.stack([flow, -flow])[None].half().numpy(),
        "visible": torch.ones(1, 2, training.CROP, training.CROP, dtype=torch.bool).numpy(),
    }
    turns = set()
    for step in range(12):
        batch = made.batch(step)
        turns.add(tuple(batch.truth[0, :, 0, 0].tolist()))
        inner = (..., slice(8, -8), slice(8, -8))
        for here, there, truth in (
            (batch.first, batch.second, batch.truth[:1]),
            (batch.second, batch.first, batch.truth[1:]),
        ):
            assert (ops.warp(there, truth) - here)[inner].abs().max() < 1
    assert len(turns) > 4


def torchvision_flow() -> Any:
    try:
        from torchvision.models import optical_flow
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"no torchvision that fits this torch: {error}")
    return optical_flow


@pytest.mark.parametrize("name", ["raft-small", "raft-large"])
def test_raft_takes_torchvisions_weights_from_a_file(name: str, tmp_path: Path, frames: tuple[Frame, Frame]) -> None:
    library = torchvision_flow()
    from flowguide.flow import estimator

    torch.manual_seed(3)
    network = getattr(library, name.replace("-", "_"))(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "random.pth")
    made = estimator(f"{name}:{tmp_path}/random.pth", updates=2)
    forward, backward = made.both(*frames)
    assert forward.size == SIZE
    assert forward.uv.isfinite().all(), "small frames are padded to 128 pixels"
    assert torch.allclose(made(frames[1], frames[0]).uv, backward.uv, atol=1e-3)
    padded = [
        torch.nn.functional.pad(frame.rgb[None] / 127.5 - 1, (0, 32, 0, 64), mode="replicate") for frame in frames
    ]
    with torch.inference_mode():
        true = network(*padded, num_flow_updates=2)[-1][0, :, :64, :96]
    assert torch.allclose(forward.uv, true, atol=1e-3)
    assert made.key is not None
    assert made.key != estimator(f"{name}:{tmp_path}/random.pth", updates=3).key
    (tmp_path / "text.pth").write_bytes(b"none")
    with pytest.raises(ModelError, match="holds no weights of torchvision's raft"):
        estimator(f"{name}:{tmp_path}/text.pth")(*frames)


def test_rafts_own_weights_come_from_torchs_cache(tmp_path: Path, monkeypatch: Any) -> None:
    torchvision_flow()
    from flowguide.flow import estimator

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ModelError, match=r"C_T_V2 of raft_small are not on this machine.*Fetch https"):
        estimator("raft-small")
    with pytest.raises(UnknownName, match=r"weights of raft_small 'C_T_V3'\. Did you mean 'C_T_V"):
        estimator("raft-small:C_T_V3")
    with pytest.raises(ModelError, match="There is no weights file"):
        estimator(f"raft-large:{tmp_path}/absent.pth")


def test_without_torchvision_raft_says_what_to_install(monkeypatch: Any, tmp_path: Path) -> None:
    from flowguide.flow import estimator

    (tmp_path / "weights.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(BackendMissing, match=r"pip install 'flowguide\[raft\]'"):
        estimator("raft-small")
    with pytest.raises(BackendMissing):
        estimator(f"raft-small:{tmp_path}/weights.pth")
    with pytest.raises(UsageError, match="updates of RAFT"):
        raft.RaftSmall(updates=0)


@pytest.mark.parametrize("runtime", ["openvino", "onnx"])
def test_the_network_by_another_runtime(
    runtime: str, tmp_path: Path, frames: tuple[Frame, Frame], untrained: NetworkFlow, monkeypatch: Any
) -> None:
    pytest.importorskip({"openvino": "openvino", "onnx": "onnxruntime"}[runtime])
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("FLOWGUIDE_HOME", str(tmp_path))
    made = NetworkFlow(network=untrained._given)
    made.run_by(runtime, torch.device("cpu"))
    for found, expected in zip(made.both(*frames), untrained.both(*frames), strict=True):
        assert float((found.uv - expected.uv).abs().max()) < 1e-2
        assert found.confidence is not None
        assert expected.confidence is not None
        assert float((found.confidence - expected.confidence).abs().max()) < 1e-2
    assert len(list((tmp_path / "engines").glob("flow-*.onnx"))) == 1, "both directions from one engine"


def test_what_is_no_network_has_no_runtime(untrained: NetworkFlow) -> None:
    from flowguide.config import render_config
    from flowguide.flow.chosen import chosen_flow

    with pytest.raises(UsageError, match="runs networks, flowguide-flow and onnx:FILE; dis-balanced-filled"):
        chosen_flow(render_config(flow="dis-filled", flow_runtime="openvino"), torch.device("cpu"))
    with pytest.raises(BackendMissing, match="needs an NVIDIA GPU"):
        chosen_flow(render_config(flow="flowguide-flow", flow_runtime="torch-graphed"), torch.device("cpu"))
    with pytest.raises(UnknownName, match="Did you mean 'openvino'"):
        chosen_flow(render_config(flow="flowguide-flow", flow_runtime="openvin"), torch.device("cpu"))
