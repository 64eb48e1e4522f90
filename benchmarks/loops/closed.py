"""A closed loop, as told on standard input: so many callers, each calls again when it is answered.

Each line read is `{"depth": callers, "seconds": s}` as JSON; the line written tells how many calls
were answered in that time, and how long each took. What is answered in the first fifth is not
counted: connections, scripts and caches are warm then.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

Call = Callable[[], Awaitable[Any]]
_WARMING = 0.2  # of the time


async def serve(call: Call) -> None:
    """Measure `call` as often as asked, until standard input ends."""
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        job = json.loads(line)
        print(json.dumps(await measure(call, job["depth"], job["seconds"])), flush=True)


async def measure(call: Call, depth: int, seconds: float) -> dict[str, Any]:
    latencies: list[float] = []
    begin = time.perf_counter() + _WARMING * seconds
    end = begin + seconds

    async def caller() -> None:
        while (sent := time.perf_counter()) < end:
            await call()
            now = time.perf_counter()
            if begin <= now < end:
                latencies.append(now - sent)

    used = 0.0

    async def watch() -> None:
        nonlocal used
        await asyncio.sleep(begin - time.perf_counter())
        used = time.process_time()
        await asyncio.sleep(end - time.perf_counter())
        used = time.process_time() - used

    callers = [asyncio.create_task(caller()) for _ in range(depth)]
    _, stuck = await asyncio.wait([*callers, asyncio.create_task(watch())], timeout=seconds + 30)
    if stuck:
        sys.exit(f"{len(stuck)} calls were never answered")
    for done in callers:
        done.result()
    latencies.sort()
    return {
        "answered": len(latencies),
        "seconds": seconds,
        "cpu": used,
        "p50": quantile(latencies, 0.5),
        "p95": quantile(latencies, 0.95),
        "p99": quantile(latencies, 0.99),
    }


def quantile(ordered: list[float], share: float) -> float:
    """In seconds; 0 where nothing was answered."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
