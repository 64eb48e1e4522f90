"""Admission to the engine: a bounded number of misses, and a suspect only alone.

A miss beyond that number is handed back to the stream, uncharged, for a worker that has a slot. A
request whose earlier start ended in a crash runs with nothing beside it, so that another crash
names its culprit and is charged to no neighbour.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from sensestream_consumer.broker.deliveries import Delivery

__all__ = ["AtCapacity", "SharedExclusiveGate", "SlotPool", "TooManyWaiters"]


# Seconds that a slot stays reserved for a delivery on its way to the engine. A delivery that a slow
# site holds up must not leave the engine idle.
_RESERVED_FOR = 1.0


class AtCapacity(Exception):
    """All slots are taken: the delivery is handed back for another worker."""


class TooManyWaiters(AtCapacity):
    """Too many requests wait for another's transcription: a free slot would not help this one."""


class SlotPool:
    """A bounded number of slots, acquired or refused at once, never waited for.

        available ── reserve ──> reserved ── acquire ──> in use ── end of the block ──> available
            │                       └─ cancel_reservation, or a second later ──> available
            └──────────────── acquire ────────────────> in use

    A reservation belongs to one delivery. `FlowControl` makes it for a delivery that it takes over.
    `Transcribing` uses it up: it acquires the slot. `Resolver` cancels it for a delivery that
    follows another, and `Dispatcher` at the end of the task, where it was not needed.
    """

    def __init__(
        self, capacity: int, on_freed: Callable[[], None], refusal: type[AtCapacity] = AtCapacity
    ) -> None:
        """`on_freed` is called when a slot may have become available."""
        self.capacity = capacity
        self.in_use = 0
        self._reserved_until: dict[Delivery, float] = {}
        self._on_freed = on_freed
        self._refusal = refusal

    @property
    def available(self) -> int:
        """How many slots are neither in use nor reserved."""
        now = time.monotonic()
        reserved = sum(until > now for until in self._reserved_until.values())
        return self.capacity - self.in_use - reserved

    def reserve(self, delivery: Delivery) -> None:
        """Reserve an available slot for a moment, for this delivery to acquire."""
        self._reserved_until[delivery] = time.monotonic() + _RESERVED_FOR

    def cancel_reservation(self, delivery: Delivery) -> None:
        """Note that this delivery needs no slot; nothing where none is reserved for it."""
        if self._reserved_until.pop(delivery, None) is not None:
            self._on_freed()

    @contextmanager
    def acquire(self, delivery: Delivery | None = None) -> Iterator[None]:
        """Use a slot for the block: the one reserved for `delivery`, or an available one.

        Raises the pool's refusal, `AtCapacity` or a kind of it, where there is none.
        """
        if delivery is not None:
            self._reserved_until.pop(delivery, None)
        if self.available <= 0:
            raise self._refusal
        self.in_use += 1
        try:
            yield
        finally:
            self.in_use -= 1
            self._on_freed()


class SharedExclusiveGate:
    """A readers-writer lock at the engine: many at once, or one alone.

    A request that waits to be alone goes before those that come after it.
    """

    def __init__(self) -> None:
        self._sharing = 0
        self._exclusive = False
        self._waiting_for_exclusive = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Enter beside others; waits while one is alone, or waits to be."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: not self._exclusive and not self._waiting_for_exclusive
            )
            self._sharing += 1
        try:
            yield
        finally:
            async with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Enter alone; waits until all others have left."""
        await self._enter_exclusive()
        try:
            yield
        finally:
            async with self._changed:
                self._exclusive = False
                self._changed.notify_all()

    async def _enter_exclusive(self) -> None:
        async with self._changed:
            self._waiting_for_exclusive += 1
            try:
                await self._changed.wait_for(lambda: not self._exclusive and not self._sharing)
                self._exclusive = True
            finally:
                self._waiting_for_exclusive -= 1
                self._changed.notify_all()
