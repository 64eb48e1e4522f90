"""Edits of an ONNX graph in memory: who makes a value, who reads it, what is known of it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import NodeProto, helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

__all__ = ["Editor", "attribute"]


class Editor:
    """One graph under work; nothing is written into the model before `finish`."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.outputs = [value.name for value in model.graph.output]
        self.makers: dict[str, NodeProto] = {}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        self._added = 0
        for node in model.graph.node:
            self._know(node)

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return max(int(opset.version) for opset in self.model.opset_import if not opset.domain)

    @property
    def nodes(self) -> list[NodeProto]:
        """The nodes as they are now; those that came with the model in its order."""
        return list({id(node): node for node in self.makers.values()}.values())

    def array(self, name: str) -> NDArray[Any] | None:
        """The value of a weight or of a Constant node; None for anything else."""
        if name in self.weights:
            return numpy_helper.to_array(self.weights[name])
        node = self.maker(name, "Constant")
        value = None if node is None else attribute(node, "value")
        return None if value is None else numpy_helper.to_array(value)

    def weight(self, value: NDArray[np.generic] | np.generic) -> str:
        """A new weight; its name."""
        name = self._fresh()
        self.weights[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A new node with one output; the name of that."""
        output = self._fresh()
        node = helper.make_node(operator, inputs, [output], output, domain=domain, **attributes)
        self._know(node)
        return output

    def maker(self, name: str, operator: str) -> NodeProto | None:
        """The node that makes a value, if it is one of this kind."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == operator else None

    def reader(self, name: str, operator: str) -> NodeProto | None:
        """The only node that reads a value, if it is one of this kind."""
        readers = self.readers.get(name, [])
        if len(readers) != 1 or name in self.outputs or readers[0].op_type != operator:
            return None
        return readers[0]

    def replace(self, old: str, new: str) -> None:
        """Let every node that reads `old` read `new`; what nobody reads then is forgotten."""
        for node in self.readers.pop(old, []):
            node.input[:] = [new if name == old else name for name in node.input]
            self.readers[new].append(node)
        self._forget(old)

    def set_input(self, node: NodeProto, index: int, name: str) -> None:
        """Let one node read another value."""
        self.readers[node.input[index]].remove(node)
        old, node.input[index] = node.input[index], name
        self.readers[name].append(node)
        self._forget(old)

    def finish(self) -> None:
        """Write the nodes that the outputs need, in an order that can be run."""
        order = self._order()
        read = {name for node in order for name in node.input}
        graph = self.model.graph
        del graph.node[:]
        graph.node.extend(order)
        kept = [tensor for name, tensor in self.weights.items() if name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        # Shapes that the exporter knew decide which fusions the runtime finds, and a fused norm
        # rounds otherwise: kept, so that it finds the same ones as in the untouched graph.
        made = {name for node in order for name in node.output}
        known = [value for value in graph.value_info if value.name in made]
        del graph.value_info[:]
        graph.value_info.extend(known)

    def _know(self, node: NodeProto) -> None:
        for name in node.output:
            self.makers[name] = node
        for name in node.input:
            self.readers[name].append(node)

    def _forget(self, name: str) -> None:
        """Take the makers of values that nobody reads from the readers of what they read."""
        unread = [name]
        while unread:
            name = unread.pop()
            node = self.makers.get(name)
            if node is None or any(self.readers.get(o) or o in self.outputs for o in node.output):
                continue
            for output in node.output:
                del self.makers[output]
            for source in node.input:
                self.readers[source].remove(node)
                unread.append(source)

    def _fresh(self) -> str:
        self._added += 1
        return f"sensestream_{self._added}"

    def _order(self) -> list[NodeProto]:
        """Every node after those whose values it reads; without recursion, as graphs are deep."""
        order: list[NodeProto] = []
        placed: set[str] = set()
        waiting = list(reversed(self.outputs))
        while waiting:
            node = self.makers.get(waiting[-1])
            if node is None or node.output[0] in placed:
                waiting.pop()
                continue
            missing = [
                name
                for name in node.input
                if name in self.makers and self.makers[name].output[0] not in placed
            ]
            if missing:
                waiting.extend(missing)
                continue
            waiting.pop()
            placed.add(node.output[0])
            order.append(node)
        return order


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default
