"""The figures of the whole group: every worker reads the same ones from Redis, so none are summed.

They are read at a scrape, at most once in a few seconds, at a cost that grows neither with the
backlog nor with the cache.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import structlog
from redis.exceptions import RedisError
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.keys import HANDED_BACK, REQUESTS_GROUP, Lane
from sensestream_common.contract.outcome import CacheUse

from sensestream_consumer.broker.broker import Broker
from sensestream_consumer.cache.monitor import count_results

__all__ = ["Group", "GroupFigures", "LaneFigures"]

log = structlog.get_logger(__name__)

_FIGURES = load_script("sensestream_consumer.monitoring", "figures")
_FRESH = 5.0  # seconds: however many scrape, Redis is asked no more often
_PATIENCE = 1.0  # seconds: a scrape waits no longer, and goes without these figures
_LANES = (Lane.HIGH, Lane.NORMAL)
_COUNTERS = {
    CacheUse.HIT: "hits",
    CacheUse.MISS: "misses",
    CacheUse.COALESCED: "coalesced",
}


@dataclass(frozen=True, slots=True)
class LaneFigures:
    """One request stream. Ages are in seconds, `None` where there is nothing."""

    backlog: int
    pending: int
    handed_back: int
    oldest_pending: float | None
    oldest_undelivered: float | None

    @property
    def undelivered(self) -> int:
        """Requests that no worker has read yet."""
        # An entry deleted by hand stays pending for a while without standing in the stream.
        return max(0, self.backlog - self.pending)


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """The figures of one moment; `completed` counts by how the cache was used."""

    lanes: dict[Lane, LaneFigures]
    dead_letters: int
    transcripts: int
    results: int
    completed: dict[CacheUse, int]


class Group:
    """The latest figures of the group, `None` while Redis does not answer."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()
        self.figures: GroupFigures | None = None

    def lanes(self) -> dict[Lane, LaneFigures]:
        """By lane; none while they are not known."""
        return self.figures.lanes if self.figures else {}

    async def refresh(self) -> None:
        """Ask Redis, unless it was asked just now. Never raises for a Redis that is away."""
        async with self._asking:
            if time.monotonic() - self._asked_at < _FRESH:
                return
            try:
                self.figures = await asyncio.wait_for(self._ask(), _PATIENCE)
            except (RedisError, OSError, TimeoutError) as error:
                self.figures = None  # none, rather than those of long ago
                log.debug("group_figures_unknown", error=repr(error))
                return
            self._asked_at = time.monotonic()

    async def _ask(self) -> GroupFigures:
        names = self._broker.keys
        streams = [names.lane(lane) for lane in _LANES]
        reply = await self._broker.run(
            _FIGURES,
            [*streams, names.dead, names.transcripts, names.stats],
            [REQUESTS_GROUP, HANDED_BACK, *_COUNTERS.values()],
        )
        results = await count_results(self._broker)
        now, dead, transcripts, completed, *lanes = reply
        return GroupFigures(
            {lane: _lane(int(now), *row) for lane, row in zip(_LANES, lanes, strict=True)},
            dead_letters=dead,
            transcripts=transcripts,
            results=results,
            completed={use: int(n) for use, n in zip(_COUNTERS, completed, strict=True)},
        )


def _lane(
    now: int, backlog: int, pending: int, handed_back: int, oldest: bytes, undelivered: bytes
) -> LaneFigures:
    return LaneFigures(backlog, pending, handed_back, _age(now, oldest), _age(now, undelivered))


def _age(now: int, entry: bytes) -> float | None:
    """Seconds since an entry was added, from its id."""
    return max(0, now - int(entry.partition(b"-")[0])) / 1000 if entry else None
