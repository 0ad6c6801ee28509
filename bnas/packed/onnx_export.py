"""Writes a packed network as an ONNX model, whose signs are ±1 as floats, for runtimes without binary layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bnas.data.picture import scale_and_shift
from bnas.packed.network import PackedNetwork
from bnas.packed.parameters import BlockParameters, ClassifierParameters, StemParameters
from bnas.packed.reference import group
from bnas.space.layout import Block, Classifier, Concat, Pool, Shape, Shuffle, Stem, Sum
from bnas.storage.terminal import printable

OPSET, IR_VERSION = 17, 8


def to_onnx(network: PackedNetwork) -> onnx.ModelProto:
    """The model: input `pixels`, float32 `[N, C, H, W]` from 0 to 255; output `logits`, float32 `[N, classes]`.

    Normalisation is part of the model. Class names and the content hash are in its metadata. It names the same classes
    as the packed network, unless a value before a sign lies within rounding of its threshold.
    """
    graph = _Graph()
    card = network.card
    maps = [graph.affine("pixels", *scale_and_shift(card.mean, card.std))]
    for step, values in zip(network.steps, network.parameters, strict=True):
        maps.append(graph.step(step, values, maps))
    graph.nodes.append(helper.make_node("Identity", [maps[-1]], ["logits"]))
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", *card.image.shape])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(card.classes)])
    model = helper.make_model(
        helper.make_graph(graph.nodes, card.network.name, [pixels], [logits], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="bnas",
    )
    helper.set_model_props(model, {"classes": "\n".join(map(printable, card.classes)), "hash": network.content.hash})
    onnx.checker.check_model(model)
    return model


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: NDArray[np.generic]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def affine(self, x: str, scale: NDArray[np.float32], shift: NDArray[np.float32]) -> str:
        scaled = self.add("Mul", [x, self.constant(scale[:, None, None])])
        return self.add("Add", [scaled, self.constant(shift[:, None, None])])

    def step(self, step: Any, values: Any, maps: Sequence[str]) -> str:
        match step, values:
            case Stem(), StemParameters():
                inputs = [maps[step.source], self.constant(values.weight), self.constant(values.bias)]
                made = self.add("Conv", inputs, strides=[step.stride] * 2, pads=[step.kernel // 2] * 4)
                return self.add("Relu", [made]) if step.relu else made
            case Block(), BlockParameters():
                return self.block(step, values, maps[step.source])
            case Pool(), None:
                return self.pool(maps[step.source], step.kind, step.stride)
            case Shuffle(), None:
                return self.shuffle(maps[step.source], step.shape, step.groups)
            case Sum(), None:
                return self.add("Add", [maps[step.source], maps[step.other]])
            case Concat(), None:
                return self.add("Concat", [maps[source] for source in step.sources], axis=1)
            case Classifier(), ClassifierParameters():
                mean = self.add("Flatten", [self.add("GlobalAveragePool", [maps[step.source]])])
                return self.add("Gemm", [mean, self.constant(values.weight), self.constant(values.bias)], transB=1)
            case _:
                raise ValueError(f"{step.name}: parameters {type(values).__name__} do not belong to this step")

    def block(self, step: Block, values: BlockParameters, x: str) -> str:
        one, zero = np.float32(1), np.float32(0)
        positive = self.add(
            "GreaterOrEqual", [self.affine(x, values.scale_in, values.shift_in), self.constant(np.array(zero))]
        )
        signs = self.add("Where", [positive, self.constant(np.array(one)), self.constant(np.array(-one))])
        weight = values.weight * values.scale_out[:, None, None, None]
        y = self.add(
            "Conv",
            [signs, self.constant(weight), self.constant(values.shift_out)],
            strides=[step.stride] * 2,
            pads=[step.padding] * 4,
            dilations=[step.dilation] * 2,
            group=step.groups,
        )
        shortcut = self.match(self.pool(x, "skip", step.stride), step.shape, step.out.channels)
        return self.add("PRelu", [self.add("Add", [y, shortcut]), self.constant(values.slope[:, None, None])])

    def match(self, x: str, shape: Shape, channels: int) -> str:
        have = shape.channels
        if have == channels:
            return x
        matrix = np.zeros((channels, have, 1, 1), np.float32)
        for j in range(channels):
            first, end = group(j, have, channels) if have > channels else (j % have, j % have + 1)
            matrix[j, first:end] = 1 / (end - first)
        return self.add("Conv", [x, self.constant(matrix)])

    def shuffle(self, x: str, shape: Shape, groups: int) -> str:
        channels, height, width = shape
        split = self.constant(np.array([0, groups, channels // groups, height, width], np.int64))
        dealt = self.add("Transpose", [self.add("Reshape", [x, split])], perm=[0, 2, 1, 3, 4])
        return self.add("Reshape", [dealt, self.constant(np.array([0, channels, height, width], np.int64))])

    def pool(self, x: str, kind: str, stride: int) -> str:
        if kind == "none":
            return self.add("Mul", [self.pool(x, "skip", stride), self.constant(np.zeros((), np.float32))])
        if kind == "skip":
            return self.average(x, 2, 0, ceil_mode=1) if stride == 2 else x
        if kind == "max":
            return self.add("MaxPool", [x], kernel_shape=[3, 3], strides=[stride] * 2, pads=[1] * 4)
        return self.average(x, 3, 1, strides=[stride] * 2)

    def average(self, x: str, kernel: int, pad: int, **attributes: Any) -> str:
        attributes = {"strides": [kernel] * 2, "pads": [pad] * 4, **attributes}
        return self.add("AveragePool", [x], kernel_shape=[kernel] * 2, count_include_pad=0, **attributes)
