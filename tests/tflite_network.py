"""Turns a small TFLite network of plain convolutions into ONNX, to prove that a foreign flow network can be used.

Reads the flatbuffer directly; the field numbers are those of TensorFlow's schema.fbs.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CODES = {
    0: "Add",
    1: "AveragePool",
    2: "Concat",
    3: "Conv",
    4: "DepthwiseConv",
    14: "Sigmoid",
    18: "Mul",
    22: "Reshape",
    23: "Resize",
    40: "Mean",
}
SHAPE_CODES = {45, 77, 83}
"""STRIDED_SLICE, SHAPE and PACK: they only prepare the shape of a Reshape that keeps everything as it is."""


class Table:
    """One table of the flatbuffer."""

    def __init__(self, content: bytes, place: int):
        self.content, self.place = content, place
        self.fields = place - struct.unpack_from("<i", content, place)[0]

    def at(self, field: int) -> int | None:
        length = struct.unpack_from("<H", self.content, self.fields)[0]
        offset = struct.unpack_from("<H", self.content, self.fields + 4 + 2 * field)[0] if 4 + 2 * field < length else 0
        return self.place + offset if offset else None

    def number(self, field: int, kind: str = "b", default: int = 0) -> int:
        place = self.at(field)
        return default if place is None else int(struct.unpack_from(f"<{kind}", self.content, place)[0])

    def _vector(self, field: int) -> tuple[int, int]:
        place = self.at(field)
        if place is None:
            return 0, 0
        start = place + struct.unpack_from("<I", self.content, place)[0]
        return start + 4, struct.unpack_from("<I", self.content, start)[0]

    def array(self, field: int, dtype: str) -> np.ndarray:
        start, count = self._vector(field)
        return np.frombuffer(self.content, dtype, count, start)

    def table(self, field: int) -> Table:
        place = self.at(field)
        assert place is not None
        return Table(self.content, place + struct.unpack_from("<I", self.content, place)[0])

    def tables(self, field: int) -> list[Table]:
        start, count = self._vector(field)
        places = [start + 4 * k for k in range(count)]
        return [Table(self.content, place + struct.unpack_from("<I", self.content, place)[0]) for place in places]


class Converter:
    """Layers are made channels-first inside; inputs and output keep the channels last, as the network has them."""

    def __init__(self, content: bytes):
        model = Table(content, struct.unpack_from("<I", content, 0)[0])
        self.codes = [max(code.number(0), code.number(3, "i")) for code in model.tables(1)]
        self.buffers = model.tables(4)
        graph = model.tables(2)[0]
        self.tensors, self.operators = graph.tables(0), graph.tables(3)
        self.inputs, self.outputs = graph.array(1, "<i4").tolist(), graph.array(2, "<i4").tolist()
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def shape(self, tensor: int) -> list[int]:
        return self.tensors[tensor].array(0, "<i4").tolist()

    def value(self, tensor: int) -> np.ndarray:
        dtype = {0: "<f4", 2: "<i4"}[self.tensors[tensor].number(1)]
        data = self.buffers[self.tensors[tensor].number(2, "I")].array(0, "u1")
        return np.frombuffer(data.tobytes(), dtype).reshape(self.shape(tensor))

    def constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))

    def model(self) -> onnx.ModelProto:
        for number, tensor in enumerate(self.inputs):
            self.node("Transpose", [f"picture_{number}"], f"t{tensor}", perm=[0, 3, 1, 2])
        for operator in self.operators:
            code = self.codes[operator.number(0, "I")]
            if code not in SHAPE_CODES:
                self.convert(CODES[code], operator)
        self.node("Transpose", [f"t{self.outputs[0]}"], "flow", perm=[0, 2, 3, 1])
        inputs = [
            helper.make_tensor_value_info(f"picture_{k}", TensorProto.FLOAT, self.shape(tensor))
            for k, tensor in enumerate(self.inputs)
        ]
        output = helper.make_tensor_value_info("flow", TensorProto.FLOAT, self.shape(self.outputs[0]))
        graph = helper.make_graph(self.nodes, "network", inputs, [output], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        return model

    def convert(self, kind: str, operator: Table) -> None:
        inputs, output = operator.array(1, "<i4").tolist(), operator.array(2, "<i4").tolist()[0]
        names = [f"t{tensor}" for tensor in inputs]
        if kind in ("Conv", "DepthwiseConv"):
            self.convolution(kind, operator.table(4), inputs, output)
        elif kind == "AveragePool":
            options = operator.table(4)
            kernel = [options.number(4, "i"), options.number(3, "i")]
            strides = [options.number(2, "i"), options.number(1, "i")]
            self.node("AveragePool", names, f"t{output}", kernel_shape=kernel, strides=strides, **self.padding(options))
        elif kind == "Concat":
            axis = {3: 1, -1: 1}[operator.table(4).number(0, "i")]
            self.node("Concat", names, f"t{output}", axis=axis)
        elif kind == "Mean":
            self.node("ReduceMean", names[:1], f"t{output}", axes=[2, 3], keepdims=1)
        elif kind == "Reshape":
            self.node("Identity", names[:1], f"t{output}")
        elif kind == "Resize":
            options = operator.table(4)
            place = "align_corners" if options.number(2) else "half_pixel" if options.number(3) else "asymmetric"
            size = self.constant(np.array([1, self.shape(output)[3], *self.shape(output)[1:3]], np.int64))
            self.node(
                "Resize", [names[0], "", "", size], f"t{output}", mode="linear", coordinate_transformation_mode=place
            )
        else:
            known = [
                name if self.is_computed(tensor) else self.planar(tensor)
                for name, tensor in zip(names, inputs, strict=True)
            ]
            self.node(kind, known, f"t{output}")

    def is_computed(self, tensor: int) -> bool:
        return not len(self.buffers[self.tensors[tensor].number(2, "I")].array(0, "u1"))

    def planar(self, tensor: int) -> str:
        value = self.value(tensor)
        return self.constant(value.reshape(1, -1, 1, 1) if value.ndim == 1 else value)

    def convolution(self, kind: str, options: Table, inputs: list[int], output: int) -> None:
        weights, bias = self.value(inputs[1]), self.value(inputs[2])
        depthwise = kind == "DepthwiseConv"
        planar = weights.transpose(3, 0, 1, 2) if depthwise else weights.transpose(0, 3, 1, 2)
        before = f"before_{output}"
        self.node(
            "Conv",
            [f"t{inputs[0]}", self.constant(planar), self.constant(bias)],
            before,
            strides=[options.number(2, "i"), options.number(1, "i")],
            group=self.shape(inputs[0])[3] if depthwise else 1,
            **self.padding(options),
        )
        activation = options.number(4 if depthwise else 3)
        self.node({0: "Identity", 1: "Relu"}[activation], [before], f"t{output}")

    def padding(self, options: Table) -> dict[str, str]:
        return {"auto_pad": {0: "SAME_UPPER", 1: "VALID"}[options.number(0)]}


def convert(path: Path, to: Path) -> Path:
    """Write the network at `path` as ONNX."""
    model = Converter(path.read_bytes()).model()
    onnx.checker.check_model(model)
    onnx.save(model, str(to))
    return to
