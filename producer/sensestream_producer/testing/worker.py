"""The worker of the pipeline in memory: takes requests up, looks into the cache, answers.

It has no thread: whoever submits, or lets go of what was held, carries the work through in the
same step. So nothing is left to chance, and nothing has to be waited for.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.keys import Lane
from sensestream_common.contract.outcome import CacheUse, Outcome, Status
from sensestream_common.contract.request import Request
from sensestream_common.contract.transcript import Transcript
from sensestream_common.redaction import redacted

from sensestream_producer.submit.submission import RequestState
from sensestream_producer.testing.script import Script
from sensestream_producer.testing.store import Standing, Store

__all__ = ["MODEL", "WORKER", "ScriptedWorker"]

MODEL = "scripted"
WORKER = "scripted-1"
_SUSPECTED = 3  # starts, of a request that is said to have exhausted its attempts

_Identity = tuple[str, str, bool]  # digest, language, itn


class ScriptedWorker:
    """`away`: nothing is taken up. `busy`: what is taken up is not finished."""

    def __init__(self, store: Store, script: Script) -> None:
        self._store = store
        self._script = script
        self._flights: list[_Flight] = []
        self.away = 0
        self.busy = 0
        self.heard: list[Request] = []

    def work(self, now: int) -> None:
        """Carry on as far as the holds allow."""
        while (not self.away and self._take_up(now)) or (not self.busy and self._land(now)):
            pass

    def let_through(self, count: int, now: int) -> int:
        """Answer the next `count` requests in spite of the holds; how many were answered."""
        before = len(self._store.standing)
        while before - len(self._store.standing) < count:
            if not (self._land(now) or self._take_up(now)):
                break
        return before - len(self._store.standing)

    def _take_up(self, now: int) -> bool:
        """Take the next request of the lanes, the high one first; whether there was one."""
        waiting = [*self._store.lane(Lane.HIGH), *self._store.lane(Lane.NORMAL)]
        standing = next((each for each in waiting if not each.taken), None)
        if standing is None:
            return False
        standing.taken = True
        try:
            self._begin(standing, now)
        except RequestError as error:
            self._fail(standing, error, 0, now)
        return True

    def _begin(self, standing: Standing, now: int) -> None:
        """Answer from the cache, join a transcription under way, or lead one."""
        request = standing.request
        _check_deadline(request, now)
        digest = self._script.digest(request, self._store.uploads)
        identity = (digest, request.language, request.itn)
        if kept := self._store.results.get(identity):
            self._keep(identity, kept[0], request, now)
            self._complete(standing, kept[0], CacheUse.HIT, digest, now)
            return
        if error := self._script.refusal(request, digest):
            raise error
        flight = next((each for each in self._flights if each.identity == identity), None)
        if flight and flight.leader.request.ttl != 0 and request.ttl != 0:
            flight.followers.append(standing)
            return
        self._flights.append(_Flight(standing, identity))
        known = self._store.known.get(request.id)
        if known and known.entry == standing.entry:
            known.state = RequestState.STARTED

    def _land(self, now: int) -> bool:
        """Finish the oldest transcription, for all who joined it; whether there was one."""
        if not self._flights:
            return False
        flight = self._flights.pop(0)
        leader, request = flight.leader, flight.leader.request
        self.heard.append(request)
        try:
            _check_deadline(request, now)
            transcript = self._script.hear(request, flight.identity[0])
        except RequestError as error:
            attempt = _SUSPECTED if error.code is ErrorCode.ATTEMPTS_EXHAUSTED else 1
            self._fail(leader, error, attempt, now)
            for follower in flight.followers:  # each tries for itself
                follower.taken = False
            return True
        self._keep(flight.identity, transcript, request, now)
        self._complete(leader, transcript, CacheUse.MISS, flight.identity[0], now)
        for follower in flight.followers:
            self._keep(flight.identity, transcript, follower.request, now)
            self._complete(follower, transcript, CacheUse.COALESCED, flight.identity[0], now)
        return True

    def _keep(
        self, identity: _Identity, transcript: Transcript, request: Request, now: int
    ) -> None:
        """Store the result, or make it last longer; never shorter."""
        if request.ttl == 0:
            return
        ttl = self._store.result_ttl if request.ttl is None else timedelta(seconds=request.ttl)
        _, ends = self._store.results.get(identity, (transcript, 0.0))
        longest = max(ends, now + ttl / timedelta(milliseconds=1))
        self._store.results[identity] = (transcript, longest)

    def _complete(
        self, standing: Standing, transcript: Transcript, use: CacheUse, digest: str, now: int
    ) -> None:
        outcome = replace(
            _outline(standing, now).with_transcript(transcript),
            cache=use,
            digest=digest,
            model=MODEL,
            attempt=int(use is CacheUse.MISS),
        )
        self._store.count(
            {CacheUse.MISS: "misses", CacheUse.HIT: "hits"}.get(use, CacheUse.COALESCED.value)
        )
        self._store.commit(standing, outcome, now)

    def _fail(self, standing: Standing, error: RequestError, attempt: int, now: int) -> None:
        outcome = replace(
            _outline(standing, now),
            status=Status.FAILED,
            error=error.code,
            message=error.message,
            attempt=attempt,
        )
        self._store.commit(standing, outcome, now)


class _Flight:
    """A transcription under way, and the requests for the same that joined it."""

    def __init__(self, leader: Standing, identity: _Identity) -> None:
        self.leader = leader
        self.identity = identity
        self.followers: list[Standing] = []


def _check_deadline(request: Request, now: int) -> None:
    if request.deadline is not None and now > request.deadline:
        raise RequestError(
            ErrorCode.EXPIRED,
            f"deadline={request.deadline} had passed before it was transcribed: "
            "send it again with a later one, or add workers",
        )


def _outline(standing: Standing, now: int) -> Outcome:
    request = standing.request
    return Outcome(
        id=request.id,
        entry=standing.entry,
        status=Status.COMPLETED,
        audio=redacted(request.audio),
        submitted_at=request.submitted_at,
        started_at=now,
        finished_at=now,
        worker=WORKER,
        metadata=request.metadata,
        traceparent=request.traceparent,
    )
