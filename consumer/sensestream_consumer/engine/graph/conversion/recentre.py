"""Unsigned 8-bit weights as signed ones: q - 128, with its zero point moved along.

`(q - z)` and `((q - 128) - (z - 128))` are the same integer, so every product and sum is the
same to the last bit. The processor's instructions for 8-bit dot products (VNNI) take unsigned
activations and signed weights; a graph with unsigned weights goes the slow way around them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from sensestream_consumer.engine.graph.conversion.editor import Editor

__all__ = ["recentre_weights"]

_WEIGHT, _ZERO_POINT = 1, 3  # inputs of MatMulInteger


def recentre_weights(editor: Editor) -> int:
    """Re-centre the unsigned weights of every MatMulInteger; how many there were."""
    made: dict[str, str] = {}
    products = [node for node in editor.nodes if node.op_type == "MatMulInteger"]
    return sum(_recentre(editor, node, made) for node in products)


def _recentre(editor: Editor, node: NodeProto, made: dict[str, str]) -> bool:
    weight = editor.array(node.input[_WEIGHT])
    if weight is None or weight.dtype != np.uint8:
        return False
    zero_point = node.input[_ZERO_POINT] if len(node.input) > _ZERO_POINT else ""
    zero = editor.array(zero_point) if zero_point else np.zeros((), np.uint8)
    if zero is None:
        return False
    while len(node.input) <= _ZERO_POINT:
        node.input.append("")
    for index, value in ((_WEIGHT, weight), (_ZERO_POINT, zero)):
        old = node.input[index]
        if not old or old not in made:
            made[old] = editor.weight(_signed(value))
        _read(editor, node, index, made[old])
    return True


def _read(editor: Editor, node: NodeProto, index: int, name: str) -> None:
    if node.input[index]:
        editor.set_input(node, index, name)
    else:
        node.input[index] = name
        editor.readers[name].append(node)


def _signed(value: NDArray[Any]) -> NDArray[np.int8]:
    flipped: NDArray[np.int8] = (value ^ np.uint8(128)).view(np.int8)
    return flipped
