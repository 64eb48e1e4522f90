"""Run a blocking copy in a thread, with a limit on how long anyone waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor

from sensestream_consumer.audio.spool import Fetched

__all__ = ["Copy", "copy_in_thread"]

Copy = Callable[[threading.Event], Fetched]


async def copy_in_thread(copy: Copy, limit: float, executor: Executor | None = None) -> Fetched:
    """Return the result of `copy`; `TimeoutError` after `limit` seconds.

    A thread cannot be stopped from outside. At the limit the event that `copy` was handed is set:
    `copy` checks it between two reads, and its result is closed unread.
    """
    stop = threading.Event()
    copying = asyncio.get_running_loop().run_in_executor(executor, copy, stop)
    try:
        async with asyncio.timeout(limit):
            return await asyncio.shield(copying)
    except BaseException:
        stop.set()
        copying.add_done_callback(_give_up)
        raise


def _give_up(copying: asyncio.Future[Fetched]) -> None:
    if not copying.cancelled() and copying.exception() is None:
        copying.result().close()
