"""Who may be at the engine: a bounded number of misses, and a suspect only alone.

A miss beyond the room goes back to the stream, uncharged, for a worker that has some. A request
whose earlier start ended in a crash runs with nothing beside it, so that a crash names its
culprit and condemns no neighbour.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

__all__ = ["EngineRoom", "NoRoom", "Places"]


class NoRoom(Exception):
    """All places are taken: the entry goes back for another worker."""


class Places:
    """A bounded number of places, taken or refused at once."""

    def __init__(self, count: int, on_freed: Callable[[], None]) -> None:
        self.count = count
        self.taken = 0
        self._on_freed = on_freed

    @property
    def free(self) -> int:
        return self.count - self.taken

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place; raises `NoRoom` when there is none."""
        if self.taken >= self.count:
            raise NoRoom
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._on_freed()


class EngineRoom:
    """The engine's door: many at once, or one alone. Whoever waits to be alone goes first."""

    def __init__(self) -> None:
        self._inside = 0
        self._alone = False
        self._waiting_alone = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def enter(self, *, alone: bool) -> AsyncIterator[None]:
        await (self._enter_alone() if alone else self._enter_shared())
        try:
            yield
        finally:
            async with self._changed:
                if alone:
                    self._alone = False
                else:
                    self._inside -= 1
                self._changed.notify_all()

    async def _enter_shared(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone and not self._waiting_alone)
            self._inside += 1

    async def _enter_alone(self) -> None:
        async with self._changed:
            self._waiting_alone += 1
            try:
                await self._changed.wait_for(lambda: not self._alone and not self._inside)
                self._alone = True
            finally:
                self._waiting_alone -= 1
                self._changed.notify_all()
