"""Opens a graph on a CPU for batches: no clip's answer depends on its batch neighbours.

An int8 graph as FunASR quantises it finds one activation scale for a whole batch. It is converted
(see `conversion.row_scales`), in memory and at every start: batches do not pay on a CPU, so that
few will ask for them. What it says then is close to what the file's own graph says and not the
same, so its precision has a name of its own, and with it the fingerprint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import structlog
from sensestream_common.contract.errors import ModelError

from sensestream_consumer.engine.graph.cpu_features import (
    multiplies_signed_exactly,
    processor_features,
)
from sensestream_consumer.engine.graph.graph import Graph
from sensestream_consumer.engine.graph.int8 import example_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sensestream_consumer.engine.model.directory import ModelFiles
    from sensestream_consumer.engine.model.fingerprint import GraphFile

__all__ = ["open_batching_graph"]

log = structlog.get_logger(__name__)

_ROWS = (7, 20, 45, 60)  # of the clips of the check; the last is the others' neighbour
_LOUD = np.float32(8)  # how much louder that one is


def open_batching_graph(files: ModelFiles, inspected: GraphFile, *, threads: int) -> Graph:
    """Float graphs, and those with integers for weights only, as they are; others converted.

    `ModelError` for a graph in which something would still depend on the whole batch.
    """
    if not inspected.integer:
        return Graph.on_cpu(files, threads=threads)
    # Loads the onnx package, which other workers never need.
    from sensestream_consumer.engine.graph.conversion import convert_for_batches

    signed = multiplies_signed_exactly(processor_features())
    try:
        content, together = convert_for_batches(files.graph, signed=signed)
    except Exception as error:  # of onnx and of protobuf, which have no class in common
        raise ModelError(f"{files.graph} cannot be converted for batches: {error}") from error
    if together:
        raise _depends(files, f"{len(together)} {together[0]} of another form than the usual one")
    if not inspected.integer_products:
        return Graph.on_cpu(files, threads=threads)
    graph = Graph.on_cpu(files, threads=threads, row_scaled=content)
    if not _same_in_batch(graph):
        raise _depends(files, "on this machine a clip said something else in a batch")
    log.info("activations_scaled_by_row", graph=str(files.graph), signed=signed)
    return graph


def _depends(files: ModelFiles, reason: str) -> ModelError:
    return ModelError(
        f"{files.graph} computes in 8-bit integers, with one scale over a whole batch ({reason}): "
        "a clip's answer would depend on its batch neighbours. Batch the float graph, or nothing"
    )


def _same_in_batch(graph: Graph) -> bool:
    clips = [example_features(rows, graph.description.options.width) for rows in _ROWS]
    clips[-1] *= _LOUD
    batch = np.zeros((len(clips), *clips[-1].shape), np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    together = _ids(graph, batch, _ROWS)
    alone = [_ids(graph, clip[np.newaxis], [len(clip)])[0] for clip in clips]
    return all(map(np.array_equal, alone, together))


def _ids(
    graph: Graph, features: NDArray[np.float32], lengths: Sequence[int]
) -> list[NDArray[np.intp]]:
    description, clips = graph.description, len(lengths)
    languages = [description.languages["auto"]] * clips
    said = graph.best(features, lengths, languages, [description.with_itn] * clips)
    return [rows.ids for rows in said]
