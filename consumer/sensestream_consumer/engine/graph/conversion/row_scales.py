"""Activations of 8-bit products quantised row by row, not with one scale for a whole batch.

`DynamicQuantizeLinear` looks for the largest value among all that it is given: a clip's integers
then depend on how loud its batch neighbours are, and so do its tokens. Here each row (one step of
time of one clip) has a scale of its own. The zero point is the same for all rows, since products
take no other: the middle of the range, or zero where the values come out of a ReLU and none is
negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import GraphProto, NodeProto

    from sensestream_consumer.engine.graph.conversion.editor import Editor

__all__ = ["quantise_by_row", "scaled_together"]

_WEIGHT, _WEIGHT_ZERO = 1, 3  # inputs of MatMulInteger
_AXES_ARE_AN_INPUT = 18  # of ReduceMax, from this version of the operators on
_SILENCE = 1e-20  # the largest value of a row of zeros, whose scale is then no division by zero


@dataclass(frozen=True, slots=True)
class _Rows:
    """A quantised value: its integers, one scale a row ([..., 1]), and the zero point of all."""

    integers: str
    scales: str
    zero: str


def quantise_by_row(editor: Editor) -> int:
    """Give every row of what a MatMulInteger takes its own scale; how many products there were.

    A product of another form than the usual one stays as it is (see `scaled_together`).
    """
    done: dict[str, _Rows] = {}
    products = [node for node in editor.nodes if node.op_type == "MatMulInteger"]
    return sum(_by_row(editor, node, done) for node in products)


def scaled_together(graph: GraphProto) -> list[str]:
    """The operators of a graph that find one scale for all they are given."""
    return [node.op_type for node in _all_nodes(graph) if node.op_type.startswith("DynamicQuant")]


def _by_row(editor: Editor, product: NodeProto, done: dict[str, _Rows]) -> bool:
    """`Mul(Cast(MatMulInteger(x, w)), Mul(scale of x, scales of w))`, with scales of x's rows."""
    quantise = editor.maker(product.input[0], "DynamicQuantizeLinear")
    cast = editor.reader(product.output[0], "Cast")
    scaled = None if cast is None else editor.reader(cast.output[0], "Mul")
    if quantise is None or cast is None or scaled is None:
        return False
    both = editor.maker(_other(scaled, cast.output[0]), "Mul")
    if both is None or quantise.output[1] not in both.input or scaled.output[0] in editor.outputs:
        return False
    value = quantise.input[0]
    if value not in done:
        done[value] = _quantised(editor, value)
    rows = done[value]
    weight_zero = product.input[_WEIGHT_ZERO] if len(product.input) > _WEIGHT_ZERO else ""
    integers = editor.add(
        "MatMulInteger", rows.integers, product.input[_WEIGHT], rows.zero, weight_zero
    )
    floats = editor.add("Cast", integers, to=TensorProto.FLOAT)
    floats = editor.add("Mul", floats, _other(both, quantise.output[1]))
    editor.replace(scaled.output[0], editor.add("Mul", floats, rows.scales))
    return True


def _quantised(editor: Editor, value: str) -> _Rows:
    positive = editor.maker(value, "Relu") is not None
    sizes = value if positive else editor.add("Abs", value)
    largest = editor.add("Max", _largest(editor, sizes), editor.weight(np.float32(_SILENCE)))
    steps = editor.weight(np.float32(255 if positive else 127))
    zero = editor.weight(np.uint8(0 if positive else 128))
    shares = editor.add("Mul", value, editor.add("Div", steps, largest))
    integers = editor.add("QuantizeLinear", shares, editor.weight(np.float32(1)), zero)
    return _Rows(integers, editor.add("Div", largest, steps), zero)


def _largest(editor: Editor, sizes: str) -> str:
    if editor.opset < _AXES_ARE_AN_INPUT:
        return editor.add("ReduceMax", sizes, axes=[-1], keepdims=1)
    return editor.add("ReduceMax", sizes, editor.weight(np.array([-1], np.int64)), keepdims=1)


def _other(node: NodeProto, name: str) -> str:
    """The other one of a node's two inputs."""
    return str(node.input[1] if node.input[0] == name else node.input[0])


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for item in node.attribute:
            if item.HasField("g"):
                yield from _all_nodes(item.g)
