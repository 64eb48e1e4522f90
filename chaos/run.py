"""`python -m chaos.run`: real workers, a real Redis, faults by a seed, and the count at the end."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from sensestream_common.contract.keys import Keys
from sensestream_consumer.settings import WorkerSettings
from sensestream_producer.local.redis_server import EmbeddedRedis

from chaos.emptied import empty_under_load
from chaos.faults import Faults
from chaos.ledger import Ledger, Subscriber
from chaos.producer import Mix, producing
from chaos.proxy import Proxy
from chaos.retention import retention_faults
from chaos.target import Target
from chaos.verdict import Verdict, await_nothing_held, beyond_two_seconds, left_behind
from chaos.workers import Workers
from tests.support.clips import write_clip

KEYS = Keys("sensestream")
_RECLAIM_AFTER = 1.5  # seconds: a tenth of the default, so that a run sees ten times the takeovers
_PROLONGED = 3  # times the seconds asked for, on a machine so busy that workers hardly get to start
_CLIPS = 100  # each a miss again when memory was full: more, and the run would hardly see a hit
_STALL = 45.0  # seconds without one more outcome: what is left when the faults have ended is lost
_MOST_LINES = 10  # of keys that are left behind or kept too long
_GENTLE = 2  # requests that a producer sends at once in the second act
_EMPTIED = 0.1  # of the time goes to the second act, FLUSHALL


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of clips, requests and faults")
    parser.add_argument("--seconds", type=float, default=60, help="of faults (default 60)")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--producers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="requests a producer sends at once")
    parser.add_argument("--misses", type=float, default=0.05, help="share with ttl 0")
    parser.add_argument(
        "--everysec",
        action="store_true",
        help="a Redis that syncs once a second, on a disk that hangs",
    )
    parser.add_argument("--quiet", action="store_true", help="no line for each fault")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="sensestream-chaos-"))
    sync = "everysec" if options.everysec else "always"
    server = EmbeddedRedis(tcp=True, appendonly=True, appendfsync=sync)
    with server, Redis.from_url(server.url) as redis:
        passed = run(options, server, redis, folder)
    if passed:
        shutil.rmtree(folder)
        return 0
    print(f"chaos: FAILED; the workers' logs are kept in {folder}", file=sys.stderr)
    return 1


def run(options: argparse.Namespace, server: EmbeddedRedis, redis: Any, folder: Path) -> bool:
    ledger, subscriber = Ledger(), Subscriber(server.url, KEYS)
    clips = [write_clip(folder, number, 0.3) for number in range(_CLIPS)]
    mix = Mix(clips, options.producers, options.batch, options.misses)
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    with (
        Proxy(port) as proxy,
        Workers(
            server.url.replace(f":{port}", f":{proxy.port}"),
            server.url,
            folder,
            size=options.workers,
            reclaim_after=_RECLAIM_AFTER,
            seed=options.seed,
        ) as workers,
    ):
        draw = random.Random(options.seed)
        target = Target(server, redis, KEYS, workers, proxy, ledger, clips, draw, options.everysec)
        subscriber.start()
        faults = Faults(target)
        with producing(server.url, ledger, mix, str(options.seed)):
            inject_faults(target, faults, options)
        workers.heal()
        await_the_end(redis, subscriber)
        subscriber.end()
        workers.end()
        passed = judge(target, faults, subscriber)
        if options.everysec:
            return passed
        workers.restart()
        workers.await_ready()
        mix = replace(mix, batch=_GENTLE)  # or what waits, and is forgotten, would be nearly all
        act = empty_under_load(target, mix, max(9, _EMPTIED * options.seconds), str(options.seed))
        print(act)
        return passed and act.passed


def inject_faults(target: Target, faults: Faults, options: argparse.Namespace) -> None:
    """Inject faults at random moments until the time is up, or longer while one has yet to come."""
    target.workers.await_ready()
    began = next_fault = time.monotonic()
    longest = _PROLONGED * options.seconds
    while (now := time.monotonic() - began) < options.seconds or (
        now < longest and faults.missing()
    ):
        target.workers.maintain()
        if time.monotonic() >= next_fault:
            fault = faults.inject()
            if not options.quiet:
                print(f"{now:7.1f} s  {len(target.ledger):>7} requests  {fault}", flush=True)
            next_fault = time.monotonic() + target.draw.uniform(0.2, 1.0)
        time.sleep(0.02)


def await_the_end(redis: Any, subscriber: Subscriber) -> None:
    """Until nothing waits and all is read, or nothing moves any more: the judgement tells."""
    seen, moved = -1, time.monotonic()
    while time.monotonic() < moved + _STALL:
        if subscriber.by_id.total() > seen:
            seen, moved = subscriber.by_id.total(), time.monotonic()
        try:
            waiting = redis.xlen(KEYS.requests) + redis.xlen(KEYS.requests_high)
            read = seen >= redis.xlen(KEYS.transcripts)
        except RedisError:
            continue
        if waiting == 0 and read:
            return
        time.sleep(0.1)


def judge(target: Target, faults: Faults, subscriber: Subscriber) -> bool:
    """Print the figures; whether each is what it must be, and every fault has come to pass."""
    workers, ledger = target.workers, target.ledger
    await_nothing_held(target.redis, KEYS)
    verdict = Verdict.of(target.redis, KEYS, ledger.submitted, subscriber.by_id)
    missing = faults.missing()
    print(f"faults: {faults.injected.total()}, {dict(faults.injected.most_common())}")
    print(f"deaths at a step: {workers.deaths}")
    print(f"late commits, which wrote nothing: {workers.late_commits()}")
    print(f"answers: {dict(subscriber.answers.most_common())}")
    print(f"attempts: {dict(sorted(subscriber.attempts.items()))}")
    if missing:
        print(f"did not come to pass: {', '.join(missing)}: give it more --seconds")
    for key in left_behind(target.redis, KEYS)[:_MOST_LINES]:
        print(f"left behind: {key}")
    for fault in retention_faults(target.redis, KEYS, WorkerSettings())[:_MOST_LINES]:
        print(f"retention: {fault}")
    print(verdict)
    if not target.everysec:
        return verdict.passed and not missing
    unexcused = beyond_two_seconds(ledger, subscriber, target.kills)
    print(f"killed {len(target.kills)} times; lost or doubled for other reasons: {unexcused}")
    return verdict.clean and not verdict.foreign and not unexcused and not missing


if __name__ == "__main__":
    sys.exit(main())
