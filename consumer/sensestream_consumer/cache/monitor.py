"""How much the pipeline remembers, and how much of what is asked for was remembered.

Both at a price that does not grow with the cache: results are counted in a sample of the keys.
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
_JUDGED = 100  # answers: the share of repeats among fewer says nothing


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
    repeats: int
    completed: int


class CacheMonitor:
    """Warns when too few requests are repeats, or too many results are kept; 0 stands for never.

    Each is said once, and again after it was better in between.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        warn_hit_rate_below: float,
        warn_results_above: int,
    ) -> None:
        self._broker = broker
        self._min_hit_rate = warn_hit_rate_below
        self._max_results = warn_results_above
        self._before: _Counters | None = None
        self._said: set[str] = set()

    async def look(self) -> None:
        """Compare with the last look. Costs nothing where nothing is to be warned of."""
        if self._min_hit_rate:
            await self._look_at_rate()
        if self._max_results:
            count = await count_results(self._broker)
            self._tell(
                "cache_too_large", count > self._max_results, results=count,
                most=self._max_results, fix="shorten SENSESTREAM_RESULT_TTL, or forget a retired "
                "model's results with sensestream cache clear --model",
            )  # fmt: skip

    async def _look_at_rate(self) -> None:
        now = await self._counters()
        if self._before is None or now.completed < self._before.completed:  # they began anew
            self._before = now
        completed = now.completed - self._before.completed
        if completed < _JUDGED:
            return
        rate = (now.repeats - self._before.repeats) / completed
        self._before = now
        self._tell(
            "hit_rate_too_low", rate < self._min_hit_rate, hit_rate=round(rate, 3),
            least=self._min_hit_rate, requests=completed, fix="do repeats name the same language "
            "and ITN, and does SENSESTREAM_RESULT_TTL outlast the time between?",
        )  # fmt: skip

    async def _counters(self) -> _Counters:
        names = ("hits", "coalesced", "misses")
        found = [
            int(await self._broker.commands("HGET", self._broker.keys.stats, name) or 0)
            for name in names
        ]
        return _Counters(repeats=found[0] + found[1], completed=sum(found))

    def _tell(self, event: str, wrong: bool, **facts: object) -> None:
        if not wrong:
            self._said.discard(event)
        elif event not in self._said:
            self._said.add(event)
            log.warning(event, **facts)
