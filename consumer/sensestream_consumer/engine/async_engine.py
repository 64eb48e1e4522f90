"""The asyncio face of a recogniser: a bounded number of recordings at once."""

from __future__ import annotations

import asyncio
import functools
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sensestream_consumer.engine.thread_pool import ThreadPool
from sensestream_consumer.telemetry.stages import Stage, now, record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray
    from sensestream_common.contract.transcript import Transcript

    from sensestream_consumer.engine.recogniser import Recogniser

__all__ = ["Engine", "NotStarted"]


class _Clock:
    """Times one recording: its wait for a thread, and its stay in it."""

    def __init__(self) -> None:
        self.came = now()
        self.started = 0

    def tell(self) -> None:
        """Record both stages; a recording that never started has only waited."""
        ended = now()
        record(Stage.QUEUE, self.came, self.started or ended)
        if self.started:
            record(Stage.ENGINE, self.started, ended)


class NotStarted(Exception):
    """No thread was free within the time given; nothing was transcribed."""


@contextmanager
def _cancelled_after(seconds: float | None, future: Future[Transcript]) -> Iterator[None]:
    """Cancel the future after that time, unless it runs by then."""
    if seconds is None:
        yield
        return
    timer = asyncio.get_running_loop().call_later(seconds, future.cancel)
    try:
        yield
    finally:
        timer.cancel()


class Engine:
    """Transcribes up to `capacity` recordings at once, each in a thread of its own.

    The runtime releases the interpreter's lock while it computes, so as many threads as cores
    keep all cores busy with one session. A recogniser that batches wants more in flight than
    there are cores: its threads wait for the one that owns the session. Threads that have
    nothing to do help with the pieces of long recordings, until a recording comes.
    """

    def __init__(self, recogniser: Recogniser, *, concurrency: int) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}: expected 1 or more")
        self.recogniser = recogniser
        self.capacity = max(concurrency, recogniser.clips_in_flight)
        self._pool = ThreadPool(self.capacity)
        self._closed = threading.Event()
        self._counting = threading.Lock()
        self._busy = 0

    @property
    def busy(self) -> int:
        """How many recordings are being recognised, abandoned ones included."""
        return self._busy

    async def transcribe(
        self,
        samples: NDArray[np.int16],
        language: str,
        itn: bool,
        *,
        start_within: float | None = None,
    ) -> Transcript:
        """Wait for a free thread and transcribe in it.

        Recordings start in the order they came. A call that is cancelled while it waits never
        starts. One that is cancelled while it runs keeps its thread to the end of its piece (at
        most 30 s of audio), and its result is dropped.

        Args:
            samples: int16[n], 16 kHz mono.
            language: the language spoken, or `auto`.
            itn: whether numbers are written as digits, and with punctuation.
            start_within: seconds to wait for a free thread; None waits as long as it takes.

        Raises:
            NotStarted: no thread was free in time.
            RuntimeError: the engine is closed.
            RequestError, TransientError: as from `Recogniser.recognise`.
        """
        if self._closed.is_set():
            raise RuntimeError("the engine is closed")
        abandoned = threading.Event()
        clock = _Clock()
        recognise = functools.partial(
            self.recogniser.recognise,
            samples,
            language,
            itn,
            abandoned=abandoned,
            run_tasks=self._pool.run_shared,
        )

        def work() -> Transcript:
            clock.started = now()
            with self._occupied():
                return recognise()

        recognition = self._pool.submit(work)
        try:
            with _cancelled_after(start_within, recognition):
                return await asyncio.wrap_future(recognition)
        except asyncio.CancelledError:
            abandoned.set()
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The caller was not cancelled: without an error its task would end silently.
            if self._closed.is_set():
                raise RuntimeError("the engine was closed before this clip started") from None
            raise NotStarted from None
        finally:
            clock.tell()

    @contextmanager
    def _occupied(self) -> Iterator[None]:
        with self._counting:
            self._busy += 1
        try:
            yield
        finally:
            with self._counting:
                self._busy -= 1

    async def aclose(self) -> None:
        """Refuse new clips and those that wait; return when the running ones have ended."""
        self._closed.set()
        await asyncio.to_thread(self._pool.close)
