"""The dead letters of the pipeline in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

from sensestream_common.contract.keys import Lane
from sensestream_common.contract.outcome import Status
from sensestream_common.contract.request import Request, decode_request

from sensestream_producer.operations.dead_letters import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetters,
    Replay,
    ReplayResult,
)
from sensestream_producer.testing.store import Store
from sensestream_producer.testing.worker import ScriptedWorker

__all__ = ["ScriptedLetters"]


class ScriptedLetters(DeadLetters):
    """The methods of `DeadLetters`, as documented there, on a `Store`."""

    def __init__(self, store: Store, worker: ScriptedWorker, *, max_backlog: int) -> None:
        self._store = store
        self._worker = worker
        self._max_backlog = max_backlog

    async def select(self, selection: DeadLetterFilter | None = None) -> AsyncGenerator[DeadLetter]:
        wanted = selection or DeadLetterFilter()
        with self._store.step() as now:
            letters = [each for each in self._store.letters.values() if wanted.takes(each, now)]
        for letter in letters:
            yield letter

    async def find(self, letter: str) -> DeadLetter | None:
        with self._store.step():
            return self._store.letters.get(letter)

    async def replay(self, letter: DeadLetter, *, ignore_deadline: bool = False) -> ReplayResult:
        with self._store.step() as now:
            result, detail = self._replay(letter, now, ignore_deadline)
            self._worker.work(now)
        return ReplayResult(letter, result, detail)

    async def purge(self, letter: DeadLetter) -> bool:
        with self._store.step():
            if self._store.letters.pop(letter.letter, None) is None:
                return False
            if not self._store.find(letter.id)[1]:
                self._store.uploads.pop(self._store.keys.upload(letter.id), None)
            return True

    def _replay(self, letter: DeadLetter, now: int, ignore_deadline: bool) -> tuple[Replay, str]:
        store = self._store
        if letter.letter not in store.letters:
            return Replay.NOT_FOUND, ""
        record, unanswered = store.find(letter.id)
        if record and unanswered:
            return Replay.ALREADY_QUEUED, record.entry
        if record and record.status is Status.COMPLETED:
            return Replay.ALREADY_COMPLETED, record.outcome
        if len(store.queued) >= self._max_backlog:
            return Replay.FULL, str(len(store.queued))
        upload = store.keys.upload(letter.id)
        if letter.audio == f"redis:{upload}" and upload not in store.uploads:
            return Replay.UPLOAD_MISSING, ""
        request = _request(letter)
        if request.deadline is not None and request.deadline < now:
            if not ignore_deadline:
                return Replay.EXPIRED, ""
            request = replace(request, deadline=None)
        del store.letters[letter.letter]
        store.upload_ends.pop(upload, None)
        lane = Lane.HIGH if letter.lane is Lane.HIGH else Lane.NORMAL
        return Replay.QUEUED, store.add(request, lane, now)


def _request(letter: DeadLetter) -> Request:
    request = decode_request(letter.about["entry"], letter.fields)
    if not isinstance(request, Request):  # it was valid when it was submitted
        raise request.error
    return request
