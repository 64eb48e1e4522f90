"""Which form of a model's graph runs: by device, and by whether clips run in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensestream_common.contract.errors import ModelError

from sensestream_consumer.engine.graph.graph import Graph
from sensestream_consumer.engine.graph.int8 import open_cpu_graph
from sensestream_consumer.engine.graph.int8_batches import open_batching_graph

if TYPE_CHECKING:
    from pathlib import Path

    from sensestream_consumer.engine.model.directory import ModelFiles
    from sensestream_consumer.engine.model.fingerprint import GraphFile

__all__ = ["open_graph", "precision_of"]


def open_graph(
    files: ModelFiles,
    inspected: GraphFile,
    device: str,
    *,
    threads: int,
    batched: bool,
    gpu_mem_limit: int,
    cache: Path | None,
) -> Graph:
    """The graph on a device that `choose_device` gave; `ModelError` where it cannot run there."""
    if device == "cpu":
        if batched:
            return open_batching_graph(files, inspected, threads=threads)
        return open_cpu_graph(files, inspected, threads=threads, cache=cache)
    if inspected.integer:
        raise ModelError(
            f"{files.graph} computes in 8-bit integers, for which CUDA has no kernels: put the "
            f"float graph as model.onnx into {files.graph.parent}, or set SENSESTREAM_DEVICE=cpu"
        )
    return Graph.reduced(files, device=device, threads=threads, gpu_mem_limit=gpu_mem_limit)


def precision_of(inspected: GraphFile, graph: Graph) -> str:
    """`int8`, `int8-rows`, `fp16` or `fp32`: with the graph's bytes, what decides its answers."""
    if inspected.integer:
        return "int8-rows" if graph.row_scaled else "int8"
    return "fp16" if graph.half_precision else "fp32"
