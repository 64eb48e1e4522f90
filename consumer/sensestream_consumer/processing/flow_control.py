"""What a worker takes in hand next: older work first, then new entries, as far as it has room."""

from __future__ import annotations

import time

from sensestream_common.contract.keys import HANDED_BACK_IDLE

from sensestream_consumer.broker.deliveries import Delivery
from sensestream_consumer.broker.heartbeat import Heartbeat
from sensestream_consumer.broker.inbox import Inbox
from sensestream_consumer.processing.slots import SlotPool

__all__ = ["FlowControl"]

_TAKE_PERIOD = 0.5  # seconds between looks for entries to take over, while places are free


class FlowControl:
    """Chooses between the sources of the inbox by the room that is left."""

    def __init__(
        self,
        inbox: Inbox,
        places: SlotPool,
        heartbeat: Heartbeat,
        read_ahead: int,
        reclaim_after: float,
    ) -> None:
        self._inbox = inbox
        self._places = places
        self._heartbeat = heartbeat
        self._read_ahead = read_ahead
        self._reclaim_ms = int(reclaim_after * 1000)
        self._next_take = 0.0

    async def take_over(self, held: int) -> list[Delivery]:
        """Older work first: handed back by a worker without room, or left by one that died."""
        count = min(self._read_ahead - held, self._places.free)
        now = time.monotonic()
        if count <= 0 or now < self._next_take:
            return []
        idle_ms = self._reclaim_ms if self._heartbeat.may_reclaim() else HANDED_BACK_IDLE
        taken = await self._inbox.take(count, idle_ms)
        for each in taken:
            # Until it is known to need none: otherwise more and more would be taken, read, and
            # handed back while the first ones are on their way to the engine.
            self._places.keep(each)
        if len(taken) < count:
            self._next_take = now + _TAKE_PERIOD
        return taken

    async def room(self, held: int) -> int:
        """How many new entries may be read, when so many are held."""
        count = self._read_ahead - held
        if self._places.free <= 0 and count > 0:
            # Only hits can be answered now. Each miss read is handed back, so what lies there
            # already bounds how much more is read in search of hits.
            count = min(count, self._read_ahead - await self._inbox.handed_back(self._read_ahead))
        return max(0, count)

    def returned(self, *, crowd: bool) -> None:
        """Something was handed back: look for it as soon as a place is free.

        Not where a `crowd` was the reason. Places are free then, and this worker would take it
        and hand it back without an end.
        """
        self._next_take = time.monotonic() + _TAKE_PERIOD if crowd else 0.0
