"""Conversion of an int8 graph: into the form that a CPU runs fastest, or into one for batches.

Imported, and `onnx` with it, only when a model is converted: a worker that finds the result in
its cache never loads it.
"""

from sensestream_consumer.engine.graph.conversion.convert import convert_for_batches, convert_graph

__all__ = ["convert_for_batches", "convert_graph"]
