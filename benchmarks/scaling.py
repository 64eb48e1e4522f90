"""What one request costs as everything around it grows: it must stay the same.

    make bench-scale          or: python benchmarks/scaling.py [--only backlog cache workers size]

Hits throughout, through workers unless it is said otherwise. A longer backlog, a larger cache, more
workers and larger requests, each against the smallest of its kind; what is compared is processor
time a request, which other work on the machine disturbs least. A file that is read to be hashed
costs by its length, and so is told.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contest import KEYS, Ours, Process, Queued
from known import spoken
from machine import ROOT, environment, keep
from redis import Redis

from chaos.backlog import measure as measure_backlog
from tests.support.clips import encoded, tone

FLAT = 1.25  # times the cost of the smallest
DEPTH = 64
BACKLOGS = (1000, 10_000, 100_000, 1_000_000)
RESULTS = (1000, 10_000, 100_000, 1_000_000)
WORKERS = (1, 2, 4, 8)
METADATA = (0, 1024, 16_384)  # bytes
AUDIO = (100_000, 1_000_000, 10_000_000)  # bytes
# Other people's results and aliases: of the right shape and weight, which is what is measured.
_FILL = """
for n = ARGV[1], ARGV[2] do
  local name = redis.sha1hex(n) .. string.sub(redis.sha1hex(n .. 'x'), 1, 24)
  redis.call('HSET', KEYS[1] .. name, 'transcript', ARGV[3], 'model', 'demo')
  redis.call('SET', KEYS[2] .. 'sha256:' .. name, name)
end
"""
_CHUNK = 2000
_REWRITE = 300.0  # seconds


class Case:
    """What one setting cost, round by round."""

    def __init__(self, kind: str, size: int, shown: str, *, by: str = "worker") -> None:
        self.kind, self.size, self.shown, self.by = kind, size, shown, by
        self.rounds: list[dict[str, float]] = []

    def add(self, found: dict[str, Any]) -> None:
        share = 1 / 1.2  # of the processor time that fell into what is counted
        used = {who: part * share / found["answered"] for who, part in found["cpu_seconds"].items()}
        self.rounds.append({"rate": found["answered"] / found["seconds"], **used})

    def median(self, figure: str) -> float:
        return statistics.median(one[figure] for one in self.rounds)

    @property
    def cost(self) -> float:
        """Seconds of processor a request, in Redis and in whoever answers."""
        return self.median(self.by) + self.median("redis")


@contextmanager
def ours(folder: Path, kind: type[Ours] = Queued) -> Iterator[Ours]:
    contender = kind(folder)
    try:
        contender.begin()
        yield contender
    finally:
        contender.close()


def by_backlog(options: argparse.Namespace, _: Path) -> list[Case]:
    cases = [Case("waiting requests", size, f"{size:,}") for size in BACKLOGS]
    for _ in range(options.rounds):
        for case in cases:
            pace = measure_backlog(case.size, options.seconds)
            case.rounds.append({
                "rate": pace.answered / pace.seconds,
                "worker": pace.processor_per_request, "redis": 0.0,
            })  # fmt: skip
    return cases


def by_cache(options: argparse.Namespace, folder: Path) -> list[Case]:
    cases = [Case("results kept", size, f"{size:,}") for size in RESULTS]
    _grow(options, folder, cases, Queued)
    return cases


def by_cache_at_once(options: argparse.Namespace, folder: Path) -> list[Case]:
    kind = "results kept, answered by the client"
    cases = [Case(kind, size, f"{size:,}", by="client") for size in RESULTS]
    _grow(options, folder, cases, Ours)
    return cases


def _grow(options: argparse.Namespace, folder: Path, cases: list[Case], kind: type[Ours]) -> None:
    """Not in turns: a cache only grows here."""
    transcript = spoken(10).dumps()
    with ours(folder, kind) as contender, Redis.from_url(contender.url) as redis:
        kept = 1
        for case in cases:
            while kept < case.size:
                last = min(kept + _CHUNK, case.size)
                keys = [KEYS.result(""), KEYS.audio("", "1")]
                redis.eval(_FILL, 2, *keys, kept, last, transcript)
                kept = last + 1
            _settle(redis)
            for _ in range(options.rounds):
                case.add(contender.measure(DEPTH, options.seconds))


def _settle(redis: Redis) -> None:
    """Have the append-only file rewritten now, and not while a few hits are measured.

    So much growth sets it off sooner or later, and a million writes at once are not what is asked.
    """
    for begin in (False, True):  # the one that may be under way, and one that begins after the last
        if begin:
            redis.bgrewriteaof()
        deadline = time.monotonic() + _REWRITE
        while _rewrites(redis):
            if time.monotonic() > deadline:
                sys.exit(f"Redis still rewrites its append-only file after {_REWRITE:g} s")
            time.sleep(0.2)


def _rewrites(redis: Redis) -> bool:
    state = redis.info("persistence")
    return bool(state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"])


def by_workers(options: argparse.Namespace, folder: Path) -> list[Case]:
    cases = [Case("workers", count, str(count)) for count in WORKERS]
    _hire(options, folder, cases, Queued)
    return cases


def by_workers_at_once(options: argparse.Namespace, folder: Path) -> list[Case]:
    """They have nothing to do but to be there, which shall cost a request nothing either."""
    kind = "workers, answered by the client"
    cases = [Case(kind, count, str(count), by="client") for count in WORKERS]
    _hire(options, folder, cases, Ours)
    return cases


def _hire(options: argparse.Namespace, folder: Path, cases: list[Case], kind: type[Ours]) -> None:
    with ours(folder, kind) as contender:
        for case in cases:
            while len(contender.workers) < case.size:
                contender.add_worker()
            for _ in range(options.rounds):
                case.add(contender.measure(4 * DEPTH, options.seconds))


def by_size(options: argparse.Namespace, folder: Path) -> list[Case]:
    cases = [Case("bytes of metadata", size, f"{size:,}") for size in METADATA]
    with ours(folder) as contender:
        _drive(contender, options, cases, lambda case: ["--metadata", case.size])
    return cases


def by_length(options: argparse.Namespace, folder: Path) -> list[Case]:
    cases = [Case("bytes of audio, hashed", size, f"{size:,}") for size in AUDIO]
    for case in cases:
        (folder / f"{case.size}.wav").write_bytes(encoded(tone(1, seconds=case.size / 32_000)))
    with ours(folder) as contender:
        _drive(contender, options, cases, lambda case: ["--audio", folder / f"{case.size}.wav"])
    return cases


def _drive(
    contender: Ours, options: argparse.Namespace, cases: list[Case],
    arguments: Callable[[Case], list[Any]],
) -> None:  # fmt: skip
    """Each case by a driver of its own, in turns."""
    drivers = {}
    for case in cases:
        drivers[case] = Process([*contender.driver_command(), *arguments(case)])
        drivers[case].answer()
        contender.drivers.append(drivers[case])
    for _ in range(options.rounds):
        for case, driver in drivers.items():
            contender.driver = driver
            case.add(contender.measure(8, options.seconds))


KINDS: dict[str, Callable[[argparse.Namespace, Path], list[Case]]] = {
    "backlog": by_backlog,
    "cache": by_cache,
    "cache-at-once": by_cache_at_once,
    "workers": by_workers,
    "workers-at-once": by_workers_at_once,
    "size": by_size,
    "length": by_length,
}


def table(cases: list[Case]) -> list[str]:
    cost = f"µs of processor a request: {cases[0].by} / Redis"
    head = [cases[0].kind, "requests a second", cost, "times the first"]
    lines = [f"| {' | '.join(head)} |", "|---|---|---|---|"]
    for case in cases:
        redis = f"{case.median('redis') * 1e6:,.0f}" if case.median("redis") else "not looked at"
        lines.append(
            f"| {case.shown} | {case.median('rate'):,.0f} | "
            f"{case.median(case.by) * 1e6:,.0f} / {redis} | {case.cost / cases[0].cost:.2f} |"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    options = parser.parse_args()
    facts = environment(sorted(os.sched_getaffinity(0)))
    loads = [os.getloadavg()[0]]
    found: dict[str, list[Case]] = {}
    for kind in options.only:
        with tempfile.TemporaryDirectory(prefix="sensestream-scale-") as folder:
            found[kind] = KINDS[kind](options, Path(folder))
        loads.append(os.getloadavg()[0])
        print("\n".join(["", *table(found[kind])]), flush=True)
    print(
        f"\n{facts['processor']}, {facts['cores']} cores, Python {facts['python']}; medians of "
        f"{options.rounds} rounds of {options.seconds:g} s; load {min(loads):.1f} to "
        f"{max(loads):.1f}.\n"
    )
    for kind, cases in found.items():
        if kind not in ("size", "length"):
            times = max(case.cost for case in cases) / cases[0].cost
            met = "met" if times <= FLAT else "MISSED"
            print(f"{cases[0].kind}: {times:.2f} times the cost at most, bar {FLAT:g}: {met}")
    result = {
        "environment": {**facts, "loads": loads},
        "rounds": {f"{case.kind}: {case.shown}": case.rounds
                   for cases in found.values() for case in cases},
    }  # fmt: skip
    print(f"every round: {keep('scaling', result).relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
