"""What Redis would hold of a pipeline, in memory, with a clock that can be moved.

Nothing here is locked by itself: whoever looks or writes holds `lock`, for as long as a script
on Redis would run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import takewhile

from sensestream_common.contract.errors import ErrorCode, RedisUnavailable
from sensestream_common.contract.keys import Keys, Lane
from sensestream_common.contract.outcome import Outcome, Status, outcome_from_entry
from sensestream_common.contract.request import Request
from sensestream_common.contract.transcript import Transcript

from sensestream_producer.operations.dead_letters import DeadLetter
from sensestream_producer.outcomes.stream_ids import ORIGIN, StreamId, id_text
from sensestream_producer.submit.submission import RequestState
from sensestream_producer.testing.change_notifier import ChangeNotifier

__all__ = ["Known", "Standing", "Store"]

_LETTER_BYTES_KEPT = timedelta(days=7)
_EXPIRY_MS = 500  # between two looks for what has expired; times to live are whole seconds


@dataclass(slots=True)
class Known:
    """What `request:<id>` would say."""

    state: str
    entry: str
    lane: Lane
    status: Status | None = None
    outcome: str = ""
    expires: float = float("inf")  # milliseconds since the epoch


@dataclass(slots=True)
class Standing:
    """A request in its lane; `taken` when a worker holds it."""

    entry: str
    lane: Lane
    request: Request
    taken: bool = False


@dataclass
class Store:
    """One pipeline. Times to live are those of the contract's defaults unless given."""

    keys: Keys
    result_ttl: timedelta = timedelta(days=7)
    request_ttl: timedelta = timedelta(days=1)
    transcripts_ttl: timedelta = timedelta(days=1)

    lock: threading.RLock = field(default_factory=threading.RLock)
    changed: ChangeNotifier = field(default_factory=ChangeNotifier)
    reachable: bool = True
    offset: timedelta = timedelta(0)
    standing: dict[str, Standing] = field(default_factory=dict)
    known: dict[str, Known] = field(default_factory=dict)
    outcomes: dict[StreamId, Outcome] = field(default_factory=dict)
    trimmed: StreamId = ORIGIN
    letters: dict[str, DeadLetter] = field(default_factory=dict)
    results: dict[tuple[str, str, bool], tuple[Transcript, float]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    upload_ends: dict[str, float] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    last: StreamId = ORIGIN
    _last_of_any: StreamId = ORIGIN
    _expired_at: int = 0

    @contextmanager
    def step(self) -> Iterator[int]:
        """One step that nobody sees half of; gives the time in milliseconds since the epoch."""
        with self.lock:
            if not self.reachable:
                raise RedisUnavailable(
                    "Redis at memory:// does not answer (the test says so): leave "
                    "`ScriptedPipeline.unavailable()`"
                )
            now = self.now()
            if now - self._expired_at >= _EXPIRY_MS:
                self.expire(now)
            yield now

    def now(self) -> int:
        return time.time_ns() // 1_000_000 + self.offset // timedelta(milliseconds=1)

    def count(self, *names: str) -> None:
        for name in names:
            self.counters[name] = self.counters.get(name, 0) + 1

    def new_id(self, now: int) -> StreamId:
        """Rises in all streams together: a request and its outcome never share an id."""
        before = self._last_of_any
        self._last_of_any = (now, 0) if now > before[0] else (before[0], before[1] + 1)
        return self._last_of_any

    def lane(self, lane: Lane) -> list[Standing]:
        return [each for each in self.standing.values() if each.lane is lane]

    def add(self, request: Request, lane: Lane, now: int) -> str:
        """XADD, and the request's key."""
        entry = id_text(self.new_id(now))
        self.standing[entry] = Standing(entry, lane, request)
        self.known[request.id] = Known(RequestState.QUEUED, entry, lane)
        self.count("submitted")
        return entry

    def find(self, request_id: str) -> tuple[Known | None, bool]:
        """The request's key, and whether its request is still to be answered."""
        known = self.known.get(request_id)
        queued = known is not None and known.state != RequestState.DONE
        return known, queued and known is not None and known.entry in self.standing

    def commit(self, standing: Standing, outcome: Outcome, now: int) -> None:
        """The one step that answers a request."""
        stream_id = self.last = self.new_id(now)
        del self.standing[standing.entry]
        # Through its fields, so that a subscriber gets what the stream would have given it.
        fields = {name.encode(): text.encode() for name, text in outcome.encode().items()}
        self.outcomes[stream_id] = outcome_from_entry(fields)
        self._settle(standing, outcome, id_text(stream_id), now)
        if outcome.error and outcome.error.dead_letter:
            self._bury(standing, outcome, now)
        elif standing.request.audio == f"redis:{self.keys.upload(outcome.id)}":
            self.uploads.pop(self.keys.upload(outcome.id), None)
        self.changed.ring()

    def since(self, position: StreamId) -> list[tuple[StreamId, Outcome]]:
        """The outcomes behind a position, oldest first."""
        newest_first = reversed(self.outcomes.items())
        return list(takewhile(lambda item: item[0] > position, newest_first))[::-1]

    def trim(self, before: StreamId) -> None:
        """Outcomes below this id are no longer kept."""
        for stream_id in list(takewhile(lambda each: each < before, self.outcomes)):
            del self.outcomes[stream_id]
            self.trimmed = stream_id

    def _settle(self, standing: Standing, outcome: Outcome, written: str, now: int) -> None:
        known = self.known.get(outcome.id)
        if known and known.entry == standing.entry:
            ends = now + self.request_ttl / timedelta(milliseconds=1)
            self.known[outcome.id] = replace(
                known, state=RequestState.DONE, status=outcome.status, outcome=written, expires=ends
            )
        self.count("completed" if outcome.completed else "failed")

    def _bury(self, standing: Standing, outcome: Outcome, now: int) -> None:
        letter = id_text(self.new_id(now))
        about = {
            "entry": standing.entry,
            "lane": standing.lane.value,
            "digest": outcome.digest,
            "error": (outcome.error or ErrorCode.INTERNAL).value,
            "message": outcome.message,
            "attempt": str(outcome.attempt),
            "worker": outcome.worker,
            "at": str(now),
        }
        fields = {name.encode(): text.encode() for name, text in standing.request.encode().items()}
        self.letters[letter] = DeadLetter(letter, fields, about)
        ends = now + _LETTER_BYTES_KEPT / timedelta(milliseconds=1)
        self.upload_ends[self.keys.upload(outcome.id)] = ends
        self.count("dead")

    def expire(self, now: int) -> None:
        """What Redis and the janitor would have let go by now."""
        self._expired_at = now
        for name in [name for name, known in self.known.items() if known.expires <= now]:
            del self.known[name]
        for identity in [each for each, (_, ends) in self.results.items() if ends <= now]:
            del self.results[identity]
        for key in [key for key, ends in self.upload_ends.items() if ends <= now]:
            del self.upload_ends[key]
            self.uploads.pop(key, None)
        self.trim((now - self.transcripts_ttl // timedelta(milliseconds=1), 0))
