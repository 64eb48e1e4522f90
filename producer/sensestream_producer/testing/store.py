"""The state that Redis holds of a pipeline, in memory, with a clock that can be moved.

No method takes the lock, except `step`: a caller holds `lock` for as long as a script on Redis
would run.
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

from sensestream_producer.operations.dead_letters import DeadLetter
from sensestream_producer.outcomes.stream_ids import ORIGIN, StreamId, id_text
from sensestream_producer.submit.submission import RequestState
from sensestream_producer.testing.change_notifier import ChangeNotifier
from sensestream_producer.testing.script import ScriptedResult

__all__ = ["QueuedRequest", "RequestRecord", "Store"]

_LETTER_BYTES_KEPT = timedelta(days=7)
_EXPIRY_MS = 500  # between two runs of `expire`; times to live are whole seconds


@dataclass(slots=True)
class RequestRecord:
    """The key `request:<id>`."""

    state: str
    entry: str
    lane: Lane
    status: Status | None = None
    outcome: str = ""
    expires: float = float("inf")  # milliseconds since the epoch


@dataclass(slots=True)
class QueuedRequest:
    """A request in its lane; `picked_up` when the worker holds it."""

    entry: str
    lane: Lane
    request: Request
    picked_up: bool = False


@dataclass
class Store:
    """One pipeline; times to live are the contract's defaults."""

    keys: Keys
    result_ttl: timedelta = timedelta(days=7)
    request_ttl: timedelta = timedelta(days=1)
    transcripts_ttl: timedelta = timedelta(days=1)

    lock: threading.RLock = field(default_factory=threading.RLock)
    changed: ChangeNotifier = field(default_factory=ChangeNotifier)
    reachable: bool = True
    offset: timedelta = timedelta(0)
    queued: dict[str, QueuedRequest] = field(default_factory=dict)
    records: dict[str, RequestRecord] = field(default_factory=dict)
    outcomes: dict[StreamId, Outcome] = field(default_factory=dict)
    trimmed: StreamId = ORIGIN
    letters: dict[str, DeadLetter] = field(default_factory=dict)
    results: dict[tuple[str, str, bool], tuple[ScriptedResult, float]] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    upload_ends: dict[str, float] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    last: StreamId = ORIGIN
    _last_of_any: StreamId = ORIGIN
    _expired_at: int = 0

    @contextmanager
    def step(self) -> Iterator[int]:
        """One atomic step; yields the time in milliseconds since the epoch.

        Raises `RedisUnavailable` while the pipeline is not `reachable`.
        """
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
        """The pipeline's time in milliseconds since the epoch."""
        return time.time_ns() // 1_000_000 + self.offset // timedelta(milliseconds=1)

    def count(self, *names: str) -> None:
        """Add one to each of these counters."""
        for name in names:
            self.counters[name] = self.counters.get(name, 0) + 1

    def new_id(self, now: int) -> StreamId:
        """The next stream id; one sequence for all streams, so that no two entries share an id."""
        before = self._last_of_any
        self._last_of_any = (now, 0) if now > before[0] else (before[0], before[1] + 1)
        return self._last_of_any

    def lane(self, lane: Lane) -> list[QueuedRequest]:
        """The requests of a lane that are not answered yet, oldest first."""
        return [each for each in self.queued.values() if each.lane is lane]

    def add(self, request: Request, lane: Lane, now: int) -> str:
        """Queue a request as a submit does: entry and key; returns the entry's id."""
        entry = id_text(self.new_id(now))
        self.queued[entry] = QueuedRequest(entry, lane, request)
        self.records[request.id] = RequestRecord(RequestState.QUEUED, entry, lane)
        self.count("submitted")
        return entry

    def find(self, request_id: str) -> tuple[RequestRecord | None, bool]:
        """The request's key if there is one, and whether its request is unanswered."""
        record = self.records.get(request_id)
        if record is None or record.state == RequestState.DONE:
            return record, False
        return record, record.entry in self.queued

    def commit(self, queued: QueuedRequest, outcome: Outcome, now: int) -> None:
        """Answer a request, as the worker's commit does."""
        stream_id = self.last = self.new_id(now)
        del self.queued[queued.entry]
        # Encoded and decoded, so that a subscriber gets exactly what a stream would carry.
        fields = {name.encode(): text.encode() for name, text in outcome.encode().items()}
        self.outcomes[stream_id] = outcome_from_entry(fields)
        self._record_outcome(queued, outcome, id_text(stream_id), now)
        if outcome.error and outcome.error.dead_letter:
            self._add_letter(queued, outcome, now)
        elif queued.request.audio == f"redis:{self.keys.upload(outcome.id)}":
            self.uploads.pop(self.keys.upload(outcome.id), None)
        self.changed.notify()

    def since(self, position: StreamId) -> list[tuple[StreamId, Outcome]]:
        """The outcomes behind a position, oldest first."""
        newest_first = reversed(self.outcomes.items())
        return list(takewhile(lambda item: item[0] > position, newest_first))[::-1]

    def trim(self, before: StreamId) -> None:
        """Drop the outcomes below this id."""
        for stream_id in list(takewhile(lambda each: each < before, self.outcomes)):
            del self.outcomes[stream_id]
            self.trimmed = stream_id

    def _record_outcome(
        self, queued: QueuedRequest, outcome: Outcome, written: str, now: int
    ) -> None:
        record = self.records.get(outcome.id)
        if record and record.entry == queued.entry:
            ends = now + self.request_ttl / timedelta(milliseconds=1)
            self.records[outcome.id] = replace(
                record,
                state=RequestState.DONE,
                status=outcome.status,
                outcome=written,
                expires=ends,
            )
        self.count("completed" if outcome.completed else "failed")

    def _add_letter(self, queued: QueuedRequest, outcome: Outcome, now: int) -> None:
        letter = id_text(self.new_id(now))
        about = {
            "entry": queued.entry,
            "lane": queued.lane.value,
            "digest": outcome.digest,
            "error": (outcome.error or ErrorCode.INTERNAL).value,
            "message": outcome.message,
            "attempt": str(outcome.attempt),
            "worker": outcome.worker,
            "at": str(now),
        }
        fields = {name.encode(): text.encode() for name, text in queued.request.encode().items()}
        self.letters[letter] = DeadLetter(letter, fields, about)
        ends = now + _LETTER_BYTES_KEPT / timedelta(milliseconds=1)
        self.upload_ends[self.keys.upload(outcome.id)] = ends
        self.count("dead")

    def expire(self, now: int) -> None:
        """Drop all that Redis and the janitor would have dropped by now."""
        self._expired_at = now
        for name in [name for name, record in self.records.items() if record.expires <= now]:
            del self.records[name]
        for identity in [each for each, (_, ends) in self.results.items() if ends <= now]:
            del self.results[identity]
        for key in [key for key, ends in self.upload_ends.items() if ends <= now]:
            del self.upload_ends[key]
            self.uploads.pop(key, None)
        self.trim((now - self.transcripts_ttl // timedelta(milliseconds=1), 0))
