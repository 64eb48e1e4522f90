"""The asyncio face of a recogniser: a bounded pool of threads."""

from __future__ import annotations

import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sensestream_common.transcript import Transcript

    from sensestream_consumer.engine.recogniser import Recogniser

__all__ = ["Engine"]


class Engine:
    """Recognises up to `capacity` clips at once, each in a thread of its own.

    The runtime releases the interpreter's lock while it computes, so as many threads as cores
    keep all cores busy with one session.
    """

    def __init__(self, recogniser: Recogniser, *, concurrency: int) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}: expected 1 or more")
        self.recogniser = recogniser
        self.capacity = concurrency
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="engine")
        self._closed = threading.Event()

    async def transcribe(
        self,
        samples: NDArray[np.int16],
        language: str,
        itn: bool,
    ) -> Transcript:
        """The transcript of int16[n] samples, 16 kHz mono; waits for a free thread.

        Clips start in the order they came. Cancelled while it waits, a clip is never started;
        cancelled while it runs, it runs to the end of its piece (at most 30 s of audio) in its
        thread, which is free only then, and what it heard is dropped. Raises
        what `Recogniser.recognise` raises, and `RuntimeError` once the engine is closed.
        """
        if self._closed.is_set():
            raise RuntimeError("the engine is closed")
        loop = asyncio.get_running_loop()
        abandoned = threading.Event()
        work = functools.partial(
            self.recogniser.recognise, samples, language, itn, abandoned=abandoned
        )
        try:
            return await loop.run_in_executor(self._threads, work)
        except asyncio.CancelledError:
            abandoned.set()
            task = asyncio.current_task()
            if self._closed.is_set() and task is not None and not task.cancelling():
                # Nobody cancelled the caller: without this its task would end without a word.
                raise RuntimeError("the engine was closed before this clip started") from None
            raise

    async def aclose(self) -> None:
        """Takes no more clips, refuses those that wait, returns when the running ones ended."""
        self._closed.set()
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
