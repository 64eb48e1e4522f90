"""Attention without copies: heads are read where they lie.

An exporter moves heads before rows, multiplies, and moves them back; ONNX Runtime's products
take strides instead, and add the same numbers in the same order. Works on a graph for one clip
(see `single_clip`); what has another form stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sensestream_consumer.engine.graph.conversion.editor import attribute

if TYPE_CHECKING:
    from onnx import NodeProto

    from sensestream_consumer.engine.graph.conversion.editor import Editor

__all__ = ["fuse_attention"]

_RUNTIME = "com.microsoft"


@dataclass(frozen=True, slots=True)
class _Heads:
    """A value [1, rows, heads x width] that an exporter took apart by heads."""

    value: str
    heads: int
    width: int
    scale: float


def fuse_attention(editor: Editor) -> int:
    """Let every attention read its heads in place; how many there were."""
    softmaxes = [node for node in editor.nodes if node.op_type == "Softmax"]
    return sum(_fuse(editor, node) for node in softmaxes)


def _fuse(editor: Editor, softmax: NodeProto) -> bool:
    scores = editor.maker(softmax.input[0], "MatMul")
    mixed = editor.reader(softmax.output[0], "MatMul")
    if scores is None or mixed is None or attribute(softmax, "axis", -1) not in (-1, 3):
        return False
    query = _heads(editor, scores.input[0], [0, 2, 1, 3])
    key = _heads(editor, scores.input[1], [0, 2, 3, 1])
    value = _heads(editor, mixed.input[1], [0, 2, 1, 3])
    back = editor.reader(mixed.output[0], "Transpose")
    if query is None or key is None or value is None or back is None:
        return False
    joined = editor.reader(back.output[0], "Reshape")
    same = (query.heads, query.width) == (key.heads, key.width) == (value.heads, value.width)
    if joined is None or not same or attribute(back, "perm") != [0, 2, 1, 3]:
        return False
    inputs = [_apart(editor, part) for part in (query, key, value)]
    products = editor.add(
        "FusedMatMul",
        inputs[0],
        inputs[1],
        domain=_RUNTIME,
        alpha=query.scale * key.scale,
        transB=1,
        transBatchA=1,
        transBatchB=1,
    )
    weights = editor.add("Softmax", products, axis=2)
    attended = editor.add("FusedMatMul", weights, inputs[2], domain=_RUNTIME, transBatchB=1)
    rows = editor.add("Transpose", attended, perm=[1, 0, 2])
    shape = editor.weight(np.array([1, -1, value.heads * value.width], np.int64))
    editor.replace(joined.output[0], editor.add("Reshape", rows, shape))
    return True


def _apart(editor: Editor, part: _Heads) -> str:
    shape = editor.weight(np.array([-1, part.heads, part.width], np.int64))
    return editor.add("Reshape", part.value, shape)


def _heads(editor: Editor, name: str, order: list[int]) -> _Heads | None:
    """The value behind `[Mul by a number](Transpose(Reshape(value)))`, in either order."""
    name, scale = _unscaled(editor, name)
    transposed = editor.maker(name, "Transpose")
    if transposed is None or attribute(transposed, "perm") != order:
        return None
    name, inner = _unscaled(editor, transposed.input[0])
    reshaped = editor.maker(name, "Reshape")
    shape = None if reshaped is None else editor.array(reshaped.input[1])
    if reshaped is None or shape is None or shape.shape != (4,) or (shape[2:] <= 0).any():
        return None
    if shape[0] != 1:  # not a graph for one clip
        return None
    return _Heads(reshaped.input[0], int(shape[2]), int(shape[3]), scale * inner)


def _unscaled(editor: Editor, name: str) -> tuple[str, float]:
    """The value that is multiplied by a known number, and that number."""
    product = editor.maker(name, "Mul")
    if product is not None:
        for index in (0, 1):
            number = editor.array(product.input[index])
            if number is not None and number.size == 1:
                return product.input[1 - index], float(number.reshape(-1)[0])
    return name, 1.0
