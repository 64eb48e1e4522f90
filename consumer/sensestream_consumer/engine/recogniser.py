"""One loaded SenseVoice model: samples in, transcript out."""

from __future__ import annotations

import functools
import os
import threading
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Self

import numpy as np
import structlog
from sensestream_common.contract.errors import ErrorCode, ModelError, RequestError, TransientError

from sensestream_consumer.engine.batching.batcher import Batcher
from sensestream_consumer.engine.batching.queue import BUCKETS, Batch, BatchLimits, BatchStats, Clip
from sensestream_consumer.engine.decoding.ctc import Rows
from sensestream_consumer.engine.decoding.transcript import SegmentResult, assemble
from sensestream_consumer.engine.frontend import SAMPLE_RATE, Frontend
from sensestream_consumer.engine.graph.opening import open_graph, precision_of
from sensestream_consumer.engine.model.directory import find_model_files
from sensestream_consumer.engine.model.fingerprint import fingerprint, inspect_graph
from sensestream_consumer.engine.model.vocabulary import Vocabulary, read_vocabulary
from sensestream_consumer.engine.segmentation.cutters import (
    Cutter,
    EnergyCutter,
    Piece,
    SpeechCutter,
)
from sensestream_consumer.engine.segmentation.fsmn_vad import FsmnVad
from sensestream_consumer.engine.session import choose_device, lacks_memory
from sensestream_consumer.engine.thread_pool import TaskRunner, run_sequentially

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from sensestream_common.contract.transcript import Transcript

    from sensestream_consumer.engine.graph.graph import Graph

__all__ = ["Recogniser"]

log = structlog.get_logger(__name__)

# Enough that a batch of short clips fills while the one before it runs.
_CLIPS_IN_FLIGHT = 64


class Recogniser:
    """Blocking and thread-safe.

    On a CPU as many threads as cores call one session, a clip each. On a GPU one thread owns the
    session and runs the clips of all callers in batches; `clips_in_flight` is then how many
    callers keep it busy, and 1 otherwise.

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
        batching: BatchLimits | None = None,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.device = graph.device
        self.languages = frozenset(graph.description.languages)
        self._graph = graph
        self._vocabulary = vocabulary
        self._cutter = cutter
        self._frontend = Frontend(graph.description.options, graph.description.cmvn)
        # More callers than cores wait for a batch, and the first ones should get there first.
        self._preparing = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._batcher = (
            Batcher(self._run, batching, accepts_padding=graph.accepts_padding)
            if batching
            else None
        )
        self.clips_in_flight = _CLIPS_IN_FLIGHT if batching else 1

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        device: str = "auto",
        threads: int = 1,
        vad: Path | None = None,
        batching: BatchLimits | None = None,
        gpu_mem_limit: int = 0,
        cache: Path | None = None,
    ) -> Self:
        """Load a model.

        The CPU prefers the int8 graph; CUDA takes only a float one, since ONNX Runtime has no
        CUDA kernels for integer graphs and would compute them node by node on the CPU.

        Args:
            directory: the model's directory.
            device: `auto`, `cpu`, `cuda` or `cuda:<index>`.
            threads: number of threads inside one run.
            vad: directory of an FSMN-VAD model that decides where long audio is cut; without one
                its loudness does.
            batching: limits of batches. A GPU has defaults, a CPU batches only with limits. An
                int8 graph then has one activation scale a row: another precision, and so another
                fingerprint.
            gpu_mem_limit: bytes of the GPU's memory, 0 for all.
            cache: folder for graphs converted to run faster on this processor; without one the
                user's cache folder.

        Raises:
            ModelError: names the file or device, and what was expected.
        """
        if threads < 1:
            raise ModelError(f"threads is {threads}: expected 1 or more")
        chosen = choose_device(device)
        files = find_model_files(directory, prefer_int8=chosen == "cpu")
        vocabulary = read_vocabulary(files.vocabulary)
        inspected = inspect_graph(files.graph)
        graph = open_graph(
            files,
            inspected,
            chosen,
            threads=threads,
            batched=batching is not None,
            gpu_mem_limit=gpu_mem_limit,
            cache=cache,
        )
        if graph.tokens != len(vocabulary):
            raise ModelError(
                f"{files.vocabulary} has {len(vocabulary)} tokens and the logits of "
                f"{files.graph.name} have {graph.tokens}: they belong to different models"
            )
        cutter: Cutter = SpeechCutter(FsmnVad.load(vad)) if vad else EnergyCutter()
        precision = precision_of(inspected, graph)
        digest = fingerprint(
            inspected, vocabulary, graph.description, precision=precision, cutting=cutter.rule
        )
        name = f"{directory.resolve().name}-{precision}"
        batching = batching or (None if chosen == "cpu" else BatchLimits())
        return cls(graph, vocabulary, cutter, name=name, fingerprint=digest, batching=batching)

    @property
    def batch_stats(self) -> BatchStats | None:
        """What has run in batches and how much of it was padding; None without batches."""
        return self._batcher.batch_stats if self._batcher else None

    def recognise(
        self,
        samples: NDArray[np.int16],
        language: str,
        itn: bool,
        *,
        abandoned: threading.Event | None = None,
        run_tasks: TaskRunner = run_sequentially,
    ) -> Transcript:
        """Transcribe a recording of any length.

        Args:
            samples: int16[n], 16 kHz mono.
            language: one of `languages`.
            itn: whether numbers are written as digits, and with punctuation.
            abandoned: once set, stops a long recording before its next piece.
            run_tasks: runs one task for each piece; the transcript does not depend on their order.

        Raises:
            RequestError: the model does not take the language, there are no samples, or the model
                fails on them.
            TransientError: the device or the machine has no memory left.
            concurrent.futures.CancelledError: the recording was abandoned.
        """
        results = self.recognise_pieces(
            samples, language, itn=itn, abandoned=abandoned, run_tasks=run_tasks
        )
        return assemble(
            results,
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
        run_tasks: TaskRunner = run_sequentially,
    ) -> list[SegmentResult]:
        """What the model says about each piece of a recording, in order.

        Arguments and errors are those of `recognise`.
        """
        if samples.dtype != np.int16 or samples.ndim != 1:
            raise TypeError(f"samples are {samples.dtype}{list(samples.shape)}, expected int16[n]")
        if language not in self.languages:
            raise RequestError(
                ErrorCode.UNSUPPORTED_LANGUAGE,
                f"language {language!r} is not one of {', '.join(sorted(self.languages))}",
            )
        if samples.shape[0] == 0:
            raise RequestError(ErrorCode.AUDIO_EMPTY, "the audio has no samples")

        def transcribe_piece(piece: Piece) -> SegmentResult:
            if abandoned is not None and abandoned.is_set():
                raise CancelledError
            rows = self._rows(samples[piece.start : piece.stop], language, itn=itn)
            return SegmentResult.of(piece, rows, self._vocabulary)

        return run_tasks(
            [functools.partial(transcribe_piece, piece) for piece in self._cutter.cut(samples)]
        )

    def warm_up(self) -> None:
        """Run what is slow for the first time, so that no request pays for it.

        On a CPU a second of silence; in batches every length, alone and in a full batch.
        """
        if self._batcher is None:
            self.recognise(np.zeros(SAMPLE_RATE, np.int16), "auto", itn=True)
            return
        limits, description = self._batcher.limits, self._graph.description
        shapes = [
            (bucket, count) for bucket in BUCKETS for count in sorted({1, limits.clips(bucket)})
        ]
        for step, (bucket, count) in enumerate(shapes, start=1):
            log.info("warming_up", rows=bucket, clips=count, step=step, of=len(shapes))
            silence = np.zeros((bucket, description.options.width), np.float32)
            language = description.languages["auto"]
            clips = [Clip(silence, language, description.with_itn, Future()) for _ in range(count)]
            self._batcher.run_now(clips, bucket)

    def close(self) -> None:
        """End the thread that runs batches, where there is one."""
        if self._batcher is not None:
            self._batcher.close()

    def _rows(self, samples: NDArray[np.int16], language: str, *, itn: bool) -> Rows:
        """The best token of each row of one piece of audio."""
        with self._preparing:
            features = self._frontend(samples)
        description = self._graph.description
        number = description.languages[language]
        textnorm = description.with_itn if itn else description.without_itn
        try:
            if self._batcher is not None:
                return self._batcher.rows(features, number, textnorm)
            (rows,) = self._graph.best(
                features[np.newaxis], [features.shape[0]], [number], [textnorm]
            )
        except Exception as error:  # onnxruntime raises a class of its own per status code
            what = f"{samples.shape[0] / SAMPLE_RATE:.2f} s of audio"
            if lacks_memory(error):
                raise TransientError(
                    ErrorCode.INTERNAL,
                    f"{self.device} has no memory left for {what} (lower SENSESTREAM_CONCURRENCY, "
                    f"or SENSESTREAM_BATCH_SECONDS on a GPU): {error}",
                ) from error
            raise RequestError(
                ErrorCode.INTERNAL, f"the model {self.name} failed on {what}: {error}"
            ) from error
        return rows

    def _run(self, batch: Batch) -> list[Rows]:
        clips = batch.clips
        return self._graph.best(
            batch.features(),
            [clip.length for clip in clips],
            [clip.language for clip in clips],
            [clip.textnorm for clip in clips],
        )
