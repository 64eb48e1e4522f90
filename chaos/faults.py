"""Faults and their frequency: drawn by a seed, each kind once before any comes again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from redis.exceptions import RedisError

from chaos.redis_faults import (
    cut_connections,
    delay_connections,
    entry_from_the_future,
    fill_memory,
    forget_scripts,
    pause_redis,
    restart_redis,
    stall_redis,
    wrong_cache_types,
    wrong_stats_type,
    wrong_transcripts_type,
)
from chaos.target import Target
from chaos.workers import TooFewReady

__all__ = ["Faults"]

Fault = Callable[[Target], str]


def kill_worker(target: Target) -> str:
    return f"SIGKILL {target.workers.replace(target.workers.pick(target.draw), kill=True)}"


def drain_worker(target: Target) -> str:
    return f"SIGTERM {target.workers.replace(target.workers.pick(target.draw), kill=False)}"


def freeze_worker(target: Target) -> str:
    """For longer than the reclaim time: its entries are another's when it wakes up."""
    return _freeze(target, 1.2, 2.5)


def freeze_worker_briefly(target: Target) -> str:
    return _freeze(target, 0.2, 0.9)


def _freeze(target: Target, shortest: float, longest: float) -> str:
    seconds = target.draw.uniform(shortest, longest) * target.workers.reclaim_after
    name = target.workers.freeze(target.workers.pick(target.draw), seconds)
    return f"SIGSTOP {name} for {seconds:.1f} s"


_WEIGHTS: dict[Fault, int] = {  # how often, against each other
    kill_worker: 28,
    freeze_worker: 12,
    freeze_worker_briefly: 6,
    drain_worker: 12,
    cut_connections: 12,
    delay_connections: 6,
    forget_scripts: 6,
    pause_redis: 5,
    restart_redis: 5,
    stall_redis: 3,
    fill_memory: 4,
    wrong_stats_type: 3,
    wrong_transcripts_type: 3,
    wrong_cache_types: 3,
    entry_from_the_future: 2,
}


_EVERYSEC_RESTARTS = 60  # the weight of its restarts: they are what is measured then


class Faults:
    """Draws the faults, and counts those that came to pass."""

    def __init__(self, target: Target) -> None:
        self.injected: Counter[str] = Counter()
        self._target = target
        self._weights = dict(_WEIGHTS)
        if target.everysec:
            self._weights[restart_redis] = _EVERYSEC_RESTARTS
        self._first = deque(target.draw.sample(list(_WEIGHTS), len(_WEIGHTS)))

    def inject(self) -> str:
        """Inject one fault and describe it; one that cannot be injected just now is passed over."""
        fault = self._first[0] if self._first else self._draw()
        try:
            description = fault(self._target)
        except (RedisError, TooFewReady) as error:
            self._first.rotate()
            return f"{fault.__name__} came to nothing: {error!r}"
        if self._first:
            self._first.popleft()
        self.injected[fault.__name__] += 1
        return description

    def missing(self) -> list[str]:
        """The faults and steps that have not come to pass; a run needs all of them."""
        faults = [fault.__name__ for fault in _WEIGHTS if not self.injected[fault.__name__]]
        return faults + [step for step, deaths in self._target.workers.deaths.items() if not deaths]

    def _draw(self) -> Fault:
        [fault] = self._target.draw.choices(list(self._weights), list(self._weights.values()))
        return fault
