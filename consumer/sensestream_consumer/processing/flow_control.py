"""The number of deliveries that a worker takes on next: older work first, then new entries."""

from __future__ import annotations

import time

from sensestream_common.contract.keys import HANDED_BACK_IDLE

from sensestream_consumer.broker.deliveries import Delivery
from sensestream_consumer.broker.heartbeat import Heartbeat
from sensestream_consumer.broker.inbox import Inbox
from sensestream_consumer.processing.slots import SlotPool

__all__ = ["FlowControl"]

_RECLAIM_PERIOD = 0.5  # seconds between looks for entries to take over, while slots are available


class FlowControl:
    """Chooses between the sources of the inbox, within `read_ahead` deliveries in flight."""

    def __init__(
        self,
        inbox: Inbox,
        slots: SlotPool,
        heartbeat: Heartbeat,
        read_ahead: int,
        reclaim_after: float,
    ) -> None:
        """`reclaim_after` is in seconds."""
        self._inbox = inbox
        self._slots = slots
        self._heartbeat = heartbeat
        self._read_ahead = read_ahead
        self._reclaim_ms = int(reclaim_after * 1000)
        self._next_reclaim = 0.0  # on the monotonic clock

    async def reclaim(self, in_flight: int) -> list[Delivery]:
        """Take over older work: handed back for want of a slot, or left by a dead worker.

        A slot is reserved for each delivery until it is known to need none. Otherwise more and
        more would be taken over, fetched, and handed back while the first ones are on their way to
        the engine.
        """
        count = min(self._read_ahead - in_flight, self._slots.available)
        now = time.monotonic()
        if count <= 0 or now < self._next_reclaim:
            return []
        idle_ms = self._reclaim_ms if self._heartbeat.may_reclaim() else HANDED_BACK_IDLE
        deliveries = await self._inbox.take(count, idle_ms)
        for delivery in deliveries:
            self._slots.reserve(delivery)
        if len(deliveries) < count:
            self._next_reclaim = now + _RECLAIM_PERIOD
        return deliveries

    async def read_budget(self, in_flight: int) -> int:
        """How many new entries may be read now."""
        budget = self._read_ahead - in_flight
        if self._slots.available <= 0 and budget > 0:
            # Only hits can be answered now. Each miss that is read is handed back, so the entries
            # handed back already bound how many more are read in search of hits.
            waiting = await self._inbox.handed_back(self._read_ahead)
            budget = min(budget, self._read_ahead - waiting)
        return max(0, budget)

    def on_handed_back(self, *, too_many_waiters: bool) -> None:
        """Look for the delivery that was handed back as soon as a slot is available.

        Not at once where there were too many waiters: slots are available then, and this worker
        would take it over and hand it back without an end.
        """
        self._next_reclaim = time.monotonic() + _RECLAIM_PERIOD if too_many_waiters else 0.0
