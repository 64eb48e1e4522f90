"""One integer product for query, key and value becomes three, so that nothing is copied apart.

The activations are quantised once, as before; each output channel has its own scale and zero
point, so the three products give the same numbers as the one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sensestream_consumer.engine.conversion.editor import attribute

if TYPE_CHECKING:
    from onnx import NodeProto

    from sensestream_consumer.engine.conversion.editor import Editor

__all__ = ["split_projections"]


@dataclass(frozen=True, slots=True)
class _Projection:
    """`Add(Mul(Cast(MatMulInteger), Mul(scale, scales)), bias)`, as the quantiser writes it."""

    product: NodeProto
    cast: NodeProto
    activation_scale: str
    scales: str  # one a channel
    bias: str  # one a channel


def split_projections(editor: Editor) -> int:
    """Split every product whose result is taken apart at once; how many there were."""
    splits = [node for node in editor.nodes if node.op_type == "Split"]
    return sum(_split(editor, node) for node in splits)


def _split(editor: Editor, split: NodeProto) -> bool:
    sizes = editor.array(split.input[1]) if len(split.input) > 1 else None
    projection = _projection(editor, split.input[0])
    if sizes is None or projection is None or attribute(split, "axis", 0) not in (-1, 2):
        return False
    stop = 0
    for name, size in zip(list(split.output), sizes.tolist(), strict=True):
        start, stop = stop, stop + size
        editor.replace(name, _part(editor, projection, slice(start, stop)))
    return True


def _projection(editor: Editor, name: str) -> _Projection | None:
    for scaled, bias in _either(editor, name, "Add"):
        for cast_name, factor in _either(editor, scaled, "Mul"):
            cast = editor.maker(cast_name, "Cast")
            product = editor.maker(cast.input[0], "MatMulInteger") if cast else None
            for scale, scales in _either(editor, factor, "Mul"):
                constants = [editor.array(part) for part in (bias, scales)]
                if cast and product and all(c is not None and c.ndim == 1 for c in constants):
                    return _Projection(product, cast, scale, scales, bias)
    return None


def _either(editor: Editor, name: str, operator: str) -> list[tuple[str, str]]:
    """The two inputs of the node that makes a value, in both orders."""
    node = editor.maker(name, operator)
    return [] if node is None else [(node.input[0], node.input[1]), (node.input[1], node.input[0])]


def _part(editor: Editor, projection: _Projection, channels: slice) -> str:
    activation, weight, activation_zero, weight_zero = projection.product.input
    product = editor.add(
        "MatMulInteger",
        activation,
        _slice(editor, weight, channels),
        activation_zero,
        _slice(editor, weight_zero, channels),
    )
    cast = editor.add("Cast", product, to=attribute(projection.cast, "to"))
    factor = editor.add(
        "Mul", projection.activation_scale, _slice(editor, projection.scales, channels)
    )
    return editor.add(
        "Add", editor.add("Mul", cast, factor), _slice(editor, projection.bias, channels)
    )


def _slice(editor: Editor, name: str, channels: slice) -> str:
    value = editor.array(name)
    if value is None or value.ndim == 0:  # one for all channels
        return name
    return editor.weight(value[..., channels].copy())
