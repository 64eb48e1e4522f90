"""What a recogniser's answers depend on, as one digest: part of every cached result's identity."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sensestream_common.contract.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sensestream_consumer.engine.model.graph_contract import Description
    from sensestream_consumer.engine.model.vocabulary import Vocabulary

__all__ = ["ENGINE_REVISION", "GraphFile", "fingerprint", "inspect_graph"]

# Raised whenever a change of the engine changes answers: old results are then not found again.
ENGINE_REVISION = 2

_CHUNK = 1 << 18  # larger ones cost more in page faults than they save in calls
_LFS_POINTER = b"version https://git-lfs"
_INTEGER_PRODUCT = b"MatMulInteger"
# In DynamicQuantizeLinear, QuantizeLinear, DequantizeLinear: a graph with any of these would be
# computed by CUDA on the CPU, node by node.
_QUANTISED = b"uantizeLinear"


@dataclass(frozen=True, slots=True)
class GraphFile:
    """What a look at a graph's bytes told."""

    digest: str  # hex SHA-256 of the file and of the weights kept beside it
    integer: bool  # whether its weights are 8-bit integers, or more than its weights
    integer_products: bool  # whether it multiplies 8-bit integers, with scales found as it runs


def inspect_graph(graph: Path) -> GraphFile:
    """Reads the graph once, whatever its size, in bounded memory; `ModelError` if it cannot.

    Weights kept beside it (`model.onnx.data`, `model.onnx_data`) are part of it.
    """
    digest = hashlib.sha256()
    missing = {_INTEGER_PRODUCT, _QUANTISED}
    longest = max(map(len, missing))
    for path in (graph, *sorted(graph.parent.glob(f"{graph.name}[._]*"))):
        before = b""
        for chunk in _chunks(path):
            digest.update(chunk)
            missing -= {
                name for name in missing if name in chunk or name in before + chunk[:longest]
            }
            before = chunk[-longest:]
    products = _INTEGER_PRODUCT not in missing
    return GraphFile(digest.hexdigest(), products or _QUANTISED not in missing, products)


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                if chunk.startswith(_LFS_POINTER):
                    raise ModelError(
                        f"{path} is a Git LFS pointer and not the model itself: fetch it with "
                        "`git lfs pull`"
                    )
                yield chunk
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def fingerprint(
    graph: GraphFile,
    vocabulary: Vocabulary,
    description: Description,
    *,
    precision: str,
    cutting: str,
) -> str:
    """32 hex digits that change with anything that may change an answer."""
    digest = hashlib.sha256()
    facts = {
        "revision": ENGINE_REVISION,
        "graph": graph.digest,
        "precision": precision,
        "cutting": cutting,
        "frontend": asdict(description.options),
        "languages": dict(description.languages),
        "itn": [description.with_itn, description.without_itn],
        "pieces": vocabulary.tokens,
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for statistics in (description.cmvn.shift, description.cmvn.scale):
        digest.update(statistics.astype("<f4").tobytes())
    return digest.hexdigest()[:32]
