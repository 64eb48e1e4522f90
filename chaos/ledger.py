"""The books: what was submitted, and what came out, by id and by entry."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from sensestream_common.contract.keys import Keys

__all__ = ["Ledger", "Subscriber"]


class Ledger:
    """Every request that Redis has acknowledged, by the id that its producer gave it."""

    def __init__(self) -> None:
        self.submitted: Counter[str] = Counter()
        self.acknowledged: dict[str, float] = {}  # when, by the monotonic clock
        self._lock = threading.Lock()

    def add(self, request_id: str) -> None:
        with self._lock:
            self.submitted[request_id] += 1
            self.acknowledged[request_id] = time.monotonic()

    def __len__(self) -> int:
        with self._lock:
            return self.submitted.total()


class Subscriber(threading.Thread):
    """Reads the transcripts stream from its beginning, across every outage, and counts all."""

    def __init__(self, url: str, keys: Keys) -> None:
        super().__init__(name="subscriber", daemon=True)
        self.by_id: Counter[str] = Counter()
        self.by_entry: Counter[tuple[str, str]] = Counter()  # (id, entry of the request)
        self.first_seen: dict[str, float] = {}  # when, by the monotonic clock
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

    def end(self) -> None:
        self._ended.set()
        self.join()

    def _count(self, outcome: dict[str, str]) -> None:
        self.first_seen.setdefault(outcome["id"], time.monotonic())
        self.by_id[outcome["id"]] += 1
        self.by_entry[outcome["id"], outcome["entry"]] += 1
        self.answers[outcome.get("cache") or outcome["error"]] += 1
        self.attempts[outcome.get("attempt", "0")] += 1
