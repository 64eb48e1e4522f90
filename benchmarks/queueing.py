"""What has been heard before: hits a second, beside a bare loop and other queues.

    make bench-queue            or: python benchmarks/queueing.py [--rounds 3] [--seconds 1.2]

A client and one worker process, then two, share the machine with a Redis of their own, whose
append-only file is written every second. The client keeps so many requests in flight. `sensestream`
is our client as it comes: it answers repeats itself. `sensestream, queued` sends them through the
worker: submit, read, look up, commit, follow. The bare loop does the commands of the latter with
nothing around them; the others run a task that does nothing, and store its result. All take turns,
round by round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contest import CONTENDERS, Contender, peers_python
from machine import RESULTS, ROOT, busy_seconds, environment, keep
from picture import bars
from redis import Redis

DEPTHS = (1, 8, 64, 256)
OWN = ("ours", "queued", "bare")  # run in the project's own environment
WARMING_DEPTH = 8
CEILING, PEERS_BAR, SINGLE_BAR = 0.6, 3.0, 0.002
Rounds = dict[tuple[str, int, int], list[dict[str, Any]]]  # contender, workers, depth


def rates(found: Rounds, name: str, workers: int, depth: int) -> list[float]:
    return [one["answered"] / one["seconds"] for one in found[name, workers, depth]]


def ratio(found: Rounds, name: str, other: str, workers: int, depth: int) -> list[float]:
    """Of the one over the other, round by round."""
    mine, theirs = (rates(found, who, workers, depth) for who in (name, other))
    return [a / b if b else float("inf") for a, b in zip(mine, theirs, strict=True)]


def measure(
    contenders: dict[str, Contender], options: argparse.Namespace
) -> tuple[Rounds, list[float]]:
    found: Rounds = {}
    loads = []
    for workers in options.workers:
        for contender in contenders.values():
            while len(contender.workers) < workers:
                contender.add_worker()
            contender.measure(WARMING_DEPTH, options.seconds)  # not counted: all is asked for once
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}, workers: {workers}", flush=True)
            loads.append(os.getloadavg()[0])
            for depth in options.depths:
                for name, contender in contenders.items():
                    one = contender.measure(depth, options.seconds)
                    found.setdefault((name, workers, depth), []).append(one)
    return found, loads


def table(found: Rounds, options: argparse.Namespace) -> list[str]:
    lines = []
    for workers in options.workers:
        lines.append(f"\n| workers: {workers} | " + " | ".join(
            f"{depth} in flight" for depth in options.depths) + " |")  # fmt: skip
        lines.append("|---" * (len(options.depths) + 1) + "|")
        for name in options.only:
            cells = [cell(found, name, workers, depth) for depth in options.depths]
            lines.append(f"| {CONTENDERS[name].name} | " + " | ".join(cells) + " |")
        for mine, name in comparisons(options.only):
            cells = []
            for depth in options.depths:
                values = ratio(found, mine, name, workers, depth)
                cells.append(
                    f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
                )
            both = f"{CONTENDERS[mine].name} / {CONTENDERS[name].name}"
            lines.append(f"| {both} | " + " | ".join(cells) + " |")
    return lines


def comparisons(names: list[str]) -> list[tuple[str, str]]:
    """Which of ours is held against which of the others."""
    return [
        (mine, other)
        for mine in ("ours", "queued") if mine in names
        for other in names if other not in ("ours", mine)
    ]  # fmt: skip


def cell(found: Rounds, name: str, workers: int, depth: int) -> str:
    rate = statistics.median(rates(found, name, workers, depth))
    p50 = statistics.median(one["p50"] for one in found[name, workers, depth])
    p99 = statistics.median(one["p99"] for one in found[name, workers, depth])
    return f"{rate:,.0f}/s, {p50 * 1e3:.1f} / {p99 * 1e3:.1f} ms"


def costs(found: Rounds, options: argparse.Namespace) -> list[str]:
    """Processor microseconds a request, by process, at the deepest."""
    lines = []
    depth = max(options.depths)
    for name in options.only:
        rounds = found[name, options.workers[0], depth]
        share = 1 / 1.2  # of the processor time that fell into what is counted
        parts = {
            who: statistics.median(
                one["cpu_seconds"][who] * share / max(1, one["answered"]) for one in rounds
            )
            for who in ("worker", "client", "redis")
        }
        told = ", ".join(f"{who} {used * 1e6:.0f}" for who, used in parts.items())
        who = CONTENDERS[name].name
        lines.append(f"µs of processor a request, {depth} in flight, {who}: {told}")
    return lines


def judge(found: Rounds, options: argparse.Namespace) -> list[str]:
    """Each bar, and whether it is met."""
    cases = [(workers, depth) for workers in options.workers for depth in options.depths]
    return [line for workers, depth in cases for line in _judge(found, options, workers, depth)]


def _judge(found: Rounds, options: argparse.Namespace, workers: int, depth: int) -> list[str]:
    lines, case = [], f"{workers} worker(s), {depth} in flight"
    peers = [name for name in options.only if name not in OWN]
    if {"queued", "bare"} <= set(options.only):
        share = statistics.median(ratio(found, "queued", "bare", workers, depth))
        what = f"{case}: queued, {share:.0%} of the bare loop, bar {CEILING:.0%}"
        lines.append(verdict(what, share >= CEILING))
    if "ours" in options.only and peers:
        times = min(statistics.median(ratio(found, "ours", one, workers, depth)) for one in peers)
        what = f"{case}: {times:.1f} times the best other queue, bar {PEERS_BAR:g}"
        lines.append(verdict(what, times >= PEERS_BAR))
    for name in [name for name in ("ours", "queued") if name in options.only and depth == 1]:
        p50 = statistics.median(one["p50"] for one in found[name, workers, 1])
        what = (
            f"{case}: {CONTENDERS[name].name}, p50 {p50 * 1e3:.2f} ms, bar {SINGLE_BAR * 1e3:g} ms"
        )
        lines.append(verdict(what, p50 <= SINGLE_BAR))
    return lines


def verdict(what: str, met: bool) -> str:
    return f"{what}: {'met' if met else 'MISSED'}"


def run(options: argparse.Namespace) -> dict[str, Any]:
    others = [name for name in options.only if name not in OWN]
    python = peers_python() if others else Path(sys.executable)
    with tempfile.TemporaryDirectory(prefix="sensestream-bench-") as folder:
        contenders: dict[str, Contender] = {}
        try:
            for name in options.only:
                own = Path(sys.executable) if name in OWN else python
                contenders[name] = CONTENDERS[name](Path(folder), own)
                contenders[name].begin()
            with Redis.from_url(next(iter(contenders.values())).url) as redis:
                redis_version = redis.info("server")["redis_version"]
            busy, began = busy_seconds(), time.monotonic()
            found, loads = measure(contenders, options)
            taken = (busy_seconds() - busy) / (time.monotonic() - began) / (os.cpu_count() or 1)
        finally:
            for contender in contenders.values():
                contender.close()
    facts = {
        **environment(sorted(os.sched_getaffinity(0))), "redis": redis_version,
        "redis-py": version("redis"), "loads": loads, "busy_share": taken,
    }  # fmt: skip
    lines = [*table(found, options), "", *costs(found, options), ""]
    lines.append(
        f"{facts['processor']}, {facts['cores']} cores, Redis {redis_version} (append-only file, "
        f"everysec), redis-py {facts['redis-py']}, Python {facts['python']}; medians of "
        f"{options.rounds} rounds of {options.seconds:g} s in turns, slowest and fastest ratio in "
        f"brackets, p50 / p99; load {min(loads):.1f} to {max(loads):.1f}, {taken:.0%} busy."
    )
    print("\n".join([*lines, "", *judge(found, options)]))
    return {
        "environment": facts,
        "rounds": {f"{name}, {workers} workers, {depth}": rounds
                   for (name, workers, depth), rounds in found.items()},
        "picture": str(draw(found, options)),
    }  # fmt: skip


def draw(found: Rounds, options: argparse.Namespace) -> Path:
    """Requests a second with one worker, by depth."""
    workers = options.workers[0]
    groups = {
        f"{depth} in flight": {
            CONTENDERS[name].name: statistics.median(rates(found, name, workers, depth))
            for name in options.only
        }
        for depth in options.depths
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "queueing.svg"
    path.write_text(bars("Hits a second, one worker process", groups), encoding="utf-8")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.2, help="of each measurement")
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    result = run(parser.parse_args())
    print(f"every round: {keep('queueing', result).relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
