"""`python -m chaos.run`: real workers, a real Redis, faults by a seed, and the count at the end."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from sensestream_common.errors import RequestError, SensestreamError
from sensestream_common.keys import Keys, Lane
from sensestream_producer import Client, Submission
from sensestream_producer.embedded import EmbeddedRedis

from chaos.crew import Crew
from chaos.faults import Arena, strike
from chaos.ledger import Ledger, Subscriber, Verdict
from chaos.proxy import Proxy
from tests.support.clips import write_clip

KEYS = Keys("sensestream")
_RECLAIM_AFTER = 1.5  # seconds: a tenth of the default, so that a run sees ten times the takeovers
_DRAIN = 120.0  # seconds that the workers may take for what is left when the faults have ended


class Producer(threading.Thread):
    """Submits through the client, in batches; what Redis does not take now it submits again."""

    def __init__(
        self, url: str, ledger: Ledger, clips: list[str], *, seed: str, batch: int, misses: float
    ) -> None:
        super().__init__(name=f"producer {seed}", daemon=True)
        self._url = url
        self._ledger = ledger
        self._clips = clips
        self._draw = random.Random(seed)
        self._seed = seed
        self._batch = batch
        self._misses = misses
        self.ended = threading.Event()

    def run(self) -> None:
        asyncio.run(self._submit_all())

    async def _submit_all(self) -> None:
        number = 0
        async with Client(self._url, patience=1.0) as client:
            while not self.ended.is_set():
                batch = [self._request(number + offset) for offset in range(self._batch)]
                number += self._batch
                await self._submit(client, batch)
                await asyncio.sleep(self._draw.uniform(0, 0.05))

    async def _submit(self, client: Client, batch: list[Submission]) -> None:
        while batch:
            try:
                answers = await client.submit_many(batch)
            except SensestreamError:
                continue
            left = []
            for submission, answer in zip(batch, answers, strict=True):
                if isinstance(answer, RequestError):
                    raise answer
                if isinstance(answer, Exception):
                    left.append(submission)
                else:
                    self._ledger.add(answer.id)
            batch = left
            if batch:
                await asyncio.sleep(0.05)

    def _request(self, number: int) -> Submission:
        return Submission(
            audio=self._draw.choice(self._clips),
            id=f"{self._seed}-{number}",
            priority=Lane.HIGH if self._draw.random() < 0.2 else Lane.NORMAL,
            # A result that is not kept is a miss the next time.
            ttl=0 if self._draw.random() < self._misses else None,
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of clips, requests and faults")
    parser.add_argument("--seconds", type=float, default=60, help="of faults (default 60)")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--producers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="requests a producer sends at once")
    parser.add_argument("--misses", type=float, default=0.05, help="share with ttl 0")
    parser.add_argument("--appendfsync", choices=("always", "everysec"), default="always")
    parser.add_argument("--quiet", action="store_true", help="no line for each fault")
    return parser.parse_args()


@contextmanager
def producing(
    url: str, ledger: Ledger, clips: list[str], options: argparse.Namespace
) -> Iterator[None]:
    producers = [
        Producer(url, ledger, clips, seed=f"{options.seed}-{number}", batch=options.batch,
                 misses=options.misses)
        for number in range(options.producers)
    ]  # fmt: skip
    for producer in producers:
        producer.start()
    try:
        yield
    finally:
        for producer in producers:
            producer.ended.set()
        for producer in producers:
            producer.join()


def main() -> int:
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="sensestream-chaos-"))
    clips = [write_clip(folder, number, 0.3) for number in range(400)]
    server = EmbeddedRedis(tcp=True, appendonly=True, appendfsync=options.appendfsync)
    with server, Redis.from_url(server.url) as redis:
        status = run(options, server, redis, folder, clips)
    if status:
        print(f"the workers' logs are kept in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return status


def run(
    options: argparse.Namespace, server: EmbeddedRedis, redis: Any, folder: Path, clips: list[str]
) -> int:
    ledger = Ledger()
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    with Proxy(port) as proxy:
        through_proxy = server.url.replace(f":{port}", f":{proxy.port}")
        subscriber = Subscriber(server.url, KEYS)
        crew = Crew(through_proxy, server.url, folder, size=options.workers,
                    reclaim_after=_RECLAIM_AFTER, seed=options.seed)  # fmt: skip
        arena = Arena(server, redis, KEYS, crew, proxy, ledger, clips, random.Random(options.seed))
        subscriber.start()
        began = time.monotonic()
        with producing(server.url, ledger, clips, options):
            struck = torment(arena, options)
        crew.settle()
        await_the_end(redis, ledger, subscriber)
        crew.end()
        subscriber.end()
        return report(arena, subscriber, struck, time.monotonic() - began)


def torment(arena: Arena, options: argparse.Namespace) -> Counter[str]:
    """Strike at random moments until the time is up; how often each fault came."""
    struck: Counter[str] = Counter()
    began = time.monotonic()
    next_strike = began + 3  # let the workers start
    while (now := time.monotonic()) < began + options.seconds:
        arena.crew.look_after()
        if now >= next_strike:
            what = strike(arena)
            struck[what.split(" worker")[0].split(" for ")[0].split(" by ")[0]] += 1
            if not options.quiet:
                print(f"{now - began:7.1f} s  {len(arena.ledger):>7} requests  {what}", flush=True)
            next_strike = time.monotonic() + arena.draw.uniform(0.2, 1.0)
        time.sleep(0.02)
    return struck


def await_the_end(redis: Any, ledger: Ledger, subscriber: Subscriber) -> None:
    deadline = time.monotonic() + _DRAIN
    while time.monotonic() < deadline:
        try:
            waiting = redis.xlen(KEYS.requests) + redis.xlen(KEYS.requests_high)
        except RedisError:
            waiting = -1
        if waiting == 0 and subscriber.by_id.total() >= len(ledger):
            return
        time.sleep(0.1)


def report(arena: Arena, subscriber: Subscriber, struck: Counter[str], seconds: float) -> int:
    verdict = Verdict.of(arena.redis, KEYS, arena.ledger, subscriber)
    print(f"\nfaults: {dict(struck.most_common())}")
    print(f"deaths at a step: {arena.crew.deaths}")
    print(f"answers: {dict(subscriber.answers.most_common())}")
    print(f"attempts: {dict(sorted(subscriber.attempts.items()))}")
    print(f"{seconds:.0f} s in all")
    print(verdict)
    if not verdict.passed:
        print("chaos: FAILED", file=sys.stderr)
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main())
