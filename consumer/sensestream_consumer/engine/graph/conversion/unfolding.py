"""Depthwise convolutions along time as plain products, for a GPU.

cuDNN plans a convolution anew whenever the shape differs from the last one's: about 0.9 ms for
each of SenseVoice's seventy on an H100, more than all their arithmetic, and batches hardly ever
have the shape of the one before. A product has no plan, and adds in the same order
whichever clips share the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sensestream_consumer.engine.graph.conversion.editor import attribute

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from sensestream_consumer.engine.graph.conversion.editor import Editor

__all__ = ["unfold_convolutions"]


def unfold_convolutions(editor: Editor) -> int:
    """Replace every convolution of a channel by itself over [clips, channels, rows]; how many.

    What has a stride, a gap or a bias stays as it is.
    """
    if editor.opset < 13:  # Squeeze took its axes otherwise
        return 0
    windows: dict[int, str] = {}  # by width: all blocks of the encoder have the same rows
    found = [node for node in editor.nodes if node.op_type == "Conv"]
    return sum(_unfold(editor, node, windows) for node in found)


def _unfold(editor: Editor, node: NodeProto, windows: dict[int, str]) -> bool:
    weight = editor.array(node.input[1])
    if weight is None or not _is_plain(node, weight):
        return False
    rows, width = _padded(editor, node), int(weight.shape[2])
    if width not in windows:
        windows[width] = _windows(editor, rows, width)
    seen = editor.add("Gather", rows, windows[width], axis=2)  # [clips, channels, rows, width]
    taps = editor.weight(np.ascontiguousarray(weight.transpose(0, 2, 1)))
    summed = editor.add("MatMul", seen, taps)
    last = editor.weight(np.array([3], np.int64))
    editor.replace(node.output[0], editor.add("Squeeze", summed, last))
    return True


def _is_plain(node: NodeProto, weight: NDArray[Any]) -> bool:
    return (
        weight.ndim == 3
        and weight.shape[1] == 1
        and len(node.input) == 2
        and attribute(node, "group", 1) == weight.shape[0]
        and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
        and attribute(node, "strides", [1]) == [1]
        and attribute(node, "dilations", [1]) == [1]
    )


def _padded(editor: Editor, node: NodeProto) -> str:
    before, after = attribute(node, "pads", [0, 0])
    if not before and not after:
        return str(node.input[0])
    return editor.add(
        "Pad", node.input[0], editor.weight(np.array([0, 0, before, 0, 0, after], np.int64))
    )


def _windows(editor: Editor, value: str, width: int) -> str:
    """Which rows each row is made of: int64[rows, width]."""
    zero, one = (editor.weight(np.array(number, np.int64)) for number in (0, 1))
    axis = editor.weight(np.array(2, np.int64))
    rows = editor.add("Gather", editor.add("Shape", value), axis)
    first = editor.add("Sub", rows, editor.weight(np.array(width - 1, np.int64)))
    starts = editor.add("Range", zero, first, one)
    column = editor.add("Unsqueeze", starts, editor.weight(np.array([1], np.int64)))
    return editor.add("Add", column, editor.weight(np.arange(width, dtype=np.int64)[np.newaxis]))
