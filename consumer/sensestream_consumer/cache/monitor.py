"""Warnings about the cache: too low a hit rate, too many results.

The price of a check does not grow with the cache: results are counted in a sample of the keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from sensestream_consumer.broker.broker import Broker

__all__ = ["CacheMonitor", "count_results"]

log = structlog.get_logger(__name__)

# Keys that one SCAN looks at. They stand in the order of their hashes, so the first of them are as
# good a sample as any: results that are half of all keys are counted to within three per cent.
_SAMPLE = 1000
_JUDGED = 100  # requests: a hit rate among fewer says nothing


async def count_results(broker: Broker) -> int:
    """How many results are kept: exactly if the whole Redis holds few keys, else from a sample."""
    cursor, sample = await broker.commands("SCAN", "0", "COUNT", _SAMPLE)
    prefix = broker.keys.result("").encode()
    found: int = sum(key.startswith(prefix) for key in sample)
    if cursor == b"0" or not sample:
        return found
    return round(int(await broker.commands("DBSIZE")) * found / len(sample))


@dataclass(frozen=True, slots=True)
class _Counters:
    hits: int  # those that waited for another's transcription included
    completed: int


class CacheMonitor:
    """Warns of too low a hit rate and of too many results; a limit of 0 means never.

    Each warning is logged once, and again after it was better in between.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        warn_hit_rate_below: float,
        warn_results_above: int,
    ) -> None:
        self._broker = broker
        self._warn_hit_rate_below = warn_hit_rate_below
        self._warn_results_above = warn_results_above
        self._before: _Counters | None = None
        self._warned: set[str] = set()

    async def check(self) -> None:
        """Compare with the last check. Costs nothing where both limits are 0."""
        if self._warn_hit_rate_below:
            await self._check_hit_rate()
        if self._warn_results_above:
            await self._check_results()

    async def _check_hit_rate(self) -> None:
        counters = await self._counters()
        if self._before is None or counters.completed < self._before.completed:  # began anew
            self._before = counters
        completed = counters.completed - self._before.completed
        if completed < _JUDGED:
            return
        rate = (counters.hits - self._before.hits) / completed
        self._before = counters
        self._warn(
            "hit_rate_too_low",
            rate < self._warn_hit_rate_below,
            hit_rate=round(rate, 3),
            least=self._warn_hit_rate_below,
            requests=completed,
            fix="do requests for the same recording name the same language and ITN, and does "
            "SENSESTREAM_RESULT_TTL outlast the time between?",
        )

    async def _check_results(self) -> None:
        count = await count_results(self._broker)
        self._warn(
            "cache_too_large",
            count > self._warn_results_above,
            results=count,
            most=self._warn_results_above,
            fix="shorten SENSESTREAM_RESULT_TTL, or forget a retired model's results with "
            "sensestream cache clear --model",
        )

    async def _counters(self) -> _Counters:
        commands, stats = self._broker.commands, self._broker.keys.stats
        hits, coalesced, misses = [
            int(await commands("HGET", stats, name) or 0)
            for name in ("hits", "coalesced", "misses")
        ]
        return _Counters(hits=hits + coalesced, completed=hits + coalesced + misses)

    def _warn(self, event: str, wrong: bool, **facts: object) -> None:
        if not wrong:
            self._warned.discard(event)
        elif event not in self._warned:
            self._warned.add(event)
            log.warning(event, **facts)
