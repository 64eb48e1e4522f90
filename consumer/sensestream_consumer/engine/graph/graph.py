"""A SenseVoice graph in a session: one contract to the outside, whichever export it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sensestream_common.contract.errors import ModelError

from sensestream_consumer.engine.decoding.ctc import TAG_ROWS, Rows, best_rows, rows_of
from sensestream_consumer.engine.graph.reduction import BEST_IDS, BEST_PROBABILITIES, with_best_rows
from sensestream_consumer.engine.model.graph_contract import contract_of, describe
from sensestream_consumer.engine.session import open_session, quiet_run_options, session_device

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sensestream_consumer.engine.model.directory import ModelFiles

__all__ = ["Graph"]

_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
}
_PROBE_ROWS = 4  # a quarter of a second: the smallest audio that is worth the name


class Graph:
    """A graph in one of three forms, one constructor each. Threads may call `run` at the same time.

    Attributes:
        tokens: width of the logits, one for each token of the vocabulary.
        device: `cpu` or `cuda:<index>`, the one that ONNX Runtime really gives.
        single_clip: a run takes one clip without padding, since the graph computes no masks.
        row_scaled: each row has its own activation scale, so that answers differ from those of
            the file's graph (see `int8_batches`).
        accepts_padding: rows may be padded beyond the longest clip of a batch. Older exports
            make their mask as wide as the longest clip, and a wider input is a shape error.
    """

    def __init__(
        self,
        files: ModelFiles,
        session: Any,
        *,
        reduces: bool = False,
        single_clip: bool = False,
        row_scaled: bool = False,
    ) -> None:
        self._path = files.graph
        self._session = session
        self._reduces = reduces
        self.single_clip = single_clip
        self.row_scaled = row_scaled
        inputs = {node.name: node for node in self._session.get_inputs()}
        outputs = [node.name for node in self._session.get_outputs()]
        self.contract = contract_of(files.graph, list(inputs), outputs)
        metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self.description = describe(self.contract, files, metadata)
        self._types = [self._type_of(inputs[name]) for name in self.contract.inputs]
        self._check_width(inputs[self.contract.features].shape)
        self.device = session_device(self._session)
        self.tokens = self._probe_tokens()
        self.accepts_padding = not single_clip and self._probe_padding()

    @classmethod
    def on_cpu(cls, files: ModelFiles, *, threads: int, row_scaled: bytes | None = None) -> Self:
        """The model's own graph, or in its place one with an activation scale for each row."""
        session = open_session(files.graph, "cpu", threads, content=row_scaled)
        return cls(files, session, row_scaled=row_scaled is not None)

    @classmethod
    def optimised(cls, files: ModelFiles, path: Path, *, threads: int, single_clip: bool) -> Self:
        """A converted graph that ONNX Runtime has optimised for this CPU already."""
        session = open_session(path, "cpu", threads, optimise=False)
        return cls(files, session, single_clip=single_clip)

    @classmethod
    def reduced(
        cls, files: ModelFiles, *, device: str, threads: int, gpu_mem_limit: int = 0
    ) -> Self:
        """The graph for a GPU: it takes the best token of each row itself.

        `gpu_mem_limit` is the most bytes of the GPU's memory that the session takes, 0 for all.
        """
        content = with_best_rows(files.graph)
        session = open_session(
            files.graph, device, threads, content=content, gpu_mem_limit=gpu_mem_limit
        )
        return cls(files, session, reduces=True)

    @property
    def half_precision(self) -> bool:
        """Whether the graph takes 16-bit floats."""
        return self._types[0] == np.float16

    def run(
        self,
        features: NDArray[np.float32],
        lengths: Sequence[int],
        languages: Sequence[int],
        textnorms: Sequence[int],
        *,
        options: Any = None,
    ) -> NDArray[np.float32]:
        """Raw logits, float32[clips, 4 + rows, tokens], of float32[clips, rows, width].

        The other three have one number a clip. What ONNX Runtime raises comes through.
        """
        if self.single_clip and list(lengths) != [features.shape[1]]:
            raise ValueError(f"lengths are {list(lengths)}: this graph takes one clip, unpadded")
        feed = self._feed(features, lengths, languages, textnorms)
        (logits,) = self._session.run([self.contract.logits], feed, options)
        return np.asarray(logits, dtype=np.float32)

    def best(
        self,
        features: NDArray[np.float32],
        lengths: Sequence[int],
        languages: Sequence[int],
        textnorms: Sequence[int],
    ) -> list[Rows]:
        """The best token of each row of each clip, padding left out; arguments as for `run`."""
        ends = [TAG_ROWS + length for length in lengths]
        if not self._reduces:
            logits = self.run(features, lengths, languages, textnorms)
            return [rows_of(clip[:end]) for clip, end in zip(logits, ends, strict=True)]
        ids, probabilities = self._bound(self._feed(features, lengths, languages, textnorms))
        clips = zip(ids, probabilities, ends, strict=True)
        return [best_rows(clip[:end], share[:end]) for clip, share, end in clips]

    def feed_one(self, features: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The inputs, by name, for one clip's rows, float32[rows, width]."""
        language = self.description.languages["auto"]
        return self._feed(
            features[np.newaxis], [features.shape[0]], [language], [self.description.with_itn]
        )

    def _feed(self, *values: Any) -> dict[str, NDArray[Any]]:
        return {
            name: np.ascontiguousarray(value, dtype=dtype)
            for name, value, dtype in zip(self.contract.inputs, values, self._types, strict=True)
        }

    def _bound(self, feed: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Best tokens and probabilities; of all outputs only these two come back to the host."""
        binding = self._session.io_binding()
        for name, value in feed.items():
            binding.bind_cpu_input(name, value)
        for name in (BEST_IDS, BEST_PROBABILITIES):
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        ids, probabilities = binding.copy_outputs_to_cpu()
        return ids, probabilities

    def _type_of(self, node: Any) -> np.dtype[Any]:
        if node.type not in _TYPES:
            raise ModelError(
                f"{self._path}: input {node.name} is a {node.type}, expected one of "
                f"{', '.join(_TYPES)}"
            )
        return _TYPES[node.type]

    def _check_width(self, shape: list[int | str | None]) -> None:
        width = self.description.options.width
        if len(shape) != 3 or (isinstance(shape[2], int) and shape[2] != width):
            raise ModelError(
                f"{self._path}: input {self.contract.features} has the shape {shape}, expected "
                f"[clips, rows, {width}] (mel bins times stacked frames of its configuration)"
            )

    def _probe_tokens(self) -> int:
        try:
            logits = self._probe(_PROBE_ROWS)
        except Exception as error:  # onnxruntime raises a class of its own per status code
            raise ModelError(f"{self._path} does not run on {self.device}: {error}") from error
        if logits.ndim != 3 or logits.shape[:2] != (1, TAG_ROWS + _PROBE_ROWS):
            raise ModelError(
                f"{self._path}: {self.contract.logits} has the shape {list(logits.shape)} for "
                f"{_PROBE_ROWS} rows, expected [1, {TAG_ROWS + _PROBE_ROWS}, tokens]"
            )
        return int(logits.shape[2])

    def _probe_padding(self) -> bool:
        rows = _PROBE_ROWS + 2
        try:
            logits = self._probe(rows, options=quiet_run_options())
        except Exception:  # the older mask: a shape error is the answer
            return False
        return logits.shape[1] == TAG_ROWS + rows

    def _probe(self, rows: int, options: Any = None) -> NDArray[np.float32]:
        """One clip of `_PROBE_ROWS` rows, padded to `rows`."""
        features = np.zeros((1, rows, self.description.options.width), np.float32)
        language = self.description.languages["auto"]
        return self.run(
            features, [_PROBE_ROWS], [language], [self.description.with_itn], options=options
        )
