"""`python -m chaos.soak`: a steady load for an hour, and whether anything grows or stays behind.

Retentions are cut to a thirtieth of the run, so that results, request keys and outcomes come to
their end many times in it: what would take weeks to pile up does so within the hour.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from sensestream_common.contract.keys import Keys
from sensestream_consumer.settings import WorkerSettings
from sensestream_producer import Client
from sensestream_producer.local.redis_server import EmbeddedRedis

from chaos.ledger import Ledger, Subscriber
from chaos.readings import Reading, busy_seconds, growth, read
from chaos.retention import count_by_kind, retention_faults
from chaos.steady import SteadyLoad
from chaos.verdict import Verdict
from tests.support.workers import WorkerProcess

KEYS = Keys("sensestream")
_WORKERS = 2
_TIMEOUT = 60.0  # seconds for a worker's start, for what is left at the end, for a drain
_SWEEP = 70.0  # seconds within which the janitor comes by
# How much the trend may rise over the last three quarters. An allocator's noise, and streams that
# are trimmed once a minute, stay below it; an hour of requests kept by mistake does not.
_FLAT = 0.05
_SHORTEST = 10.0  # minutes: the janitor comes once in one, so a shorter run tells of no trend
_MOST_LINES = 10  # of complaints about keys
_PASSING = ("result:*", "audio:*", "request:*", "upload:*", "lease:*", "crashes:*")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="under 10: memory is not judged")
    parser.add_argument("--rate", type=float, default=30, help="requests a second")
    parser.add_argument("--every", type=float, default=10, help="seconds between readings")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file for all readings")
    return parser.parse_args()


def retentions(options: argparse.Namespace) -> dict[str, Any]:
    ttl = max(5, int(options.minutes * 60 / 30))
    most = max(100, int(options.rate * ttl))
    return {
        "result_ttl": ttl,
        "request_ttl": ttl,
        "transcripts_ttl": 10 * ttl,
        "transcripts_max": most,
        "dead_max": most // 20,
    }


def main() -> int:
    options = arguments()
    with (
        tempfile.TemporaryDirectory(prefix="sensestream-soak-") as folder,
        EmbeddedRedis(appendonly=True, appendfsync="always") as server,
        Redis.from_url(server.url) as redis,
        working(server.url, Path(folder), retentions(options)) as workers,
    ):
        return asyncio.run(soak(options, server, redis, Path(folder), workers))


@contextmanager
def working(url: str, folder: Path, chosen: dict[str, Any]) -> Iterator[list[WorkerProcess]]:
    """Workers, which end with the block; they log warnings only, or an hour's would be long."""
    workers = [
        WorkerProcess(
            url, folder, folder / f"{number}.log", concurrency=1, log_level="warning", **chosen
        )
        for number in range(_WORKERS)
    ]
    try:
        yield workers
    finally:
        end(workers)


def end(workers: list[WorkerProcess]) -> None:
    for worker in workers:
        worker.terminate(_TIMEOUT)


async def soak(
    options: argparse.Namespace,
    server: EmbeddedRedis,
    redis: Any,
    folder: Path,
    workers: list[WorkerProcess],
) -> int:
    ledger, subscriber = Ledger(), Subscriber(server.url, KEYS)
    load = SteadyLoad(folder, ledger, rate=options.rate, seed=options.seed)
    await until(lambda: count_by_kind(redis, KEYS)["worker:*"] == _WORKERS, _TIMEOUT)
    subscriber.start()
    pids = [worker.process.pid for worker in workers]
    began, busy = time.monotonic(), busy_seconds([server.pid, *pids])
    readings = await under_load(options, server, redis, load, pids)
    busy = busy_seconds([server.pid, *pids]) - busy
    print(f"processor: {busy / (time.monotonic() - began):.2f} cores for workers and Redis")
    await come_to_rest(redis, ledger, subscriber, retentions(options))
    subscriber.end()
    end(workers)
    settings = WorkerSettings(**retentions(options))
    verdict = Verdict.of(redis, KEYS, ledger.submitted, subscriber.by_id, settings)
    for fault in retention_faults(redis, KEYS, settings)[:_MOST_LINES]:
        print(f"retention: {fault}")
    left = {kind: count for kind, count in count_by_kind(redis, KEYS).items() if kind in _PASSING}
    if options.json:
        options.json.write_text(json.dumps([reading.__dict__ for reading in readings]))
    print(f"answers: {dict(subscriber.answers.most_common())}")
    return report(readings, verdict, left)


async def under_load(
    options: argparse.Namespace,
    server: EmbeddedRedis,
    redis: Any,
    load: SteadyLoad,
    workers: list[int],
) -> list[Reading]:
    ended = asyncio.Event()
    readings: list[Reading] = []
    began = time.monotonic()
    async with Client(server.url) as client, asyncio.TaskGroup() as group:
        group.create_task(load.run(client, ended))
        while (now := time.monotonic() - began) < options.minutes * 60:
            reading = await asyncio.to_thread(read, now, redis, KEYS, server.pid, workers)
            readings.append(reading)
            print(reading, flush=True)
            await asyncio.sleep(options.every - (time.monotonic() - began) % options.every)
        ended.set()
    return readings


async def come_to_rest(
    redis: Any, ledger: Ledger, subscriber: Subscriber, chosen: dict[str, Any]
) -> None:
    """Until all is answered, what may pass has passed, and the janitor has been there."""
    await until(lambda: subscriber.by_id.total() >= len(ledger), _TIMEOUT)
    await until(
        lambda: not any(count_by_kind(redis, KEYS)[kind] for kind in _PASSING),
        chosen["result_ttl"] + _TIMEOUT,
    )
    await until(lambda: redis.xlen(KEYS.transcripts) <= chosen["transcripts_max"], _SWEEP)


async def until(condition: Callable[[], bool], retry_timeout: float) -> None:
    """Wait for it; what has not come to pass by then is for the report to tell."""
    deadline = time.monotonic() + retry_timeout
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110 (in other processes)
        await asyncio.sleep(0.5)


def report(readings: list[Reading], verdict: Verdict, left: dict[str, int]) -> int:
    times = [reading.at for reading in readings]
    series: dict[str, list[float]] = {
        f"worker {number} RSS": [reading.worker_rss[number] for reading in readings]
        for number in range(_WORKERS)
    }
    series["Redis used_memory"] = [reading.redis_memory for reading in readings]
    trends = {name: growth(times, values) for name, values in series.items()}
    for name, trend in trends.items():
        print(f"{name}: {trend}")
    print(f"backlog: at most {max(reading.backlog for reading in readings)}")
    print(f"keys left of those that pass: {left or 'none'}")
    print(verdict)
    too_short = times[-1] < _SHORTEST * 60 * 0.9
    flat = too_short or all(trend.share <= _FLAT for trend in trends.values())
    passed = verdict.passed and flat and not left
    print("soak: passed" if passed else "soak: FAILED", file=sys.stdout if passed else sys.stderr)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
