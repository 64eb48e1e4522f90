"""FSMN-VAD, FunASR's voice activity model: where in a recording somebody speaks.

The graph is the streaming one: it takes some rows and its memory of those before, so that a
recording of any length is looked at in the memory of ten seconds.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sensestream_common.contract.errors import ErrorCode, ModelError, RequestError

from sensestream_consumer.engine.frontend import SAMPLE_RATE, Cmvn, Frontend, FrontendOptions
from sensestream_consumer.engine.model.cmvn import read_cmvn
from sensestream_consumer.engine.model.fingerprint import inspect_graph
from sensestream_consumer.engine.segmentation.endpointing import utterances
from sensestream_consumer.engine.segmentation.vad_options import VadOptions, read_vad_options
from sensestream_consumer.engine.session import open_session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["FsmnVad"]

_GRAPHS = ("model.onnx", "model_quant.onnx")
_SPEECH, _CACHE, _OUT_CACHE = "speech", "in_cache", "out_cache"
_SCORES = "logits"  # probabilities in truth: the graph ends in a softmax
_ROWS_A_RUN = 1000  # ten seconds
_REVISION = 1  # raised when a change of this code moves a boundary


class FsmnVad:
    """One loaded model, always on the CPU; threads may share it.

    `identity` changes with anything that may move a boundary.
    """

    def __init__(
        self, graph: Path, options: VadOptions, frontend: FrontendOptions, cmvn: Cmvn
    ) -> None:
        self._options = options
        self._frontend = Frontend(frontend, cmvn)
        self._context = (frontend.lfr_window - 1) // 2, frontend.lfr_window // 2
        self._graph = graph
        self._session = open_session(graph, "cpu", 1)
        self._caches = self._find_caches()
        self.identity = _identity(graph, options, frontend, cmvn)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The model in `directory`: model.onnx, am.mvn and config.yaml, as FunASR publishes it.

        Raises `ModelError`, which names the file and what was expected.
        """
        if not directory.is_dir():
            raise ModelError(
                f"{directory} is no directory: expected an FSMN-VAD model "
                "(SENSESTREAM_VAD_MODEL names its directory; empty means cutting by loudness)"
            )
        graphs = [directory / name for name in _GRAPHS]
        graph = next((path for path in graphs if path.is_file()), graphs[0])
        config, statistics = directory / "config.yaml", directory / "am.mvn"
        for path in (graph, config, statistics):
            if not path.is_file():
                raise ModelError(
                    f"{directory} has no {path.name}: expected an FSMN-VAD model "
                    "(model.onnx, am.mvn, config.yaml)"
                )
        options, frontend = read_vad_options(config)
        if frontend.lfr_shift != 1:
            raise ModelError(
                f"{config}: frontend_conf.lfr_n is {frontend.lfr_shift}, expected 1: voice "
                "activity is told for every frame"
            )
        return cls(graph, options, frontend, read_cmvn(statistics, frontend.width))

    def speech(self, samples: NDArray[np.int16]) -> list[tuple[int, int]]:
        """First sample and the one after the last of each utterance in int16[n] at 16 kHz.

        Raises `RequestError` if the graph fails: that is no silence.
        """
        options = self._frontend.options
        if samples.shape[0] < options.frame_length:
            return []
        flags = np.concatenate(list(self._frames_of_speech(samples)))
        found = utterances(flags, self._options)
        shift = options.frame_shift
        # The last frame ends up to two shifts before the last sample: nothing of it is lost.
        return [
            (first * shift, samples.shape[0] if stop == flags.size else stop * shift)
            for first, stop in found
        ]

    def _frames_of_speech(self, samples: NDArray[np.int16]) -> Iterator[NDArray[np.bool_]]:
        """Whether somebody speaks in each frame, some thousand frames at a time."""
        options = self._frontend.options
        frames = (samples.shape[0] - options.frame_length) // options.frame_shift + 1
        caches = {name: np.zeros(shape, np.float32) for name, shape in self._caches.items()}
        for first in range(0, frames, _ROWS_A_RUN):
            stop = min(first + _ROWS_A_RUN, frames)
            # A row sees some frames before and after its own; at the ends they are repeated.
            low = max(0, first - self._context[0])
            high = min(frames, stop + self._context[1])
            part = samples[
                low * options.frame_shift : (high - 1) * options.frame_shift + options.frame_length
            ]
            rows = self._frontend(part)[first - low : stop - low]
            scores, caches = self._run(rows, caches)
            yield self._is_speech(scores)

    def _run(
        self, rows: NDArray[np.float32], caches: dict[str, NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        outputs = [_SCORES, *(name.replace(_CACHE, _OUT_CACHE) for name in caches)]
        feed = {_SPEECH: rows[np.newaxis], **caches}
        try:
            scores, *after = self._session.run(outputs, feed)
        except Exception as error:  # onnxruntime raises a class of its own per status code
            raise RequestError(
                ErrorCode.INTERNAL,
                f"the voice activity model {self._graph} failed on "
                f"{rows.shape[0] * self._frontend.options.frame_shift / SAMPLE_RATE:.2f} s of "
                f"audio: {error}",
            ) from error
        return scores[0], dict(zip(caches, after, strict=True))

    def _is_speech(self, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        options = self._options
        silence = scores[:, list(options.sil_pdf_ids)].astype(np.float64).sum(axis=1)
        noise = silence**options.speech_2_noise_ratio
        flags: NDArray[np.bool_] = 1.0 - silence >= noise + options.speech_noise_thres
        return flags

    def _find_caches(self) -> dict[str, tuple[int, ...]]:
        """The graph's memories and their shapes; `ModelError` if it is another graph."""
        inputs: dict[str, Any] = {node.name: node.shape for node in self._session.get_inputs()}
        outputs = {node.name for node in self._session.get_outputs()}
        caches = {name: shape for name, shape in inputs.items() if name.startswith(_CACHE)}
        wanted = {_SCORES, *(name.replace(_CACHE, _OUT_CACHE) for name in caches)}
        if set(inputs) != {_SPEECH, *caches} or not caches or not wanted <= outputs:
            raise ModelError(
                f"{self._graph} is no streaming FSMN-VAD graph: it has inputs "
                f"({', '.join(inputs)}) and outputs ({', '.join(sorted(outputs))}), expected "
                f"{_SPEECH} and {_CACHE}0, … to {_SCORES} and {_OUT_CACHE}0, …"
            )
        width = inputs[_SPEECH][-1]
        if isinstance(width, int) and width != self._frontend.options.width:
            raise ModelError(
                f"{self._graph}: {_SPEECH} is {width} wide, its configuration makes rows of "
                f"{self._frontend.options.width}"
            )
        return {
            name: tuple(size if isinstance(size, int) else 1 for size in shape)
            for name, shape in caches.items()
        }


def _identity(graph: Path, options: VadOptions, frontend: FrontendOptions, cmvn: Cmvn) -> str:
    digest = hashlib.sha256(inspect_graph(graph).digest.encode())
    digest.update(repr((_REVISION, astuple(options), astuple(frontend))).encode())
    for statistics in (cmvn.shift, cmvn.scale):
        digest.update(statistics.astype("<f4").tobytes())
    return digest.hexdigest()[:16]
