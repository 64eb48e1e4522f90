"""The count: what was submitted against what came out, entry by entry."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from sensestream_common.keys import Keys

__all__ = ["Ledger", "Subscriber", "Verdict"]


@dataclass
class Ledger:
    """Every request that Redis has acknowledged, by the id that its producer gave it."""

    submitted: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, request_id: str) -> None:
        with self.lock:
            self.submitted[request_id] += 1

    def __len__(self) -> int:
        with self.lock:
            return self.submitted.total()


class Subscriber(threading.Thread):
    """Reads the transcripts stream from its beginning, across every outage, and counts all."""

    def __init__(self, url: str, keys: Keys) -> None:
        super().__init__(name="subscriber", daemon=True)
        self.by_id: Counter[str] = Counter()
        self.by_entry: Counter[tuple[str, str]] = Counter()  # (id, entry of the request)
        self.answers: Counter[str] = Counter()  # by what the cache had to do with it, or the error
        self.attempts: Counter[str] = Counter()
        self._redis: Any = Redis.from_url(url, socket_timeout=5)
        self._stream = keys.transcripts
        self._ended = threading.Event()

    def run(self) -> None:
        position = b"0"
        while not self._ended.is_set():
            try:
                reply = self._redis.xread({self._stream: position}, count=1000, block=200)
            except (RedisError, OSError):
                self._ended.wait(0.1)
                continue
            for entry, fields in reply[0][1] if reply else []:
                position = entry
                self._count({name.decode(): value.decode() for name, value in fields.items()})

    def _count(self, outcome: dict[str, str]) -> None:
        self.by_id[outcome["id"]] += 1
        self.by_entry[outcome["id"], outcome["entry"]] += 1
        self.answers[outcome.get("cache") or outcome["error"]] += 1
        self.attempts[outcome.get("attempt", "0")] += 1

    def end(self) -> None:
        self._ended.set()
        self.join()


@dataclass(frozen=True)
class Verdict:
    """The figures a run ends with; `passed` when each of them is what it must be."""

    submitted: int
    outcomes: int
    duplicates: int
    lost: int
    foreign: int
    backlog: int
    pending: int
    leases: int
    without_retention: int

    @property
    def passed(self) -> bool:
        return self.submitted == self.outcomes and not any(
            (self.duplicates, self.lost, self.foreign, self.backlog, self.pending, self.leases,
             self.without_retention)
        )  # fmt: skip

    def __str__(self) -> str:
        return json.dumps(self.__dict__ | {"passed": self.passed})

    @classmethod
    def of(cls, redis: Any, keys: Keys, ledger: Ledger, subscriber: Subscriber) -> Verdict:
        seen = subscriber.by_id
        lanes = (keys.requests, keys.requests_high)
        return cls(
            submitted=ledger.submitted.total(),
            outcomes=seen.total(),
            duplicates=sum((seen - ledger.submitted).values()),
            lost=sum((ledger.submitted - seen).values()),
            foreign=sum(count for name, count in seen.items() if name not in ledger.submitted),
            backlog=sum(redis.xlen(lane) for lane in lanes),
            pending=sum(redis.xpending(lane, "workers")["pending"] for lane in lanes),
            leases=len(list(redis.scan_iter(f"{keys.prefix}lease:*", count=1000))),
            without_retention=_without_retention(redis, keys),
        )


def _without_retention(redis: Any, keys: Keys) -> int:
    """Keys that should end by themselves by now, and do not."""
    patterns = ("result", "audio", "crashes", "request", "upload", "worker")
    found = [
        key for pattern in patterns for key in redis.scan_iter(f"{keys.prefix}{pattern}:*", 1000)
    ]
    pipe = redis.pipeline(transaction=False)
    for key in found:
        pipe.ttl(key)
    return sum(ttl == -1 for ttl in pipe.execute())
