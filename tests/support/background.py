"""Asynchronous helpers for synchronous tests: run beside them, in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sensestream_common.connections.connection import connect
from sensestream_common.contract.keys import Keys

from tests.support.pipeline import answering

__all__ = ["answered", "complete"]

T = TypeVar("T")


def complete(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@contextmanager
def answered(url: str, keys: Keys, *, text: str = "hello") -> Iterator[None]:
    """While inside, everything submitted is answered at once."""
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def work() -> None:
        redis = connect(url, name="answered")
        async with answering(redis, keys, text=text):
            ready.set()
            await stop.wait()
        await redis.aclose()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(work())

    thread = threading.Thread(target=run, name="answered")
    thread.start()
    ready.wait(20)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
