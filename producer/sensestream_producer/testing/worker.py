"""The worker of the pipeline in memory: picks requests up, looks into the cache, answers.

It has no thread: the call that submits, or ends a hold, carries the work through in the same
step. So tests are deterministic and never sleep.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.keys import Lane
from sensestream_common.contract.outcome import CacheUse, Outcome, Status
from sensestream_common.contract.request import Request
from sensestream_common.redaction import redacted

from sensestream_producer.submit.submission import RequestState
from sensestream_producer.testing.script import Script, ScriptedResult
from sensestream_producer.testing.store import QueuedRequest, Store

__all__ = ["MODEL", "WORKER", "ScriptedWorker"]

MODEL = "scripted"
WORKER = "scripted-1"
_MAX_ATTEMPTS = 3  # of a request whose scripted error is `attempts_exhausted`

_Identity = tuple[str, str, bool]  # digest, language, itn


class ScriptedWorker:
    """`away`: no request is picked up. `busy`: those picked up are not finished."""

    def __init__(self, store: Store, script: Script) -> None:
        self._store = store
        self._script = script
        self._calls: list[_FlightCall] = []
        self.away = 0
        self.busy = 0
        self.transcribed: list[Request] = []

    def work(self, now: int) -> None:
        """Pick up and finish as many requests as the holds allow."""
        while (not self.away and self._pick_up(now)) or (not self.busy and self._finish(now)):
            pass

    def let_through(self, count: int, now: int) -> int:
        """Answer the next `count` requests in spite of the holds; returns how many there were."""
        before = len(self._store.queued)
        while before - len(self._store.queued) < count:
            if not (self._finish(now) or self._pick_up(now)):
                break
        return before - len(self._store.queued)

    def _pick_up(self, now: int) -> bool:
        """Pick up the next request, the high lane's first; returns whether there was one."""
        waiting = [*self._store.lane(Lane.HIGH), *self._store.lane(Lane.NORMAL)]
        queued = next((each for each in waiting if not each.picked_up), None)
        if queued is None:
            return False
        queued.picked_up = True
        try:
            self._handle(queued, now)
        except RequestError as error:
            self._fail(queued, error, 0, now)
        return True

    def _handle(self, queued: QueuedRequest, now: int) -> None:
        """Answer from the cache, join a transcription under way, or lead one."""
        request = queued.request
        _check_deadline(request, now)
        digest = self._script.digest(request, self._store.uploads)
        identity = (digest, request.language, request.itn)
        if kept := self._store.results.get(identity):
            self._store_result(identity, kept[0], request, now)
            self._complete(queued, kept[0], CacheUse.HIT, digest, now)
            return
        if error := self._script.refusal(request, digest):
            raise error
        call = next((each for each in self._calls if each.identity == identity), None)
        if call and call.leader.request.ttl != 0 and request.ttl != 0:
            call.followers.append(queued)
            return
        self._calls.append(_FlightCall(queued, identity))
        record = self._store.records.get(request.id)
        if record and record.entry == queued.entry:
            record.state = RequestState.STARTED

    def _finish(self, now: int) -> bool:
        """Finish the oldest transcription and all that joined it; returns whether there was one."""
        if not self._calls:
            return False
        call = self._calls.pop(0)
        leader, request = call.leader, call.leader.request
        self.transcribed.append(request)
        try:
            _check_deadline(request, now)
            result = self._script.transcribe(request, call.identity[0])
        except RequestError as error:
            attempt = _MAX_ATTEMPTS if error.code is ErrorCode.ATTEMPTS_EXHAUSTED else 1
            self._fail(leader, error, attempt, now)
            for follower in call.followers:  # each is transcribed on its own
                follower.picked_up = False
            return True
        self._store_result(call.identity, result, request, now)
        self._complete(leader, result, CacheUse.MISS, call.identity[0], now)
        for follower in call.followers:
            self._store_result(call.identity, result, follower.request, now)
            self._complete(follower, result, CacheUse.COALESCED, call.identity[0], now)
        return True

    def _store_result(
        self, identity: _Identity, result: ScriptedResult, request: Request, now: int
    ) -> None:
        """Store the result, or lengthen its time to live; never shorten it."""
        if request.ttl == 0:
            return
        ttl = self._store.result_ttl if request.ttl is None else timedelta(seconds=request.ttl)
        _, ends = self._store.results.get(identity, (result, 0.0))
        longest = max(ends, now + ttl / timedelta(milliseconds=1))
        self._store.results[identity] = (result, longest)

    def _complete(
        self, queued: QueuedRequest, result: ScriptedResult, use: CacheUse, digest: str, now: int
    ) -> None:
        outcome = replace(
            _outline(queued, now).with_transcript(result.transcript),
            warnings=result.warnings,
            cache=use,
            digest=digest,
            model=MODEL,
            attempt=int(use is CacheUse.MISS),
        )
        self._store.count(
            {CacheUse.MISS: "misses", CacheUse.HIT: "hits"}.get(use, CacheUse.COALESCED.value)
        )
        self._store.commit(queued, outcome, now)

    def _fail(self, queued: QueuedRequest, error: RequestError, attempt: int, now: int) -> None:
        outcome = replace(
            _outline(queued, now),
            status=Status.FAILED,
            error=error.code,
            message=error.message,
            attempt=attempt,
        )
        self._store.commit(queued, outcome, now)


class _FlightCall:
    """A transcription under way, and the requests for the same that joined it."""

    def __init__(self, leader: QueuedRequest, identity: _Identity) -> None:
        self.leader = leader
        self.identity = identity
        self.followers: list[QueuedRequest] = []


def _check_deadline(request: Request, now: int) -> None:
    if request.deadline is not None and now > request.deadline:
        raise RequestError(
            ErrorCode.EXPIRED,
            f"deadline={request.deadline} had passed before it was transcribed: "
            "send it again with a later one, or add workers",
        )


def _outline(queued: QueuedRequest, now: int) -> Outcome:
    request = queued.request
    return Outcome(
        id=request.id,
        entry=queued.entry,
        status=Status.COMPLETED,
        audio=redacted(request.audio),
        submitted_at=request.submitted_at,
        started_at=now,
        finished_at=now,
        worker=WORKER,
        metadata=request.metadata,
        traceparent=request.traceparent,
    )
