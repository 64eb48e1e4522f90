"""A graph for one clip that fills its tensor: no masks, no shapes computed on the way.

Where no row is padding, the masks hide nothing and most shapes are known. Which ones is found by
running the graph on single clips of several lengths and looking at the values that do not depend
on what was said; what is the same every time is written down as a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from onnx import NodeProto

    from sensestream_consumer.engine.graph.conversion.editor import Editor

    # Values by name, for one clip of so many rows.
    Probe = Callable[[int, Sequence[str]], list[NDArray[Any]]]

__all__ = ["PROBED_ROWS", "specialise"]

# Lengths with nothing in common, so that no shape looks constant by chance.
PROBED_ROWS = (3, 8, 19)
_SHAPES = frozenset({"Shape", "Size"})
_LARGEST = 1 << 16  # values; masks and shapes are small


@dataclass(frozen=True, slots=True)
class _Use:
    """A node that depends on what was said, reading a value that does not."""

    node: NodeProto
    index: int

    @property
    def name(self) -> str:
        return str(self.node.input[self.index])


def specialise(editor: Editor, lengths: str, probe: Probe) -> int:
    """Drop masks and write down shapes; how many. `lengths` is the input with clips' lengths."""
    uses = _uses(editor, lengths)
    names = sorted({use.name for use in uses})
    if not names:
        return 0
    runs = [dict(zip(names, probe(rows, names), strict=True)) for rows in PROBED_ROWS]
    done = 0
    for use in uses:
        values = [run[use.name] for run in runs]
        if all(value.size <= _LARGEST for value in values):
            done += _simplify(editor, use, values)
    return done


def _uses(editor: Editor, lengths: str) -> list[_Use]:
    """Where structure (lengths, shapes and what is computed from them) meets content."""
    structural = {lengths, "", *editor.weights}
    content = []
    for node in editor.nodes:
        inner = any(item.HasField("g") for item in node.attribute)
        if not inner and (
            node.op_type in _SHAPES or all(name in structural for name in node.input)
        ):
            structural.update(node.output)
        else:
            content.append(node)
    computed = structural - {lengths, "", *editor.weights}
    return [
        _Use(node, index)
        for node in content
        for index, name in enumerate(node.input)
        if name in computed and (node.op_type, index) in _HANDLED
    ]


def _simplify(editor: Editor, use: _Use, values: list[NDArray[Any]]) -> bool:
    node, index = use.node, use.index
    if node.op_type == "Reshape":
        return _write_shape(editor, use, values)
    if node.op_type == "Where":
        if not any(value.any() for value in values):
            return _pass(editor, node, 2)
        return all(value.all() for value in values) and _pass(editor, node, 1)
    neutral = 1 if node.op_type == "Mul" else 0
    return all((value == neutral).all() for value in values) and _pass(editor, node, 1 - index)


_HANDLED = frozenset({("Where", 0), ("Reshape", 1)}) | {
    (operator, index) for operator in ("Mul", "Add") for index in (0, 1)
}


def _pass(editor: Editor, node: NodeProto, index: int) -> bool:
    """Let the readers of a node read one of its inputs instead."""
    if node.output[0] in editor.outputs:
        return False
    editor.replace(node.output[0], node.input[index])
    return True


def _write_shape(editor: Editor, use: _Use, values: list[NDArray[Any]]) -> bool:
    """A shape that is the same for every length but for one axis, which Reshape can infer."""
    shapes = np.stack(values)
    varying = np.flatnonzero((shapes != shapes[0]).any(axis=0))
    shape = shapes[0].astype(np.int64)
    if varying.size > 1 or (varying.size == 1 and (shape == -1).any()):
        return False
    shape[varying] = -1
    editor.set_input(use.node, use.index, editor.weight(shape))
    return True
