"""Sending requests: concurrent submits share pipelines, and every request has its own answer.

While one pipeline is under way, further submits gather for the next: a single caller pays one
round trip, and hundreds of callers pay it together. Sending again after a lost reply is safe,
because the submit script adds an id only once. Repeats are answered on the way, and not queued; who
sends one at a time, and has it answered from memory, goes without the gathering.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

from redis.exceptions import RedisError, ResponseError
from sensestream_common.connections.pipelined_connection import encode_args
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.errors import BacklogFull, PipelineError, SensestreamError
from sensestream_common.contract.keys import Keys, Lane
from sensestream_common.contract.outcome import Status
from sensestream_common.contract.request import Request

from sensestream_producer.submit.cached_answers import CachedAnswers, CachedReply, ResultKey
from sensestream_producer.submit.submission import Receipt, RequestState
from sensestream_producer.transport import RedisTransport, cancellations, raise_if_cancelled

__all__ = ["PendingSubmit", "Submitter", "UploadVanished", "backlog_full"]

_SUBMIT = load_script("sensestream_producer.submit", "submit")
_BATCH = 32  # requests in one script call; more delay the first answers and gain nothing
_AT_ONCE = 2  # batches under way where repeats are answered: Redis has one while another is made
_BATCH_BYTES = 1 << 20


class UploadVanished(SensestreamError):
    """The staged bytes are gone (Redis restarted without its data): stage them again."""


class _Unknown(SensestreamError):
    """Nothing is kept that would answer it."""


@dataclass(slots=True)
class PendingSubmit:
    """One request on its way.

    `staged` is the key of its uploaded bytes, if it has any. `hashed` says that its digest is no
    mere claim; `unqueued`, that it is answered from the cache or not at all.
    """

    request: Request
    lane: Lane
    time_left: int | None = None
    staged: str = ""
    hashed: bool = False
    unqueued: bool = False

    @property
    def ask(self) -> ResultKey | None:
        """What its answer is looked up by; `None` where a worker must decide."""
        request = self.request
        # Staged bytes are known to be new, and Redis's clock judges a deadline.
        if not request.digest or self.staged or request.deadline is not None:
            return None
        return ResultKey(request.digest, request.language, request.itn, not self.hashed)

    def keys(self, keys: Keys) -> list[str]:
        own = keys.request(self.request.id)
        return [own, self.staged, keys.upload(self.request.id)] if self.staged else [own]

    def arguments(self) -> list[str | int]:
        left = "" if self.time_left is None else self.time_left
        fields = [part for pair in self.request.encode().items() for part in pair]
        return [self.lane.value, left, 1 if self.staged else 0, len(fields), *fields]


@dataclass(slots=True)
class _Answered:
    """A repeat, and what the script said of it."""

    case: CachedReply
    reply: list[bytes]

    def receipt(self, submit: PendingSubmit) -> Receipt:
        entry, written, now = [part.decode() for part in self.reply[1:]]
        return Receipt(
            id=submit.request.id, entry=entry, lane=submit.lane, state=RequestState.DONE,
            status=Status.COMPLETED, outcome=written,
            answer=self.case.answer(entry, int(now)),
        )  # fmt: skip


class Submitter:
    """The one sender of a client; without `repeats` everything is queued."""

    def __init__(
        self,
        link: RedisTransport,
        keys: Keys,
        *,
        max_backlog: int,
        repeats: CachedAnswers | None = None,
    ) -> None:
        self._link = link
        self._keys = keys
        self._max_backlog = max_backlog
        self._repeats = repeats
        self._queue: deque[tuple[PendingSubmit, asyncio.Future[Receipt]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._queued: asyncio.Future[None] | None = None  # done with the last batch that was taken
        self._one_by_one = True  # the last batch had but one
        self._alone: asyncio.Future[None] | None = None  # while one is sent without a batch

    def answers(self, *, claimed: bool) -> bool:
        """Whether repeats are answered here, as far as known."""
        return self._repeats is not None and self._repeats.answers(claimed=claimed)

    async def recall(self, submit: PendingSubmit) -> Receipt | None:
        """Answer it from the cache; `None` for what is not there. Its digest must be `hashed`."""
        if self._repeats is None:
            return None
        try:
            return await self.send(replace(submit, unqueued=True))
        except _Unknown:
            return None

    async def send(self, submit: PendingSubmit) -> Receipt:
        """The receipt; raises `SubmitRefused`, `RedisUnavailable`, …"""
        case = self._case_alone(submit)
        if case is None:
            return await self._enlist(submit)
        return await self._send_alone(submit, case)

    async def close(self) -> None:
        """Wait until what was handed in is sent or has failed."""
        if self._alone is not None:
            await asyncio.wait([self._alone])
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _case_alone(self, submit: PendingSubmit) -> CachedReply | None:
        """A repeat that is remembered, while nothing else is under way, nor was of late."""
        if self._repeats is None or self._tasks or self._alone or not self._one_by_one:
            return None
        ask = submit.ask
        repeat = self._repeats.remembered(ask) if ask else None
        return CachedReply(submit.request, submit.lane, ask, repeat) if ask and repeat else None

    async def _send_alone(self, submit: PendingSubmit, case: CachedReply) -> Receipt:
        """With no task and no batch; not answered so, it goes before what gathered meanwhile."""
        ended = self._alone = asyncio.get_running_loop().create_future()
        began, before = time.monotonic(), cancellations()
        try:
            try:  # as `RedisTransport.run` does, without what it takes to begin it
                [answer] = await raise_if_cancelled(self._answers_to([case]), before)
            except (RedisError, OSError) as error:
                [answer] = await self._link.again(
                    lambda: self._answers_to([case]), error, began, before
                )
            if answer is not None:
                return self._receipt(submit, answer)
            receipt = self._enlist(submit, first=True)
        finally:
            self._alone = None
            ended.set_result(None)
            self._start()
        return await receipt

    def _enlist(self, submit: PendingSubmit, *, first: bool = False) -> asyncio.Future[Receipt]:
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        (self._queue.appendleft if first else self._queue.append)((submit, future))
        self._start()
        return future

    def _start(self) -> None:
        """Send what has gathered, but not while one goes alone: the order would be another."""
        at_once = _AT_ONCE if self.answers(claimed=False) else 1
        if self._queue and self._alone is None and len(self._tasks) < at_once:
            self._tasks.add(asyncio.create_task(self._drain(), name="sensestream-submit"))

    async def _drain(self) -> None:
        try:
            while self._queue:
                await self._send_batch(self._take())
        finally:  # not when the task is done: what comes in between would wait for nobody
            if (task := asyncio.current_task()) is not None:
                self._tasks.discard(task)

    async def _send_batch(self, batch: list[tuple[PendingSubmit, asyncio.Future[Receipt]]]) -> None:
        before, queued = self._queued, asyncio.get_running_loop().create_future()
        self._queued = queued
        try:
            answers = await self._send([submit for submit, _ in batch], before)
        except Exception as error:
            answers = [error] * len(batch)
        finally:
            queued.set_result(None)
        for (submit, future), answer in zip(batch, answers, strict=True):
            self._resolve(submit, future, answer)

    def _take(self) -> list[tuple[PendingSubmit, asyncio.Future[Receipt]]]:
        batch: list[tuple[PendingSubmit, asyncio.Future[Receipt]]] = []
        size = 0
        while self._queue and len(batch) < _BATCH and size < _BATCH_BYTES:
            submit, future = self._queue.popleft()
            if not future.cancelled():
                batch.append((submit, future))
                size += len(submit.request.audio) + len(submit.request.metadata)
        self._one_by_one = len(batch) <= 1
        return batch

    async def _send(
        self, submits: list[PendingSubmit], before: asyncio.Future[None] | None
    ) -> list[Any]:
        """What became of each. It may run twice: an id is added, or answered, only once."""
        return await self._link.run(lambda: self._run(submits, before))

    async def _run(
        self, submits: list[PendingSubmit], before: asyncio.Future[None] | None
    ) -> list[Any]:
        """Answer the repeats, and queue the rest when the batch `before` is queued."""
        answers = await self._answer(submits)
        rest = [n for n, submit in enumerate(submits) if n not in answers and not submit.unqueued]
        if rest:
            if before is not None:
                await asyncio.wait([before])
            entries = await self._queue_up([submits[n] for n in rest])
            answers |= zip(rest, entries, strict=True)
        return [answers.get(n) or _Unknown() for n in range(len(submits))]

    async def _answer(self, submits: list[PendingSubmit]) -> dict[int, Any]:
        """The repeats among them, answered; by their place."""
        if self._repeats is None:
            return {}
        asks = _first_of_their_ids(submits)
        cases = {
            place: CachedReply(submits[place].request, submits[place].lane, ask, repeat)
            for place, (ask, repeat) in enumerate(
                zip(asks, await self._repeats.find(asks), strict=True)
            )
            if ask and repeat
        }
        if not cases:
            return {}
        answers = await self._answers_to(list(cases.values()))
        return {place: answer for place, answer in zip(cases, answers, strict=True) if answer}

    async def _answers_to(self, cases: list[CachedReply]) -> list[Any]:
        """What the script says of each; `None` where it is not answered so (any more)."""
        replies = await self._repeats.answer(cases) if self._repeats else []
        return [
            _Answered(case, reply) if reply[0] == b"answered"
            else None if reply[0] == b"gone" else reply
            for case, reply in zip(cases, replies, strict=True)
        ]  # fmt: skip

    async def _queue_up(self, submits: list[PendingSubmit]) -> list[Any]:
        names = self._keys
        keys = [names.requests, names.requests_high, names.stats]
        arguments: list[str | int] = [self._max_backlog]
        for submit in submits:
            keys += submit.keys(names)
            arguments += submit.arguments()
        return list(
            await self._link.line.run_script(
                _SUBMIT, [encode_args(*keys)], [encode_args(*arguments)]
            )
        )

    def _resolve(self, submit: PendingSubmit, future: asyncio.Future[Receipt], answer: Any) -> None:
        if future.done():  # its caller has been cancelled; the request stands all the same
            return
        try:
            future.set_result(self._receipt(submit, answer))
        except SensestreamError as error:
            future.set_exception(error)

    def _receipt(self, submit: PendingSubmit, answer: Any) -> Receipt:
        if isinstance(answer, Exception):
            own = isinstance(answer, SensestreamError)
            raise answer if own else self._link.translate(answer)
        try:
            return self._read(submit, answer)
        except ValueError as error:  # what stands in the request's key is nobody's of ours
            key = self._keys.request(submit.request.id)
            raise PipelineError(f"{key} holds something foreign: {error}") from error

    def _read(self, submit: PendingSubmit, answer: Any) -> Receipt:
        if isinstance(answer, _Answered):
            return answer.receipt(submit)
        word, *rest = [part.decode() if isinstance(part, bytes) else part for part in answer]
        match word, rest:
            case "queued", [entry]:
                return Receipt(id=submit.request.id, entry=entry, lane=submit.lane)
            case "duplicate", [entry, lane, state, status, outcome]:
                return Receipt(
                    id=submit.request.id,
                    entry=entry,
                    lane=Lane.HIGH if lane == Lane.HIGH else Lane.NORMAL,
                    duplicate=True,
                    state=state,
                    status=Status(status) if status else None,
                    outcome=outcome,
                )
            case "full", [backlog]:
                raise backlog_full(self._keys, backlog, self._max_backlog)
            case "refused", [error]:
                raise self._link.translate(ResponseError(error))
        raise UploadVanished(f"the staged upload of {submit.request.id!r} is gone")


def _first_of_their_ids(submits: list[PendingSubmit]) -> list[ResultKey | None]:
    """What each is looked up by; nothing where one before it has the same id, and will get it."""
    seen: set[str] = set()
    asks = []
    for submit in submits:
        asks.append(None if submit.request.id in seen else submit.ask)
        seen.add(submit.request.id)
    return asks


def backlog_full(keys: Keys, backlog: int | str, limit: int) -> BacklogFull:
    return BacklogFull(
        f"{backlog} requests wait in the pipeline {keys.name!r} and at most {limit} may "
        "(setting SENSESTREAM_MAX_BACKLOG): submit again later, or start more workers"
    )
