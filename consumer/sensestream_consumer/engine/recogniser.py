"""One loaded SenseVoice model: samples in, transcript out."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Self

import numpy as np
from sensestream_common.errors import ErrorCode, ModelError, RequestError

from sensestream_consumer.engine.assembly import Heard, assemble, hear
from sensestream_consumer.engine.ctc import Rows, rows_of
from sensestream_consumer.engine.fingerprint import fingerprint, inspect_graph
from sensestream_consumer.engine.frontend import SAMPLE_RATE, Frontend
from sensestream_consumer.engine.graph import Graph
from sensestream_consumer.engine.model_directory import find_model_files
from sensestream_consumer.engine.segmentation import Cutter, EnergyCutter
from sensestream_consumer.engine.session import choose_device
from sensestream_consumer.engine.vocabulary import Vocabulary, read_vocabulary

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from numpy.typing import NDArray
    from sensestream_common.transcript import Transcript

__all__ = ["Recogniser"]


class Recogniser:
    """Blocking and thread-safe: on a CPU as many threads as cores call one session.

    `name` is told in outcomes (`demo-int8`); `fingerprint` changes with anything that may change
    an answer; `device` is the one ONNX Runtime really gives; `languages` are the hints taken.
    """

    def __init__(
        self,
        graph: Graph,
        vocabulary: Vocabulary,
        cutter: Cutter,
        *,
        name: str,
        fingerprint: str,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.device = graph.device
        self.languages = frozenset(graph.description.languages)
        self._graph = graph
        self._vocabulary = vocabulary
        self._cutter = cutter
        self._frontend = Frontend(graph.description.options, graph.description.cmvn)

    @classmethod
    def load(cls, directory: Path, *, device: str = "auto", threads: int = 1) -> Self:
        """The model in `directory` on `device` (`auto`, `cpu`, `cuda`, `cuda:1`).

        The CPU prefers the int8 graph; CUDA takes only a float one, since ONNX Runtime has no
        CUDA kernels for integer graphs and would compute them node by node on the CPU.
        `threads` is the number of threads inside one run. The CUDA way has not been run on a
        GPU yet. Raises `ModelError`, which names the file or device and what was expected.
        """
        if threads < 1:
            raise ModelError(f"threads is {threads}: expected 1 or more")
        chosen = choose_device(device)
        files = find_model_files(directory, prefer_int8=chosen == "cpu")
        vocabulary = read_vocabulary(files.vocabulary)
        inspected = inspect_graph(files.graph)
        if inspected.integer and chosen != "cpu":
            raise ModelError(
                f"{files.graph} computes in 8-bit integers, for which CUDA has no kernels: put "
                f"the float graph as model.onnx into {directory}, or set SENSESTREAM_DEVICE=cpu"
            )
        graph = Graph(files, device=chosen, threads=threads)
        if graph.pieces != len(vocabulary):
            raise ModelError(
                f"{files.vocabulary} has {len(vocabulary)} pieces and the logits of "
                f"{files.graph.name} have {graph.pieces}: they belong to different models"
            )
        cutter = EnergyCutter()
        precision = "int8" if inspected.integer else "fp16" if graph.half_precision else "fp32"
        digest = fingerprint(
            inspected, vocabulary, graph.description, precision=precision, cutting=cutter.rule
        )
        name = f"{directory.resolve().name}-{precision}"
        return cls(graph, vocabulary, cutter, name=name, fingerprint=digest)

    @property
    def pads_freely(self) -> bool:
        """Whether rows may be padded beyond the longest clip of a batch (see `Graph`)."""
        return self._graph.pads_freely

    def recognise(
        self,
        samples: NDArray[np.int16],
        language: str,
        itn: bool,
        *,
        abandoned: threading.Event | None = None,
    ) -> Transcript:
        """The transcript of int16[n] samples, 16 kHz mono, of any length.

        Raises `RequestError` for a language this model does not take, for no samples at all, and
        for a clip on which the model fails. `abandoned`, once set, stops a long recording before
        its next piece: `concurrent.futures.CancelledError`.
        """
        heard = self.recognise_pieces(samples, language, itn=itn, abandoned=abandoned)
        return assemble(
            heard,
            self._vocabulary,
            self._frontend.options,
            hint=language,
            samples=samples.shape[0],
        )

    def recognise_pieces(
        self,
        samples: NDArray[np.int16],
        language: str,
        *,
        itn: bool,
        abandoned: threading.Event | None = None,
    ) -> list[Heard]:
        """What the model says about each piece of a recording, in order: ids before text."""
        if samples.dtype != np.int16 or samples.ndim != 1:
            raise TypeError(f"samples are {samples.dtype}{list(samples.shape)}, expected int16[n]")
        if language not in self.languages:
            raise RequestError(
                ErrorCode.UNSUPPORTED_LANGUAGE,
                f"language {language!r} is not one of {', '.join(sorted(self.languages))}",
            )
        if samples.shape[0] == 0:
            raise RequestError(ErrorCode.AUDIO_EMPTY, "the audio has no samples")
        heard = []
        for piece in self._cutter.cut(samples):
            if abandoned is not None and abandoned.is_set():
                raise CancelledError
            rows = self._rows(samples[piece.start : piece.stop], language, itn=itn)
            heard.append(hear(piece, rows, self._vocabulary))
        return heard

    def warm_up(self) -> None:
        """Runs once on a second of silence, so that the first request pays for nothing."""
        self.recognise(np.zeros(SAMPLE_RATE, np.int16), "auto", itn=True)

    def _rows(self, samples: NDArray[np.int16], language: str, *, itn: bool) -> Rows:
        """The best piece of each row of one piece of audio, a batch of its own."""
        features = self._frontend(samples)
        description = self._graph.description
        textnorm = description.with_itn if itn else description.without_itn
        try:
            logits = self._graph.run(
                features[np.newaxis],
                [features.shape[0]],
                [description.languages[language]],
                [textnorm],
            )
        except Exception as error:  # onnxruntime raises a class of its own per status code
            raise RequestError(
                ErrorCode.INTERNAL,
                f"the model {self.name} failed on {samples.shape[0] / SAMPLE_RATE:.2f} s of "
                f"audio: {error}",
            ) from error
        return rows_of(logits[0])
