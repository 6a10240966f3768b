"""Flow from files, from ONNX networks and from a user's function, and flow as a picture."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from textures import texture, view

from flowguide.errors import BackendMissing, FlowguideError, ModelError, UnknownName, UsageError
from flowguide.flow import estimator
from flowguide.flow.formats import read_flow, write_flow
from flowguide.flow.picture import colour_wheel, overlay
from flowguide.types import Flow, Frame

SIZE = (40, 64)


@pytest.fixture(scope="module")
def frames() -> tuple[Frame, Frame]:
    canvas = texture(80, 120, 3)
    return view(canvas, 20, 20, SIZE, 7), view(canvas, 22, 23, SIZE, 8)


@pytest.mark.parametrize(("ending", "tolerance"), [(".flo", 0), (".npy", 0), (".png", 0.008), (".exr", 0)])
def test_what_is_written_is_read_again(tmp_path, ending, tolerance):
    uv = torch.randn(2, *SIZE) * 9
    uv[:, 3, 5] = torch.nan
    path = tmp_path / f"flow{ending}"
    if ending == ".exr":
        pytest.importorskip("OpenEXR")
    write_flow(path, uv)
    found = read_flow(path)
    assert found[:, 3, 5].isnan().all()
    known = uv.isfinite()
    assert torch.equal(found.isfinite(), known)
    assert (found[known] - uv[known]).abs().max() <= tolerance


def test_a_flo_file_is_laid_out_as_middlebury_defines_it(tmp_path):
    path = tmp_path / "flow.flo"
    write_flow(path, torch.arange(12.0).view(2, 2, 3))
    content = path.read_bytes()
    assert content[:4] == b"PIEH"
    assert struct.unpack("<ii", content[4:12]) == (3, 2)  # width, height
    assert np.frombuffer(content, "<f4", offset=12)[:4].tolist() == [0, 6, 1, 7]  # u, v of each pixel in turn


def test_a_kitti_file_holds_u_in_its_red_channel(tmp_path):
    import cv2

    path = tmp_path / "flow.png"
    write_flow(path, torch.tensor([1.0, -2.0]).view(2, 1, 1).expand(2, 4, 5))
    blue, green, red = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[0, 0]
    assert (red, green, blue) == (2**15 + 64, 2**15 - 128, 1)


def test_arrays_may_hold_the_vectors_last(tmp_path):
    uv = torch.randn(2, 5, 6)
    np.save(tmp_path / "flow.npy", uv.permute(1, 2, 0).numpy())
    assert torch.equal(read_flow(tmp_path / "flow.npy"), uv)


BROKEN = {
    "short.flo": (b"PIEH", "4 bytes"),
    "magic.flo": (struct.pack("<fii", 1.5, 2, 2) + bytes(32), "begins with 1.5"),
    "endian.flo": (struct.pack(">fii", 202021.25, 2, 2) + bytes(32), "big-endian"),
    "cut.flo": (struct.pack("<fii", 202021.25, 4, 4) + bytes(32), "says 4x4 pixels, 140 bytes, and has 44 bytes"),
    "text.png": (b"no picture", "three 16-bit channels"),
    "text.npy": (b"no array", "no NumPy array"),
    "text.exr": (b"no layers", "no OpenEXR file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_answered_with_a_sentence(tmp_path, name):
    content, sentence = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    if name.endswith(".exr"):
        pytest.importorskip("OpenEXR")
    with pytest.raises(UsageError, match=sentence):
        read_flow(tmp_path / name)


def test_wrong_arrays_and_endings_are_refused(tmp_path):
    np.save(tmp_path / "flow.npy", np.zeros((3, 4, 5)))
    with pytest.raises(UsageError, match=r"got float64 \(3, 4, 5\)"):
        read_flow(tmp_path / "flow.npy")
    (tmp_path / "flow.tif").write_bytes(b"")
    with pytest.raises(UnknownName, match=r"flow file ending '.tif'"):
        read_flow(tmp_path / "flow.tif")
    with pytest.raises(UsageError, match="There is no flow file"):
        read_flow(tmp_path / "absent.flo")


def test_files_serve_as_an_estimator(tmp_path, frames):
    at, to = frames
    given = estimator("dis").both(at, to)
    for flow in given:
        write_flow(tmp_path / f"{flow.at:03d}-{flow.to:03d}.flo", flow.uv)
    made = estimator(f"files:{tmp_path}/{{at:03d}}-{{to:03d}}.flo")
    for found, flow in zip(made.both(at, to), given, strict=True):
        assert torch.equal(found.uv, flow.uv)
        assert torch.equal(found.confidence, flow.confidence)
    with pytest.raises(UsageError, match=r"There is no flow file .*009-007.flo"):
        made(Frame(at.rgb, 9), at)
    with pytest.raises(UsageError, match="is 40x64 and frame 7 is 30x64"):
        made(Frame(at.rgb[:, :30], 7), Frame(to.rgb[:, :30], 8))


def write_exr(path: Path, window: tuple[int, int, int, int] | None = None, **channels: np.ndarray) -> None:
    library = pytest.importorskip("OpenEXR")
    header = {"compression": library.ZIP_COMPRESSION, "type": library.scanlineimage}
    if window:
        left, top, right, bottom = window
        header["dataWindow"] = (np.array([left, top], np.int32), np.array([right, bottom], np.int32))
        header["displayWindow"] = (np.array([0, 0], np.int32), np.array([SIZE[1] - 1, SIZE[0] - 1], np.int32))
    library.File(header, {name.replace("_", "."): value for name, value in channels.items()}).write(str(path))


def test_channels_of_motion_vectors_are_named_and_turned(tmp_path):
    right, up = np.full(SIZE, 3, np.float16), np.full(SIZE, 2, np.float32)
    write_exr(tmp_path / "0-1.exr", forward_u=right, forward_v=up)
    write_exr(tmp_path / "1-0.exr", forward_u=-right, forward_v=-up)
    at, to = (Frame(torch.zeros(3, *SIZE, dtype=torch.uint8), i) for i in range(2))
    made = estimator(f"files:{tmp_path}/{{at}}-{{to}}.exr#forward.u,-forward.v")
    forward, backward = made.both(at, to)
    assert forward.uv[:, 5, 5].tolist() == [3, -2]
    assert backward.uv[:, 5, 5].tolist() == [-3, 2]
    with pytest.raises(UsageError, match=r"has no channel 'u'; it has forward.u, forward.v"):
        estimator(f"files:{tmp_path}/{{at}}-{{to}}.exr")(at, to)


def test_motion_vectors_of_a_renderer_stand_in_one_file_per_frame(tmp_path):
    for number in range(3):
        vectors = {"Vector_X": -5, "Vector_Y": 1, "Vector_Z": -4, "Vector_W": 2}
        named = {name: np.full(SIZE, value + number, np.float32) for name, value in vectors.items()}
        write_exr(tmp_path / f"{number}.exr", **named)
    frames = [Frame(torch.zeros(3, *SIZE, dtype=torch.uint8), i) for i in range(3)]
    made = estimator(f"files:{tmp_path}/{{at}}.exr#Vector.X,-Vector.Y;-Vector.Z,Vector.W", confidence=None)
    assert made(frames[1], frames[0]).uv[:, 0, 0].tolist() == [-4, -2]
    assert made(frames[1], frames[2]).uv[:, 0, 0].tolist() == [3, 3]
    with pytest.raises(UsageError, match="neighbours only, not from frame 2 to 0"):
        made(frames[2], frames[0])


def test_what_lies_outside_the_data_window_is_not_known(tmp_path):
    write_exr(tmp_path / "flow.exr", (4, 2, 9, 7), u=np.ones((6, 6), np.float32), v=np.ones((6, 6), np.float32))
    known = read_flow(tmp_path / "flow.exr").isfinite().all(0)
    assert known[2:8, 4:10].all()
    assert int(known.sum()) == 36


@pytest.mark.parametrize(
    "pattern", ["{at}-{to}.exr#u", "{at}-{to}.exr#a,b;c,d", "{at}.exr#a,b", "{at}.exr#a,b;c,d;e,f"]
)
def test_channels_are_named_in_pairs(pattern):
    with pytest.raises(UsageError, match="pattern"):
        estimator(f"files:{pattern}")


def test_only_exr_files_have_named_channels(tmp_path, frames):
    write_flow(tmp_path / "7-8.flo", torch.zeros(2, *SIZE))
    with pytest.raises(UsageError, match=r"Only \.exr files have channels"):
        estimator(f"files:{tmp_path}/{{at}}-{{to}}.flo#u,v", confidence=None)(*frames)


def test_without_openexr_the_file_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(BackendMissing, match=r"flowguide\[exr\]"):
        write_flow(tmp_path / "flow.exr", torch.zeros(2, 4, 5))


def test_pixels_unknown_to_a_file_are_not_believed(tmp_path, frames):
    at = frames[0]
    uv = torch.zeros(2, *SIZE)
    uv[:, 10:20, 10:20] = torch.nan
    write_flow(tmp_path / "7-8.flo", uv)
    write_flow(tmp_path / "8-7.flo", torch.zeros(2, *SIZE))
    same = Frame(at.rgb, 8)
    confidence = estimator(f"files:{tmp_path}/{{at}}-{{to}}.flo")(at, same).confidence
    assert (confidence[10:20, 10:20] == 0).all()
    assert confidence[30:, :].min() > 0.9


@pytest.mark.parametrize("pattern", ["flow.flo", "{at}.flo", "{at}-{wrong}.flo", "{at"])
def test_patterns_must_name_both_frames(pattern):
    with pytest.raises(UsageError, match="pattern"):
        estimator(f"files:{pattern}")


USER = """
import numpy as np

def still(at, to):
    return np.zeros((2, *at.shape[1:]))

def right(at, to):
    return np.full((2, *at.shape[1:]), 3.0)

def both(at, to):
    return right(at, to), -right(at, to)

right.both = both

def wrong(at, to):
    return at

def broken(at, to):
    return at.no_such_thing
"""


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(USER)
    return path


def test_a_function_serves_as_an_estimator(script, frames):
    at, to = frames
    flow = estimator(f"{script}:still")(at, to)
    assert (flow.uv == 0).all()
    assert flow.confidence.shape == SIZE
    forward, backward = estimator(f"{script}:right").both(at, to)
    assert (forward.uv == 3).all()
    assert (backward.uv == -3).all()


def test_errors_in_a_users_function_say_where(script, frames):
    with pytest.raises(UsageError, match=r"mine.py:19: AttributeError"):
        estimator(f"{script}:broken")(*frames)
    with pytest.raises(UsageError, match=r"should return a flow \(2, 40, 64\), got \(3, 40, 64\)"):
        estimator(f"{script}:wrong")(*frames)
    with pytest.raises(UsageError, match="has no function 'absent'"):
        estimator(f"{script}:absent")
    with pytest.raises(UsageError, match="cannot be loaded"):
        estimator("no_such_module:flow")


def network(path: Path, inputs: dict[str, list], *, channels_last: bool = False, coarse: int = 1) -> Path:
    """An ONNX file whose flow is (mean of the first input's first two channels, over `coarse` pixels) * 1."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    first = next(iter(inputs))
    nodes = []
    taken = first
    if channels_last:
        nodes.append(helper.make_node("Transpose", [first], ["planar"], perm=[0, 3, 1, 2]))
        taken = "planar"
    nodes.append(helper.make_node("Slice", [taken, "from", "to", "axis"], ["two"]))
    nodes.append(helper.make_node("AveragePool", ["two"], ["pooled"], kernel_shape=[coarse] * 2, strides=[coarse] * 2))
    others = [name for name in inputs if name != first]
    nodes += [helper.make_node("ReduceMean", [name], [f"mean_{name}"], keepdims=1) for name in others]
    last = "pooled"
    for name in others:  # so that every input is used
        nodes.append(helper.make_node("Mul", [f"mean_{name}", "none"], [f"zero_{name}"]))
        nodes.append(helper.make_node("Add", [last, f"zero_{name}"], [f"with_{name}"]))
        last = f"with_{name}"
    if channels_last:
        nodes.append(helper.make_node("Transpose", [last], ["flow"], perm=[0, 2, 3, 1]))
    else:
        nodes.append(helper.make_node("Identity", [last], ["flow"]))
    constants = [
        helper.make_tensor("from", TensorProto.INT64, [1], [0]),
        helper.make_tensor("to", TensorProto.INT64, [1], [2]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("none", TensorProto.FLOAT, [], [0.0]),
    ]
    graph = helper.make_graph(
        nodes,
        "flow",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("flow", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


FREE = [1, 3, "h", "w"]


def test_an_onnx_network_serves_as_an_estimator(tmp_path, frames):
    path = network(tmp_path / "net.onnx", {"first": FREE, "second": FREE})
    at, to = frames
    made = estimator(f"onnx:{path}")
    assert made.name == "onnx:net.onnx"
    forward, backward = made.both(at, to)
    assert torch.equal(forward.uv, at.rgb[:2].float())  # it answers with its first picture
    assert torch.equal(backward.uv, to.rgb[:2].float())


def test_a_network_with_a_free_batch_finds_both_directions_in_one_call(tmp_path, frames):
    path = network(tmp_path / "net.onnx", {"first": ["n", *FREE[1:]], "second": ["n", *FREE[1:]]})
    made = estimator(f"onnx:{path}")
    calls = []
    real = made._answer
    made._answer = lambda feed: calls.append(len(feed["first"])) or real(feed)
    at, to = frames
    forward, backward = made.both(at, to)
    assert calls == [2]
    assert torch.equal(forward.uv, at.rgb[:2].float())
    assert torch.equal(backward.uv, to.rgb[:2].float())


def test_an_onnx_network_by_another_runtime(tmp_path, frames, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setenv("FLOWGUIDE_HOME", str(tmp_path))
    path = network(tmp_path / "net.onnx", {"first": ["n", *FREE[1:]], "second": ["n", *FREE[1:]]})
    made = estimator(f"onnx:{path}", confidence=None)
    made.run_by("openvino", torch.device("cpu"))
    at, to = frames
    forward, backward = made.both(at, to)
    assert torch.equal(forward.uv, at.rgb[:2].float())
    assert torch.equal(backward.uv, to.rgb[:2].float())
    [engine] = (tmp_path / "engines").glob("flow-*.onnx")
    engine.write_bytes(b"torn")
    again = estimator(f"onnx:{path}", confidence=None)
    again.run_by("openvino", torch.device("cpu"))
    assert torch.equal(again(at, to).uv, forward.uv), "a damaged engine is made anew"
    compiled = estimator(f"onnx:{path}")
    compiled.run_by("torch-compiled", torch.device("cpu"))
    with pytest.raises(BackendMissing, match="cannot run an ONNX file"):
        compiled(at, to)


def test_the_toml_beside_a_network_says_what_it_takes(tmp_path, frames):
    path = network(tmp_path / "net.onnx", {"b": FREE, "a": FREE}, coarse=2)
    (tmp_path / "net.toml").write_text(
        'inputs = ["b", "a"]\noutput = "flow"\ncolours = "bgr"\nblack = -1\nwhite = 1\nmultiple = 16\nscale = 8'
    )
    flow = estimator(f"onnx:{path}")(*frames)
    assert flow.uv.shape == (2, *SIZE)
    blue = frames[0].rgb[2].float() / 127.5 - 1
    coarse = torch.nn.functional.avg_pool2d(blue[None, None], 2)
    expected = torch.nn.functional.interpolate(coarse * 8, scale_factor=2, mode="bilinear")[0, 0]
    assert (flow.uv[0] - expected)[8:-16, 8:-8].abs().max() < 1e-3


def test_a_network_may_want_its_channels_last(tmp_path, frames):
    path = network(tmp_path / "net.onnx", {"x": [1, "h", "w", 3], "y": [1, "h", "w", 3]}, channels_last=True)
    assert torch.equal(estimator(f"onnx:{path}")(*frames).uv, frames[0].rgb[:2].float())


def test_a_network_may_take_both_pictures_stacked(tmp_path, frames):
    path = network(tmp_path / "net.onnx", {"pictures": [1, 6, "h", "w"]})
    assert torch.equal(estimator(f"onnx:{path}")(*frames).uv, frames[0].rgb[:2].float())


def test_a_network_of_fixed_size_is_fed_that_size_and_its_vectors_scaled_back(tmp_path, frames):
    path = network(tmp_path / "net.onnx", {"a": [1, 3, 80, 96], "b": [1, 3, 80, 96]})
    grey = Frame(torch.full((3, *SIZE), 90, dtype=torch.uint8), 0)
    flow = estimator(f"onnx:{path}")(grey, Frame(grey.rgb, 1))
    assert flow.uv[0].mean() == pytest.approx(90 * SIZE[1] / 96, rel=1e-4)
    assert flow.uv[1].mean() == pytest.approx(90 * SIZE[0] / 80, rel=1e-4)


def test_odd_sizes_are_padded_and_cropped(tmp_path):
    path = network(tmp_path / "net.onnx", {"a": FREE, "b": FREE}, coarse=8)
    at, to = (Frame(texture(37, 51, seed), seed) for seed in (0, 1))
    assert estimator(f"onnx:{path}")(at, to).uv.shape == (2, 37, 51)


def test_networks_that_do_not_fit_say_what_they_have(tmp_path, frames):
    path = network(tmp_path / "net.onnx", {"a": FREE, "b": FREE, "state": FREE})
    with pytest.raises(ModelError, match=r"takes a \[1, 3, 'h', 'w'\], b .*, state .*net.toml"):
        estimator(f"onnx:{path}")
    (tmp_path / "net.toml").write_text('inputs = ["left", "b"]')
    with pytest.raises(ModelError, match="has no inputs left, b; it has a"):
        estimator(f"onnx:{path}")
    (tmp_path / "net.toml").write_text('input = ["a", "b"]')
    with pytest.raises(UnknownName, match="Did you mean 'inputs'"):
        estimator(f"onnx:{path}")
    (tmp_path / "net.toml").write_text('colours = "bgra"')
    with pytest.raises(UnknownName, match="Did you mean 'bgr'"):
        estimator(f"onnx:{path}")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ModelError, match="no ONNX network"):
        estimator(f"onnx:{tmp_path}/text.onnx")
    with pytest.raises(ModelError, match="There is no flow network"):
        estimator(f"onnx:{tmp_path}/absent.onnx")


def test_what_follows_the_colon_is_the_first_argument():
    assert estimator("dis:fast").name == "dis-fast"
    with pytest.raises(FlowguideError, match="farneback:fast"):
        estimator("farneback:fast")
    with pytest.raises(FlowguideError, match="files"):
        estimator("files")


def test_the_colour_wheel_shows_direction_and_length():
    uv = torch.zeros(2, 4, 6)
    uv[0, 0], uv[0, 1], uv[1, 2] = 5, -5, 5
    uv[:, 3, 5] = torch.nan
    picture = colour_wheel(Flow(uv, 0, 1), longest_px=5)
    assert picture[:, 0, 0].tolist() == pytest.approx([255, 0, 0], abs=1)  # right is red
    assert picture[2, 1, 0] > 200  # left is between cyan and blue
    assert picture[0, 1, 0] == 0
    assert picture[:, 2, 0].tolist() == pytest.approx([255, 210, 0], abs=30)  # down is yellow
    assert picture[:, 3, 0].tolist() == [255, 255, 255]  # no motion is white
    assert picture[:, 3, 5].tolist() == [0, 0, 0]  # unknown is black


def test_the_overlay_tints_what_is_doubted(frames):
    confidence = torch.ones(SIZE)
    confidence[:, :32] = 0
    flow = Flow(torch.zeros(2, *SIZE), 7, 8, confidence)
    picture = overlay(frames[0], flow, spacing_px=100)
    assert torch.equal(picture[:, :, 32:], frames[0].rgb[:, :, 32:])
    assert not torch.equal(picture[:, :, :32], frames[0].rgb[:, :, :32])
    assert not torch.equal(overlay(frames[0], flow, spacing_px=8)[:, :, 32:], frames[0].rgb[:, :, 32:])


@pytest.mark.real
def test_a_foreign_network_finds_flow(data, tmp_path):
    """NanoFlowNet (TU Delft), grey pictures of 112x160 in [0, 1], coarse flow; converted from TFLite."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from tflite_network import convert

    from flowguide.training.flow_scenes import from_pictures, make_pair

    path = convert(data / "weights" / "nanoflownet" / "nanoflownet_unquantized.tflite", tmp_path / "nanoflownet.onnx")
    (tmp_path / "nanoflownet.toml").write_text('colours = "grey"\nwhite = 1\nscale = 0.2\n')
    made = estimator(f"onnx:{path}", confidence=None)
    texture = from_pictures(sorted((data / "photos").glob("*.jpg")))
    found, true = [], []
    for number in range(6):
        pair = make_pair("large", number, (224, 320), seed=4, texture=texture)  # scaled to the network's size and back
        found.append(made(pair.first, pair.second).uv[:, pair.forward_visible])
        true.append(pair.forward[:, pair.forward_visible])
    flow, truth = torch.cat(found, 1), torch.cat(true, 1)
    alike = (flow * truth).sum() / (flow.square().sum() * truth.square().sum()).sqrt()
    assert alike > 0.7
    assert (flow - truth).square().sum(0).sqrt().mean() < 0.7 * truth.square().sum(0).sqrt().mean()
