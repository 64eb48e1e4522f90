"""Weights as signed 8-bit integers, arithmetic in floating point.

Dynamic quantisation takes one scale over all activations of a batch, so that a clip's answer
depends on its company. Here only the weights are integers, each output channel with a scale of
its own; the graph turns them back into floats before they are used. Of a network this small
that costs no time worth saving, and a clip gives the same tokens alone and in a batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["quantise_weights"]

# Below this many values (biases, norms) the scales would weigh more than is saved.
_SMALLEST = 1024
_LARGEST_INTEGER = 127.0


def quantise_weights(source: Path, target: Path) -> None:
    """Write `source` with its matrices and kernels as int8 and one scale per output channel."""
    model = onnx.load(str(source))
    axes = _channel_axes(model.graph)
    kept, nodes = [], []
    for tensor in model.graph.initializer:
        if tensor.name not in axes:
            kept.append(tensor)
            continue
        axis = axes[tensor.name]
        integers, scales = _to_integers(numpy_helper.to_array(tensor), axis)
        names = [f"{tensor.name}.{part}" for part in ("int8", "scale", "zero")]
        zeros = np.zeros(len(scales), dtype=np.int8)
        arrays: list[NDArray[Any]] = [integers, scales, zeros]
        kept.extend(map(numpy_helper.from_array, arrays, names))
        nodes.append(helper.make_node("DequantizeLinear", names, [tensor.name], axis=axis))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    operations = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes + operations)
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def _channel_axes(graph: onnx.GraphProto) -> dict[str, int]:
    """Output-channel axis of each initializer worth quantising, by the operator that takes it."""
    large = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) >= _SMALLEST
    }
    axes: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            if name not in large:
                continue
            if node.op_type == "MatMul":
                axes[name] = 1
            elif node.op_type == "Gemm":
                axes[name] = 0 if _attribute(node, "transB") else 1
            elif node.op_type in ("Conv", "Gather"):
                axes[name] = 0
    return axes


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), 0)


def _to_integers(
    values: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    other = tuple(number for number in range(values.ndim) if number != axis)
    largest = np.maximum(np.abs(values).max(axis=other, keepdims=True), 1e-12)
    scales = (largest / _LARGEST_INTEGER).astype(np.float32)
    integers = np.clip(np.rint(values / scales), -_LARGEST_INTEGER, _LARGEST_INTEGER)
    return integers.astype(np.int8), scales.reshape(-1)
