"""What goes wrong and how often: dealt by a seed, each kind once before any comes again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from redis.exceptions import RedisError

from chaos.arena import Arena
from chaos.crew import NobodyReady
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

__all__ = ["Faults"]

Fault = Callable[[Arena], str]


def kill_worker(arena: Arena) -> str:
    return f"SIGKILL {arena.crew.replace(arena.crew.pick(arena.draw), kill=True)}"


def drain_worker(arena: Arena) -> str:
    return f"SIGTERM {arena.crew.replace(arena.crew.pick(arena.draw), kill=False)}"


def freeze_worker(arena: Arena) -> str:
    """For longer than the reclaim time: its entries are another's when it wakes up."""
    return _freeze(arena, 1.2, 2.5)


def freeze_worker_briefly(arena: Arena) -> str:
    return _freeze(arena, 0.2, 0.9)


def _freeze(arena: Arena, shortest: float, longest: float) -> str:
    seconds = arena.draw.uniform(shortest, longest) * arena.crew.reclaim_after
    name = arena.crew.freeze(arena.crew.pick(arena.draw), seconds)
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


_KILLS_OF_A_CARELESS_REDIS = 60  # the weight of its restarts: they are what is measured then


class Faults:
    """The dealer, and the tally of what came to pass."""

    def __init__(self, arena: Arena) -> None:
        self.struck: Counter[str] = Counter()
        self._arena = arena
        self._weights = dict(_WEIGHTS)
        if arena.careless:
            self._weights[restart_redis] = _KILLS_OF_A_CARELESS_REDIS
        self._first = deque(arena.draw.sample(list(_WEIGHTS), len(_WEIGHTS)))

    def strike(self) -> str:
        """One fault; what it did. One that cannot be done just now is passed over."""
        fault = self._first[0] if self._first else self._draw()
        try:
            what = fault(self._arena)
        except (RedisError, NobodyReady) as error:
            self._first.rotate()
            return f"{fault.__name__} came to nothing: {error!r}"
        if self._first:
            self._first.popleft()
        self.struck[fault.__name__] += 1
        return what

    def missing(self) -> list[str]:
        """What has not come to pass: a run without it has not shown what it should."""
        faults = [fault.__name__ for fault in _WEIGHTS if not self.struck[fault.__name__]]
        return faults + [step for step, deaths in self._arena.crew.deaths.items() if not deaths]

    def _draw(self) -> Fault:
        [fault] = self._arena.draw.choices(list(self._weights), list(self._weights.values()))
        return fault
