"""Any flow network as an ONNX file: two pictures in, one flow out."""

from __future__ import annotations

import hashlib
import importlib
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import BackendMissing, FlowguideError, ModelError, UnknownName, UsageError
from ..types import Flow, Frame
from .confidence import Confidence
from .protocol import PairEstimator


@dataclass(frozen=True)
class NetworkLayout:
    """What a flow network expects and gives; a TOML file beside it, `network.toml` for `network.onnx`, says otherwise.

    Inputs, output and layout are found in the network itself where they are not given.
    """

    inputs: tuple[str, ...] = ()
    """Names of both pictures, first the one whose pixels are asked for; or one name, which takes both stacked."""
    output: str = ""
    """Name of the flow; without it, the last output."""
    layout: str = ""
    """Of pictures and flow: "NCHW" or "NHWC"."""
    colours: str = "rgb"
    """"rgb", "bgr" or "grey"."""
    black: float = 0.0
    white: float = 255.0
    """What the network takes for black and for white."""
    multiple: int = 8
    """Both sides are padded to multiples of this, by repeating the border."""
    scale: float = 1.0
    """What the output is multiplied with to give pixels of the padded picture."""

    @classmethod
    def read(cls, path: Path) -> NetworkLayout:
        """From a TOML file. Raises UsageError for what is none, UnknownName for a key that is not known."""
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is no TOML file: {error}.") from error
        known = {field.name for field in fields(cls)}
        for key in content:
            if key not in known:
                raise UnknownName(f"key in {path.name}", key, known)
        if "inputs" in content:
            content["inputs"] = tuple(content["inputs"])
        layout = cls(**content)
        for key, choices in (("layout", ("", "NCHW", "NHWC")), ("colours", ("rgb", "bgr", "grey"))):
            if getattr(layout, key) not in choices:
                raise UnknownName(f"{key} in {path.name}", str(getattr(layout, key)), choices[-2:])
        return layout


class OnnxFlow(PairEstimator):
    """The network at `path`, run by ONNX Runtime on the CPU unless `run_by` says otherwise.

    Pictures are padded, or scaled where the network has a fixed size. Raises ModelError for a file that is no network
    or has other inputs, BackendMissing without onnxruntime.
    """

    def __init__(self, path: str | Path, *, confidence: str | Confidence | None = "check"):
        super().__init__(confidence=confidence)
        self.path = Path(path)
        beside = self.path.with_suffix(".toml")
        self.layout = NetworkLayout.read(beside) if beside.is_file() else NetworkLayout()
        self._session = _session(self.path)
        self._inputs = self._chosen_inputs()
        self._output = self._chosen_output()
        self._channels_last = self._is_channels_last()
        self._opened: dict[tuple[int, ...], Any] = {}

    def run_by(self, runtime: str, device: torch.device) -> None:
        engines: Any = importlib.import_module("flowguide.engines.runtime")
        engines.check_usable(runtime, device, torch.float32)
        self.runtime, self.device = runtime, device

    @property
    def name(self) -> str:
        return f"onnx:{self.path.name}"

    @property
    def key(self) -> str | None:
        if super().key is None:
            return None
        content = hashlib.blake2b(self.path.read_bytes(), digest_size=16).hexdigest()
        return f"{super().key} {content} {self.layout} {self.runtime}"

    def displacement(self, at: Frame, to: Frame) -> Tensor:
        return self._found([(at, to)])[0]

    def displacements(self, at: Frame, to: Frame) -> tuple[Tensor, Tensor]:
        if isinstance(self._shape()[0], int):  # a network for one pair at a time
            return self.displacement(at, to), self.displacement(to, at)
        there, back = self._found([(at, to), (to, at)])
        return there, back

    def _found(self, pairs: list[tuple[Frame, Frame]]) -> list[Tensor]:
        """The displacement of each pair, all of one size and in one call."""
        size = self._fixed_size()
        pictures = [torch.cat([self._picture(pair[place], size) for pair in pairs]) for place in (0, 1)]
        axis = 3 if self._channels_last else 1
        stacked = [torch.cat(pictures, axis)] if len(self._inputs) == 1 else pictures
        frame = pairs[0][0]
        try:
            answer = self._answer(dict(zip(self._inputs, stacked, strict=True)))
        except FlowguideError:
            raise
        except Exception as error:
            raise ModelError(f"The flow network {self.path} failed on {frame.size}: {error}") from error
        return [self._in_pixels(row[None], frame, size).to(frame.rgb.device) for row in answer]

    def _answer(self, feed: dict[str, Tensor]) -> Tensor:
        """The network's flow, on the CPU."""
        if self.runtime in ("torch", "onnx") and (self.device is None or self.device.type == "cpu"):
            told = {name: picture.numpy() for name, picture in feed.items()}
            return torch.from_numpy(self._session.run([self._output], told)[0]).float()
        device = self.device or torch.device("cpu")
        given = {name: picture.to(device) for name, picture in feed.items()}
        place = tuple(side for picture in given.values() for side in picture.shape)
        if place not in self._opened:
            network: Any = importlib.import_module("flowguide.engines.network")
            engines: Any = importlib.import_module("flowguide.engines.runtime")
            specs = {name: network.Spec.of(picture) for name, picture in given.items()}
            outputs = tuple(node.name for node in self._session.get_outputs())
            file = network.FileNetwork("flow", torch.nn.Identity(), specs, outputs, self.path, device)
            self._opened[place] = engines.open_runtime(self.runtime, file, torch.float32)
        answer: Tensor = self._opened[place](given)[self._output].float().cpu().clone()
        return answer

    def _picture(self, frame: Frame, size: tuple[int, int] | None) -> Tensor:
        rgb = frame.rgb[None].float().cpu()
        if self.layout.colours == "grey":
            rgb = (rgb * rgb.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
        elif self.layout.colours == "bgr":
            rgb = rgb.flip(1)
        if size is not None:
            rgb = F.interpolate(rgb, size, mode="bilinear", antialias=True)
        else:
            height, width = frame.size
            beyond = (0, -width % self.layout.multiple, 0, -height % self.layout.multiple)
            rgb = F.pad(rgb, beyond, mode="replicate")
        value = self.layout.black + rgb / 255 * (self.layout.white - self.layout.black)
        return value.permute(0, 2, 3, 1).contiguous() if self._channels_last else value

    def _in_pixels(self, answer: Tensor, at: Frame, size: tuple[int, int] | None) -> Tensor:
        if answer.ndim == 4 and self._channels_last:
            answer = answer.permute(0, 3, 1, 2)
        if answer.ndim != 4 or answer.shape[1] < 2:
            raise ModelError(f"The output {self._output!r} of {self.path} should be a flow, got {tuple(answer.shape)}.")
        uv = answer[:, :2] * self.layout.scale
        multiple = self.layout.multiple
        padded = size or (at.size[0] + -at.size[0] % multiple, at.size[1] + -at.size[1] % multiple)
        if tuple(uv.shape[2:]) != padded:  # a coarse grid, but in pixels of the picture
            uv = F.interpolate(uv, padded, mode="bilinear", align_corners=False)
        if size is not None:
            return Flow(uv[0], at.index, at.index).resized(at.size).uv
        return uv[0, :, : at.size[0], : at.size[1]].contiguous()

    def _chosen_inputs(self) -> tuple[str, ...]:
        found = {node.name: node.shape for node in self._session.get_inputs()}
        if self.layout.inputs:
            if not set(self.layout.inputs) <= set(found):
                raise ModelError(f"{self.path} has no inputs {', '.join(self.layout.inputs)}; it has {_listed(found)}.")
            return self.layout.inputs
        pictures = tuple(name for name, shape in found.items() if len(shape) == 4)
        stacked = len(pictures) == 1 and 6 in (found[pictures[0]][1], found[pictures[0]][3])
        if len(pictures) == len(found) and (len(pictures) == 2 or stacked):
            return pictures
        raise ModelError(
            f"{self.path} should take two pictures [N, 3, H, W]; it takes {_listed(found)}. "
            f"Name them in {self.path.with_suffix('.toml').name}: inputs = [..., ...]."
        )

    def _chosen_output(self) -> str:
        found = {node.name: node.shape for node in self._session.get_outputs()}
        if self.layout.output and self.layout.output not in found:
            raise ModelError(f"{self.path} has no output {self.layout.output!r}; it has {_listed(found)}.")
        return self.layout.output or list(found)[-1]

    def _is_channels_last(self) -> bool:
        if self.layout.layout:
            return self.layout.layout == "NHWC"
        shape = self._shape()
        return shape[3] in (1, 3, 6) and shape[1] not in (1, 3, 6)

    def _shape(self) -> list[Any]:
        return next(node.shape for node in self._session.get_inputs() if node.name == self._inputs[0])

    def _fixed_size(self) -> tuple[int, int] | None:
        shape = self._shape()
        height, width = shape[1:3] if self._channels_last else shape[2:4]
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissing(
            "A flow network as an ONNX file needs onnxruntime: pip install 'flowguide[onnx]'."
        ) from error
    if not path.is_file():
        raise ModelError(f"There is no flow network {path}.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{path} is no ONNX network that can be loaded: {error}") from error


def _listed(shapes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "none"
