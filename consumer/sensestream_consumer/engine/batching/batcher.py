"""The thread that owns a session and runs clips of many requests together."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

import structlog

from sensestream_consumer.engine.batching.queue import (
    Batch,
    BatchLimits,
    BatchQueue,
    BatchStats,
    Clip,
)
from sensestream_consumer.telemetry.metrics import BATCH_CLIPS, BATCH_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from sensestream_consumer.engine.decoding.ctc import Rows

__all__ = ["Batcher"]

log = structlog.get_logger(__name__)

_REPORT_PERIOD = 60.0  # seconds of work between lines about it in the log


class Batcher:
    """Clips from any number of threads, run in batches by one thread that alone calls `run`.

    `run` returns the rows of each clip of a batch, in order. `batch_stats` counts what has run and
    how much of it was padding; the log says the same once a minute.
    """

    def __init__(
        self,
        run: Callable[[Batch], Sequence[Rows]],
        limits: BatchLimits,
        *,
        accepts_padding: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.batch_stats = BatchStats()
        self._run = run
        self._clock = clock
        self._reported = BatchStats()
        self._reported_at = clock()
        self._queue = BatchQueue(limits, accepts_padding)
        self._ready: deque[Batch] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine-session", daemon=True)
        self._thread.start()

    def submit(self, features: NDArray[np.float32], language: int, textnorm: int) -> Future[Rows]:
        """Queue a clip for the next batch of its length; the future gives its rows.

        `features` is float32[rows, width]; `language` and `textnorm` are the graph's ids.
        """
        clip = Clip(features, language, textnorm, Future())
        with self._changed:
            self._check_open()
            self._queue.add(clip, self._clock())
            self._changed.notify_all()
        return clip.rows

    def rows(self, features: NDArray[np.float32], language: int, textnorm: int) -> Rows:
        """Wait for the rows of a clip (see `submit`); raises what `run` raised for this clip."""
        return self.submit(features, language, textnorm).result()

    def run_now(self, clips: Sequence[Clip], width: int) -> None:
        """Run these clips as one batch before any that wait, without counting it.

        Returns when they are done. `width` is the number of rows that each is padded to.
        """
        with self._changed:
            self._check_open()
            self._ready.append(Batch(tuple(clips), width, counts=False))
            self._changed.notify_all()
        for clip in clips:
            clip.rows.result()

    def close(self) -> None:
        """End the thread after the batch under way; clips that wait get a `RuntimeError`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the recogniser is closed")

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            self._serve(batch)
        with self._changed:
            left = [*self._queue.drain(), *(clip for one in self._ready for clip in one.clips)]
        for clip in left:
            clip.rows.set_exception(RuntimeError("the recogniser was closed"))

    def _next(self) -> Batch | None:
        """The batch to run, as soon as there is one; None once closed."""
        with self._changed:
            while not self._closed:
                if self._ready:
                    return self._ready.popleft()
                now = self._clock()
                batch = self._queue.take(now)
                if batch is not None:
                    return batch
                deadline = self._queue.deadline()
                self._changed.wait(None if deadline is None else deadline - now)
            return None

    def _serve(self, batch: Batch) -> None:
        try:
            rows = self._run(batch)
            if len(rows) != len(batch.clips):
                raise RuntimeError(f"{len(rows)} answers to {len(batch.clips)} clips")
        except Exception as error:
            if len(batch.clips) == 1:
                batch.clips[0].rows.set_exception(error)
                return
            # One clip must not fail the others, and too large a batch may fit clip by clip.
            log.warning("batch_failed", clips=len(batch.clips), rows=batch.width, error=str(error))
            self.batch_stats.retried += len(batch.clips)
            for clip in batch.clips:
                self._serve(Batch((clip,), clip.length, batch.counts))
            return
        if batch.counts:
            self._count(batch)
        self._report()
        for clip, said in zip(batch.clips, rows, strict=True):
            clip.rows.set_result(said)

    def _count(self, batch: Batch) -> None:
        self.batch_stats.count(batch)
        BATCH_CLIPS.observe(len(batch.clips))
        BATCH_ROWS.labels("audio").inc(batch.rows)
        BATCH_ROWS.labels("padding").inc(batch.padding)

    def _report(self) -> None:
        now = self._clock()
        if now - self._reported_at < _REPORT_PERIOD:
            return
        recent = self.batch_stats.since(self._reported)
        if not recent.batches:
            return
        log.info(
            "batches",
            batches=recent.batches,
            clips=recent.clips,
            clips_a_batch=round(recent.clips / recent.batches, 1),
            padding=round(recent.waste, 3),
            retried=recent.retried,
        )
        self._reported, self._reported_at = dataclasses.replace(self.batch_stats), now
