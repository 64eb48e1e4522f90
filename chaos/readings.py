"""What a soak reads off its processes and its Redis, and whether that grows."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
from sensestream_common.contract.keys import REQUESTS_GROUP, Keys

from chaos.retention import count_by_kind

__all__ = ["Growth", "Reading", "busy_seconds", "growth", "read"]

_SETTLING = 0.25  # of the run: caches fill, the first keys come to their end


@dataclass(frozen=True)
class Reading:
    """One moment: seconds since the beginning, bytes, entries, keys by kind."""

    at: float
    worker_rss: tuple[int, ...]
    redis_memory: int
    redis_rss: int
    backlog: int
    pending: int
    kinds: Counter[str]

    def __str__(self) -> str:
        rss = " ".join(f"{size / 2**20:.1f}" for size in self.worker_rss)
        kinds = " ".join(f"{kind}={count}" for kind, count in sorted(self.kinds.items()))
        return (
            f"{self.at:7.0f} s  workers {rss} MiB  Redis {self.redis_memory / 2**20:.2f} MiB  "
            f"backlog {self.backlog}  pending {self.pending}  {kinds}"
        )


def read(at: float, redis: Any, keys: Keys, server: int, workers: Sequence[int]) -> Reading:
    """Look now: `server` and `workers` are process ids."""
    lanes = (keys.requests, keys.requests_high)
    return Reading(
        at=at,
        worker_rss=tuple(psutil.Process(pid).memory_info().rss for pid in workers),
        redis_memory=int(redis.info("memory")["used_memory"]),
        redis_rss=psutil.Process(server).memory_info().rss,
        backlog=sum(redis.xlen(lane) for lane in lanes),
        pending=sum(redis.xpending(lane, REQUESTS_GROUP)["pending"] for lane in lanes),
        kinds=count_by_kind(redis, keys),
    )


@dataclass(frozen=True)
class Growth:
    """How a figure moved over the last three quarters of a run, by its least-squares line."""

    mean: float
    grown: float  # what the line rises by from the first reading regarded to the last

    @property
    def share(self) -> float:
        return self.grown / self.mean

    def __str__(self) -> str:
        mean, grown = self.mean / 2**20, self.grown / 2**20
        return f"{mean:.2f} MiB on average, grown by {grown:+.3f} MiB ({self.share:+.1%})"


def busy_seconds(processes: Sequence[int]) -> float:
    """Processor time that they have used since they were started."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in processes)


def growth(times: Sequence[float], values: Sequence[float]) -> Growth:
    """The trend of `values` at `times`, without the first quarter."""
    since = times[-1] * _SETTLING
    kept = [(time, value) for time, value in zip(times, values, strict=True) if time >= since]
    later, figures = zip(*kept, strict=True)
    line = statistics.linear_regression(later, figures)
    return Growth(statistics.fmean(figures), line.slope * (later[-1] - later[0]))
