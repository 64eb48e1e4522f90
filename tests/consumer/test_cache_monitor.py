"""The monitor of the cache: results counted, a low hit rate and a large cache warned of."""

from __future__ import annotations

from typing import Any

import pytest
from sensestream_consumer.cache.monitor import CacheMonitor, count_results
from structlog.testing import capture_logs

from tests.consumer.conftest import KEYS, Components, MakeParts

pytestmark = pytest.mark.anyio


async def keep(parts: Components, results: int, *, others: int = 0) -> None:
    pipe = parts.redis.pipeline(transaction=False)
    for number in range(results):
        pipe.hset(KEYS.result(f"{number:064x}"), "transcript", "{}")
    for number in range(others):
        pipe.set(KEYS.audio(f"sha256:{number:064x}", "1"), "x")
    await pipe.execute()


async def answered(parts: Components, **counts: int) -> None:
    for name, count in counts.items():
        await parts.redis.hincrby(KEYS.stats, name, count)


def monitor(parts: Components, *, rate: float = 0.0, most: int = 0) -> CacheMonitor:
    return CacheMonitor(parts.broker, warn_hit_rate_below=rate, warn_results_above=most)


def warnings(logs: list[Any]) -> list[str]:
    return [entry["event"] for entry in logs if entry["log_level"] == "warning"]


async def test_a_few_results_are_counted_exactly(make_parts: MakeParts) -> None:
    parts = make_parts("one")
    assert await count_results(parts.broker) == 0
    await keep(parts, 30, others=60)
    assert await count_results(parts.broker) == 30


async def test_many_results_are_counted_approximately(make_parts: MakeParts) -> None:
    parts = make_parts("one")
    await keep(parts, 5000, others=5000)
    # Five deviations of a sample of a thousand: the hashes of the keys are drawn anew each time.
    assert abs(await count_results(parts.broker) - 5000) < 800


async def test_a_low_hit_rate_is_logged_once_and_again_after_a_better_one(
    make_parts: MakeParts,
) -> None:
    parts = make_parts("one")
    one = monitor(parts, rate=0.5)
    await answered(parts, hits=5000)  # before the first check: not judged
    with capture_logs() as logs:
        await one.check()
        await answered(parts, hits=20, coalesced=10, misses=69)
        await one.check()
        assert warnings(logs) == []  # too few to judge by
        await answered(parts, misses=1)
        for _ in range(2):
            await one.check()
            await answered(parts, misses=200)
        assert warnings(logs) == ["hit_rate_too_low"]
        assert logs[0]["hit_rate"] == 0.3
        await answered(parts, hits=900)
        await one.check()
        await answered(parts, misses=900)
        await one.check()
    assert warnings(logs) == ["hit_rate_too_low"] * 2


async def test_counters_that_were_reset_give_no_hit_rate(make_parts: MakeParts) -> None:
    parts = make_parts("one")
    one = monitor(parts, rate=0.5)
    await answered(parts, misses=1000)
    with capture_logs() as logs:
        await one.check()
        await parts.redis.delete(KEYS.stats)
        await answered(parts, hits=100)
        await one.check()
        await answered(parts, hits=100)
        await one.check()
    assert warnings(logs) == []


async def test_a_large_cache_is_logged(make_parts: MakeParts) -> None:
    parts = make_parts("one")
    await keep(parts, 11)
    with capture_logs() as logs:
        await monitor(parts, most=11).check()
        assert warnings(logs) == []
        await monitor(parts, most=10).check()
    assert warnings(logs) == ["cache_too_large"]
    assert "cache clear --model" in logs[0]["fix"]
