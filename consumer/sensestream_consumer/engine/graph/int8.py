"""Opens an int8 graph on a CPU in the form that runs fastest there, with the same answers.

A graph quantised as FunASR does it has unsigned weights, which takes a processor with VNNI twice
the time of signed ones. It is converted once (see `conversion`), compared with the untouched graph,
and kept; from then on each start compares it with what the untouched graph said back then. Where
signed products could saturate the weights stay unsigned, and the rest of the conversion is done.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import structlog

from sensestream_consumer.engine.graph.cpu_features import (
    multiplies_signed_exactly,
    processor_features,
)
from sensestream_consumer.engine.graph.graph import Graph
from sensestream_consumer.engine.graph.graph_cache import (
    Facts,
    GraphCache,
    default_cache_folder,
    digest_of,
    sizes_of,
)
from sensestream_consumer.engine.session import runtime_version

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from sensestream_consumer.engine.model.directory import ModelFiles
    from sensestream_consumer.engine.model.fingerprint import GraphFile

__all__ = ["CONVERSION_REVISION", "example_features", "open_cpu_graph"]

log = structlog.get_logger(__name__)

# Raised whenever the conversion changes what it writes.
CONVERSION_REVISION = 1

_CHECK_ROWS = 20  # a second of audio, at every start
_MORE_ROWS = (1, 7, 150)  # once, after a conversion
_GRAPH = "graph.onnx"
_SATURATES = "without VNNI or Arm dot product, products with signed weights may saturate"


def open_cpu_graph(
    files: ModelFiles,
    inspected: GraphFile,
    *,
    threads: int,
    cache: Path | None = None,
    features: frozenset[str] | None = None,
) -> Graph:
    """The graph on the CPU: int8 converted where that is exact, untouched otherwise.

    `cache` is the folder for converted graphs (None: the user's), `features` what the processor
    can do (None: what the kernel says).
    """
    features = processor_features() if features is None else features
    if not inspected.integer_products:
        return Graph.on_cpu(files, threads=threads)
    signed = multiplies_signed_exactly(features)
    if not signed:
        log.info("int8_signed_weights_disabled", graph=str(files.graph), reason=_SATURATES)
    store = GraphCache(cache or default_cache_folder())
    key = _key(inspected, features)
    graph = _from_cache(files, store, key, threads)
    if graph is not None:
        return graph
    try:
        with store.making(key) as scratch:
            # Another process may have made it while this one waited for its turn.
            graph = _from_cache(files, store, key, threads)
            if graph is None:
                graph = _convert(files, store, key, scratch, threads, signed=signed)
                _give_back_memory()
            return graph
    except OSError as error:  # no folder that could be written, not even a temporary one
        return _unconverted(files, f"there is no room for its conversion: {error}", threads)


def example_features(rows: int, width: int) -> NDArray[np.float32]:
    """Features for a check, float32[rows, width] in -2 to 2: the same bits on every machine."""
    numbers = np.arange(1, rows * width + 1, dtype=np.uint64)
    # A hash of the position (splitmix64's), in whole numbers: no library's generator may differ.
    numbers *= np.uint64(0x9E3779B97F4A7C15)
    numbers ^= numbers >> np.uint64(30)
    numbers *= np.uint64(0xBF58476D1CE4E5B9)
    numbers ^= numbers >> np.uint64(27)
    values = (numbers >> np.uint64(40)).astype(np.float32) / np.float32(1 << 22) - np.float32(2)
    return values.reshape(rows, width)


def _key(inspected: GraphFile, features: frozenset[str]) -> str:
    """What a converted graph depends on; the runtime fuses by version and processor."""
    facts = (CONVERSION_REVISION, inspected.digest, runtime_version(), sorted(features))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a graph says to the check's input: the best tokens, and every bit of the logits."""

    ids: list[int]
    digest: str

    @classmethod
    def of(cls, graph: Graph, rows: int = _CHECK_ROWS) -> _Answer:
        description = graph.description
        features = example_features(rows, description.options.width)
        languages, textnorms = [description.languages["auto"]], [description.with_itn]
        logits = graph.run(features[np.newaxis], [rows], languages, textnorms)
        ids = [int(number) for number in logits[0].argmax(axis=1)]
        return cls(ids, hashlib.sha256(logits.tobytes()).hexdigest())


def _from_cache(files: ModelFiles, store: GraphCache, key: str, threads: int) -> Graph | None:
    """The graph of an entry; None if there is none that is whole.

    The same logits as when it was written, to the bit, are proof enough that its weights are
    what they were; only where they differ is every byte looked at.
    """
    facts = store.find(key)
    if facts is None:
        return None
    if facts.refused:
        return _unconverted(files, facts.refused, threads)
    folder = store.path(key)
    opened = _opened(files, folder, facts, threads)
    if opened is None or (opened[1].digest != facts.answer and digest_of(folder) != facts.digest):
        log.warning("cached_model_damaged", folder=str(folder))
        store.discard(key)
        return None
    graph, answer = opened
    if answer.ids != facts.ids:
        return _unconverted(files, "on this machine it says something else than before", threads)
    return graph


def _opened(
    files: ModelFiles, folder: Path, facts: Facts, threads: int
) -> tuple[Graph, _Answer] | None:
    """The converted graph and its answer; None if its files are not those that were written."""
    # Before it is mapped: reading behind the end of a file that was cut short ends the process.
    if sizes_of(folder) != facts.sizes:
        return None
    try:
        graph = Graph.optimised(
            files, folder / _GRAPH, threads=threads, single_clip=facts.single_clip
        )
        return graph, _Answer.of(graph)
    except Exception:  # of ONNX Runtime, a class of its own per status code: made anew
        return None


def _unconverted(files: ModelFiles, reason: str, threads: int) -> Graph:
    log.warning("model_left_unconverted", graph=str(files.graph), reason=reason)
    return Graph.on_cpu(files, threads=threads)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What came of a conversion: a graph with the untouched one's answers, or the problem."""

    graph: Graph | None = None
    facts: Facts | None = None  # to keep; None after a failure, which may not come again
    problem: str = ""


def _convert(
    files: ModelFiles, store: GraphCache, key: str, scratch: Path, threads: int, *, signed: bool
) -> Graph:
    """The converted graph, kept in the cache; the untouched one where there is none."""
    log.info("converting_model", graph=str(files.graph), cache=str(store.folder), signed=signed)
    began = time.monotonic()
    untouched = Graph.on_cpu(files, threads=threads)
    attempt = partial(_attempt, files, untouched, _Answer.of(untouched), scratch, threads, signed)
    done = attempt(single_clip=True)
    if done.graph is None:
        log.debug("conversion_failed", single_clip=True, error=done.problem)
        done = attempt(single_clip=False)
    if done.facts is not None:
        store.keep(key, scratch, done.facts)
    if done.graph is None:
        log.warning("model_left_unconverted", graph=str(files.graph), reason=done.problem)
        return untouched
    log.info("model_converted", seconds=round(time.monotonic() - began, 1))
    return done.graph


def _attempt(
    files: ModelFiles,
    untouched: Graph,
    expected: _Answer,
    scratch: Path,
    threads: int,
    signed: bool,
    *,
    single_clip: bool,
) -> _Attempt:
    """Convert into the scratch folder, and compare with the untouched graph."""
    _empty(scratch)
    path = scratch / _GRAPH
    try:
        _write(files, path, untouched, signed=signed, single_clip=single_clip)
        graph = Graph.optimised(files, path, threads=threads, single_clip=single_clip)
        answer = _Answer.of(graph)
        same = answer.ids == expected.ids and all(
            _Answer.of(graph, rows).ids == _Answer.of(untouched, rows).ids for rows in _MORE_ROWS
        )
    except Exception as error:  # of onnx, of the runtime, of the disk: the model works without
        return _Attempt(problem=f"its conversion failed: {error}")
    if not same:
        _empty(scratch)
        refused = "converted, it says something else than the untouched graph"
        return _Attempt(facts=Facts(expected.ids, refused=refused), problem=refused)
    facts = Facts(
        expected.ids,
        single_clip=single_clip,
        answer=answer.digest,
        sizes=sizes_of(scratch),
        digest=digest_of(scratch),
    )
    return _Attempt(graph, facts)


def _empty(folder: Path) -> None:
    """Unlink what is there; never write over it, since a graph may still be mapped from it."""
    for path in folder.iterdir():
        path.unlink()


def _give_back_memory() -> None:
    """A conversion leaves 700 MB with the C library, which would keep them for the next one."""
    with contextlib.suppress(OSError, AttributeError):  # not on every system
        ctypes.CDLL(None).malloc_trim(0)


def _write(
    files: ModelFiles, path: Path, untouched: Graph, *, signed: bool, single_clip: bool
) -> None:
    # Loads the onnx package, which a worker that finds its graph in the cache never needs.
    from sensestream_consumer.engine.graph.conversion import convert_graph

    width = untouched.description.options.width

    def feed(rows: int) -> dict[str, NDArray[np.generic]]:
        return untouched.feed_one(example_features(rows, width))

    lengths = untouched.contract.lengths
    convert_graph(
        files.graph, path, lengths=lengths, feed=feed, signed=signed, single_clip=single_clip
    )
