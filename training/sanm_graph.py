"""SenseVoice-small's graph, node by node as PyTorch's older ONNX exporter writes FunASR's model.

Four query rows before the features, sinusoidal positions, 70 SAN-M blocks (self-attention plus a
depthwise convolution over the values, the "memory"), one linear layer for tags and CTC. Layer
norms are decomposed and shapes computed in the graph, as that exporter does at opset 14: what a
runtime makes of the real export it makes of this one. The weights are seeded noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["HEAD_BIAS", "Sizes", "build_graph", "set_head_bias"]

HEAD_BIAS = "ctc.ctc_lo.bias"
QUERIES = 4
_QUERY_IDS = 16
_OPSET = 14
_EPSILON = 1e-5
# Attention sharper and weaker than noise makes it: otherwise every row hears the same average.
_ATTENTION_GAIN = 2.0
_ATTENDED_GAIN = 0.5


@dataclass(frozen=True, slots=True)
class Sizes:
    """The defaults are SenseVoice-small's: 234 million parameters."""

    features: int = 560
    width: int = 512
    heads: int = 4
    feed_forward: int = 2048
    kernel: int = 11
    first_blocks: int = 50
    last_blocks: int = 20
    pieces: int = 25_055
    wide_mask: bool = True


class _Builder:
    """Nodes and weights in the making; every method answers with the name of its output."""

    def __init__(self, sizes: Sizes, seed: int) -> None:
        self.sizes = sizes
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, str], str] = {}
        self._random = np.random.default_rng(seed)
        self._count = 0

    def node(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        self._count += 1
        output = name or f"/{operator}_{self._count}_output_0"
        self.nodes.append(
            helper.make_node(
                operator, list(inputs), [output], f"/{operator}_{self._count}", **attributes
            )
        )
        return output

    def weight(self, name: str, value: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def noise(self, name: str, *shape: int, scale: float) -> str:
        values = self._random.standard_normal(shape, dtype=np.float32)
        values *= np.float32(scale)
        return self.weight(name, values)

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        array = np.asarray(value, dtype=dtype)
        key = (str(array.dtype), str(array.tolist()))
        if key not in self._constants:
            self._constants[key] = self.weight(f"constant_{len(self._constants)}", array)
        return self._constants[key]

    def linear(self, rows: str, name: str, inward: int, outward: int, gain: float = 1.0) -> str:
        weight = self.noise(f"{name}.weight", inward, outward, scale=gain / math.sqrt(inward))
        bias = self.noise(f"{name}.bias", outward, scale=0.02)
        return self.node("Add", bias, self.node("MatMul", rows, weight))

    def norm(self, rows: str, name: str, width: int) -> str:
        gains = 1.0 + 0.1 * self._random.standard_normal(width, dtype=np.float32)
        gain = self.weight(f"{name}.weight", gains.astype(np.float32))
        bias = self.noise(f"{name}.bias", width, scale=0.05)
        centred = self.node("Sub", rows, self.node("ReduceMean", rows, axes=[-1]))
        squares = self.node("Pow", centred, self.constant(2.0, np.float32))
        variance = self.node("ReduceMean", squares, axes=[-1])
        deviation = self.node(
            "Sqrt", self.node("Add", variance, self.constant(_EPSILON, np.float32))
        )
        normal = self.node("Div", centred, deviation)
        return self.node("Add", self.node("Mul", normal, gain), bias)

    def size(self, rows: str, axis: int) -> str:
        """The length of an axis, int64[]."""
        return self.node("Gather", self.node("Shape", rows), self.constant(axis), axis=0)

    def shape(self, *lengths: str | int) -> str:
        """A shape of lengths computed and known, int64[n]."""
        parts = [
            self.constant([length])
            if isinstance(length, int)
            else self.node("Unsqueeze", length, self.constant([0]))
            for length in lengths
        ]
        return self.node("Concat", *parts, axis=0)

    def block(self, rows: str, mask: str, name: str, inward: int) -> str:
        """A SAN-M block; one that changes the width has no residual around its attention."""
        sizes = self.sizes
        attended = self.attention(
            self.norm(rows, f"{name}.norm1", inward), mask, f"{name}.self_attn", inward
        )
        if inward == sizes.width:
            attended = self.node("Add", rows, attended)
        hidden = self.linear(
            self.norm(attended, f"{name}.norm2", sizes.width),
            f"{name}.feed_forward.w_1", sizes.width, sizes.feed_forward,
        )  # fmt: skip
        hidden = self.node("Relu", hidden)
        hidden = self.linear(hidden, f"{name}.feed_forward.w_2", sizes.feed_forward, sizes.width)
        return self.node("Add", attended, hidden)

    def attention(self, rows: str, mask: str, name: str, inward: int) -> str:
        width, heads = self.sizes.width, self.sizes.heads
        clips, length = self.size(rows, 0), self.size(rows, 1)
        joint = self.linear(rows, f"{name}.linear_q_k_v", inward, 3 * width, _ATTENTION_GAIN)
        names = [f"/{name}/{part}" for part in "qkv"]
        self.nodes.append(
            helper.make_node("Split", [joint, self.constant([width] * 3)], names, axis=2)
        )
        query, key, value = (
            self.node("Reshape", part, self.shape(clips, length, heads, width // heads))
            for part in names
        )
        query = self.node("Transpose", query, perm=[0, 2, 1, 3])
        key = self.node("Transpose", key, perm=[0, 2, 3, 1])
        split_value = self.node("Transpose", value, perm=[0, 2, 1, 3])
        memory = self.memory(names[2], mask, name, clips)
        scale = self.constant((width // heads) ** -0.5, np.float32)
        scores = self.node("MatMul", self.node("Mul", query, scale), key)
        zero = self.constant(0.0, np.float32)
        wide_mask = self.node("Unsqueeze", mask, self.constant([1]))
        absent = self.node("Equal", wide_mask, zero)
        scores = self.node("Where", absent, self.constant(-np.inf, np.float32), scores)
        weights = self.node("Where", absent, zero, self.node("Softmax", scores, axis=3))
        mixed = self.node("MatMul", weights, split_value)
        mixed = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = self.node("Reshape", mixed, self.shape(self.size(split_value, 0), -1, width))
        attended = self.linear(mixed, f"{name}.linear_out", width, width, _ATTENDED_GAIN)
        return self.node("Add", attended, memory)

    def memory(self, value: str, mask: str, name: str, clips: str) -> str:
        width, kernel = self.sizes.width, self.sizes.kernel
        present = self.node("Reshape", mask, self.shape(clips, -1, 1))
        value = self.node("Mul", value, present)
        channels = self.node("Transpose", value, perm=[0, 2, 1])
        left = (kernel - 1) // 2
        pads = self.constant([0, 0, left, 0, 0, kernel - 1 - left])
        channels = self.node("Pad", channels, pads, self.constant(0.0, np.float32), mode="constant")
        weight = self.noise(
            f"{name}.fsmn_block.weight", width, 1, kernel, scale=1 / math.sqrt(kernel)
        )
        convolved = self.node(
            "Conv", channels, weight,
            dilations=[1], group=width, kernel_shape=[kernel], pads=[0, 0], strides=[1],
        )  # fmt: skip
        remembered = self.node("Transpose", convolved, perm=[0, 2, 1])
        return self.node("Mul", self.node("Add", remembered, value), present)

    def positions(self, rows: str) -> str:
        """Sines and cosines of row numbers from 1, float32[1, rows, features]."""
        half = self.sizes.features // 2
        speeds = np.exp(np.arange(half) * (-math.log(10_000.0) / (half - 1))).astype(np.float32)
        length = self.node("Cast", self.size(rows, 1), to=TensorProto.FLOAT)
        one = self.constant(1.0, np.float32)
        numbers = self.node("Range", one, self.node("Add", length, one), one)
        column = self.node("Reshape", numbers, self.constant([1, -1, 1]))
        angles = self.node("Mul", column, self.constant(speeds[np.newaxis, np.newaxis], np.float32))
        return self.node("Concat", self.node("Sin", angles), self.node("Cos", angles), axis=2)

    def queried(self) -> tuple[str, str]:
        """Language, event, emotion and text normalisation rows before the features."""
        table = self.noise("embed.weight", _QUERY_IDS, self.sizes.features, scale=1.0)
        column = self.constant([1])
        language, textnorm = (
            self.node("Gather", table, self.node("Unsqueeze", name, column), axis=0)
            for name in ("language", "textnorm")
        )
        marks = self.node("Gather", table, self.constant([[1, 2]]), axis=0)
        copies = self.shape(self.size("speech", 0), 1, 1)
        marks = self.node("Tile", marks, copies)
        rows = self.node("Concat", language, marks, textnorm, "speech", axis=1)
        lengths = self.node("Add", "speech_lengths", self.constant(QUERIES, np.int32))
        return rows, lengths

    def mask(self, rows: str, lengths: str) -> str:
        """1 for a clip's rows, 0 for padding: float32[clips, 1, rows].

        As wide as the input or, as older exports have it, as the longest clip.
        """
        zero, one = self.constant(0), self.constant(1)
        lengths = self.node("Cast", lengths, to=TensorProto.INT64)
        width = self.size(rows, 1)
        if not self.sizes.wide_mask:
            width = self.node("ReduceMax", lengths, keepdims=0)
        numbers = self.node("Range", zero, width, one)
        inside = self.node("Less", numbers, self.node("Unsqueeze", lengths, self.constant([-1])))
        inside = self.node("Cast", inside, to=TensorProto.FLOAT)
        return self.node("Unsqueeze", inside, self.constant([1]))


def build_graph(sizes: Sizes, *, seed: int = 0) -> onnx.ModelProto:
    """The model with seeded weights, under FunASR's names of inputs and outputs."""
    builder = _Builder(sizes, seed)
    rows, lengths = builder.queried()
    mask = builder.mask(rows, lengths)
    rows = builder.node("Mul", rows, builder.constant(math.sqrt(sizes.width), np.float32))
    rows = builder.node("Add", rows, builder.positions(rows))
    inward = sizes.features
    for number in range(sizes.first_blocks):
        rows = builder.block(rows, mask, f"encoder.encoders.{number}", inward)
        inward = sizes.width
    rows = builder.norm(rows, "encoder.after_norm", sizes.width)
    for number in range(sizes.last_blocks):
        rows = builder.block(rows, mask, f"encoder.tp_encoders.{number}", sizes.width)
    rows = builder.norm(rows, "encoder.tp_norm", sizes.width)
    weight = builder.noise(
        "ctc.ctc_lo.weight", sizes.width, sizes.pieces, scale=1 / math.sqrt(sizes.width)
    )
    bias = builder.weight(HEAD_BIAS, np.zeros(sizes.pieces, np.float32))
    builder.node("Add", bias, builder.node("MatMul", rows, weight), name="ctc_logits")
    builder.node("Identity", lengths, name="encoder_out_lens")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        builder.nodes,
        "main_graph",
        [
            value("speech", TensorProto.FLOAT, ["batch_size", "feats_length", sizes.features]),
            value("speech_lengths", TensorProto.INT32, ["batch_size"]),
            value("language", TensorProto.INT32, ["batch_size"]),
            value("textnorm", TensorProto.INT32, ["batch_size"]),
        ],
        [
            value("ctc_logits", TensorProto.FLOAT, ["batch_size", "logits_length", sizes.pieces]),
            value("encoder_out_lens", TensorProto.INT32, ["batch_size"]),
        ],
        builder.weights,
    )
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(
        graph, opset_imports=[opset], ir_version=8, producer_name="sensestream"
    )


def set_head_bias(model: onnx.ModelProto, values: NDArray[np.float32]) -> None:
    """Replace the bias of the last layer, float32[pieces]."""
    for tensor in model.graph.initializer:
        if tensor.name == HEAD_BIAS:
            tensor.CopyFrom(numpy_helper.from_array(values, HEAD_BIAS))
