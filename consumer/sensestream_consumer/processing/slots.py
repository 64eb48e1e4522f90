"""Who may be at the engine: a bounded number of misses, and a suspect only alone.

A miss beyond the room goes back to the stream, uncharged, for a worker that has some. A request
whose earlier start ended in a crash runs with nothing beside it, so that a crash names its
culprit and condemns no neighbour.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

__all__ = ["AtCapacity", "SharedExclusiveGate", "SlotPool", "TooManyWaiters"]


# Seconds that a place is kept for an entry on its way to the engine. One that a slow site holds up
# must not leave the engine idle.
_KEPT = 1.0


class AtCapacity(Exception):
    """All places are taken: the entry goes back for another worker."""


class TooManyWaiters(AtCapacity):
    """Too many wait for somebody's transcription: free places at the engine would not help it."""


class SlotPool:
    """A bounded number of places, taken, kept for somebody, or refused at once."""

    def __init__(
        self, count: int, on_freed: Callable[[], None], refusal: type[AtCapacity] = AtCapacity
    ) -> None:
        self.count = count
        self.taken = 0
        self._kept: dict[object, float] = {}  # for whom, and until when
        self._on_freed = on_freed
        self._refusal = refusal

    @property
    def free(self) -> int:
        now = time.monotonic()
        return self.count - self.taken - sum(until > now for until in self._kept.values())

    def keep(self, who: object) -> None:
        """Keep a free place for a moment, for somebody who will come for it or `let_go`."""
        self._kept[who] = time.monotonic() + _KEPT

    def let_go(self, who: object) -> None:
        """Whoever it is needs no kept place any more; nothing where none is kept."""
        if self._kept.pop(who, None) is not None:
            self._on_freed()

    @contextmanager
    def place(self, who: object = None) -> Iterator[None]:
        """Hold a place, the one kept for `who` if there is one; raises the refusal otherwise."""
        self._kept.pop(who, None)
        if self.free <= 0:
            raise self._refusal
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._on_freed()


class SharedExclusiveGate:
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
