"""Waiting for many results at once: one look for all that are outstanding, every millisecond.

The libraries poll for each result by itself, at intervals of 50 to 500 ms. This is what suits them
best: quick to see a result, and cheap for Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

_PAUSE = 0.001  # seconds


class Results:
    """`look` gives what is known of each key, or `None`, as MGET does."""

    def __init__(self, look: Callable[[list[str]], Awaitable[list[Any]]]) -> None:
        self._look = look
        self._futures: dict[str, asyncio.Future[bytes]] = {}
        self._some = asyncio.Event()

    async def wait(self, key: str) -> bytes:
        future = self._futures[key] = asyncio.get_running_loop().create_future()
        self._some.set()
        return await future

    async def poll(self) -> None:
        while True:
            await self._some.wait()
            keys = list(self._futures)
            for key, value in zip(keys, await self._look(keys), strict=True):
                if value is not None:
                    self._futures.pop(key).set_result(value)
            if not self._futures:
                self._some.clear()
            await asyncio.sleep(_PAUSE)
