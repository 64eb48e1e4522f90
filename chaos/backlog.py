"""`python -m chaos.backlog`: one worker before a short backlog and before a very long one.

The backlog is kept at its length while the worker answers hits from it, so that both have the same
to do; what differs is how much waits behind. Neither the worker's pace nor its memory may tell.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from redis import Redis
from sensestream_common.contract.keys import Keys
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.support.clips import encoded, tone
from tests.support.waiting import wait_until_sync
from tests.support.workers import WorkerProcess

KEYS = Keys("sensestream")
_SETTLING = 2.0  # seconds of work before anything is counted
_TOP_UP = 0.02  # seconds between looks at the backlog
_BATCH = 5000  # entries added by one script, which blocks Redis meanwhile
# What a long backlog may cost: processor time a request, and resident memory, against a short one.
_SLOWER, _LARGER = 1.25, 1.1
_FILL = """
for _ = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'audio', ARGV[2], 'digest', ARGV[3]) end
"""


@dataclass(frozen=True)
class Pace:
    """What a worker did before a backlog of `waiting` entries."""

    waiting: int
    answered: int
    seconds: float
    processor: float  # seconds of it that the worker used
    rss: int

    @property
    def processor_per_request(self) -> float:
        return self.processor / self.answered

    def __str__(self) -> str:
        return (
            f"{self.waiting:>9,} waiting: {self.answered / self.seconds:7,.0f} requests/s, "
            f"{self.processor_per_request * 1e6:6.0f} µs of processor a request, "
            f"{self.rss / 2**20:.1f} MiB"
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="backlog", description=__doc__)
    parser.add_argument("--short", type=int, default=1000)
    parser.add_argument("--long", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2, help="of both, one after the other")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    paces: dict[int, list[Pace]] = {options.short: [], options.long: []}
    for _ in range(options.rounds):
        for waiting, measured in paces.items():
            measured.append(measure(waiting, options.seconds))
            print(measured[-1], flush=True)
    short, long = (paces[waiting] for waiting in (options.short, options.long))
    slower = _least(long, "processor_per_request") / _least(short, "processor_per_request")
    larger = _least(long, "rss") / _least(short, "rss")
    print(f"a long backlog costs {slower:.2f} times the processor, {larger:.3f} times the memory")
    return 0 if slower <= _SLOWER and larger <= _LARGER else 1


def _least(paces: list[Pace], figure: str) -> float:
    """The best of the rounds: what else the machine does only ever adds to it."""
    return min(float(getattr(pace, figure)) for pace in paces)


def measure(waiting: int, seconds: float) -> Pace:
    with (
        tempfile.TemporaryDirectory(prefix="sensestream-backlog-") as name,
        EmbeddedRedis(appendonly=True) as server,
        Redis.from_url(server.url) as redis,
    ):
        folder = Path(name)
        clip = folder / "clip.wav"
        clip.write_bytes(encoded(tone(1)))
        worker = WorkerProcess(server.url, folder, folder / "log", log_level="warning")
        try:
            known = [clip.as_uri(), "sha256:" + hashlib.sha256(clip.read_bytes()).hexdigest()]
            redis.eval(_FILL, 1, KEYS.requests, 1, *known)
            wait_until_sync(lambda: redis.xlen(KEYS.transcripts), timeout=60, what="the first miss")
            return _pace(redis, worker.process.pid, waiting, known, seconds)
        finally:
            worker.terminate(60)


def _pace(redis: Any, worker: int, waiting: int, known: list[str], seconds: float) -> Pace:
    process = psutil.Process(worker)
    keep_full(redis, waiting, known)
    began = time.monotonic()
    while time.monotonic() < began + _SETTLING:
        keep_full(redis, waiting, known)
    began, used, done = time.monotonic(), sum(process.cpu_times()[:2]), _answered(redis)
    while time.monotonic() < began + seconds:
        keep_full(redis, waiting, known)
        time.sleep(_TOP_UP)
    return Pace(
        waiting,
        _answered(redis) - done,
        time.monotonic() - began,
        sum(process.cpu_times()[:2]) - used,
        process.memory_info().rss,
    )


def keep_full(redis: Any, waiting: int, known: list[str]) -> None:
    while (missing := waiting - int(redis.xlen(KEYS.requests))) > 0:
        redis.eval(_FILL, 1, KEYS.requests, min(missing, _BATCH), *known)


def _answered(redis: Any) -> int:
    return int(redis.hget(KEYS.stats, "completed") or 0)


if __name__ == "__main__":
    sys.exit(main())
