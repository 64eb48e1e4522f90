"""Sending requests: concurrent submits share pipelines, and every request has its own answer.

While one batch is under way, further submits gather for the next: a single caller pays one round
trip, and hundreds of callers pay it together. Sending again after a lost reply is safe, because the
submit script adds an id only once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from sensestream_common.connections.pipelined_connection import encode_args
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.errors import SensestreamError
from sensestream_common.contract.keys import Keys

from sensestream_producer.submit.cached_answers import CachedAnswers
from sensestream_producer.submit.cached_result import CachedReply, ResultKey
from sensestream_producer.submit.lone_hits import LoneHits
from sensestream_producer.submit.pending import NotCached, PendingSubmit, ReceiptReader
from sensestream_producer.submit.submission import Receipt
from sensestream_producer.transport import RedisTransport

__all__ = ["Submitter"]

_SUBMIT = load_script("sensestream_producer.submit", "submit")
_BATCH = 32  # requests in one script call; more delay the first answers and gain nothing
_AT_ONCE = 2  # batches under way where hits are answered: Redis has one while another is made
_BATCH_BYTES = 1 << 20

Waiting = tuple[PendingSubmit, "asyncio.Future[Receipt]"]


@dataclass(slots=True)
class _Batch:
    """Submits that travel together, and their place in the order of batches."""

    members: list[Waiting]
    previous: asyncio.Event | None  # set when the batch before this one has queued its requests
    queued: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def submits(self) -> list[PendingSubmit]:
        return [submit for submit, _ in self.members]


class Submitter:
    """The one sender of a client; without `cached` everything is queued.

    Requests enter their lanes in the order in which they were handed in; only cached answers
    overtake. Three rules keep that order:

    - Batches are taken from the head of the waiting submits.
    - A batch answers its cache hits at once, and queues its other requests after the batch before
      it has queued its own.
    - No batch starts while a lone cache hit is under way, and a lone hit whose result is kept no
      longer goes to the head of the waiting submits.
    """

    def __init__(
        self,
        link: RedisTransport,
        keys: Keys,
        *,
        max_backlog: int,
        cached: CachedAnswers | None = None,
    ) -> None:
        self._link = link
        self._keys = keys
        self._max_backlog = max_backlog
        self._cached = cached
        self._lone = LoneHits(link, cached) if cached else None
        self._receipts = ReceiptReader(link, keys, max_backlog=max_backlog)
        self._waiting: deque[Waiting] = deque()
        self._senders: set[asyncio.Task[None]] = set()
        self._last_queued: asyncio.Event | None = None  # of the batch that was taken last
        self._one_by_one = True  # the last batch had one member at most

    def may_answer(self, *, hashed: bool) -> bool:
        """Whether cache hits are answered here, as far as known; by a digest that was `hashed`."""
        return self._cached is not None and self._cached.may_answer(hashed=hashed)

    async def send_cached(self, submit: PendingSubmit) -> Receipt | None:
        """Answer a `hashed` submit from the cache; `None` where it is no hit."""
        if self._cached is None:
            return None
        try:
            return await self.send(replace(submit, cached_only=True))
        except NotCached:
            return None

    async def send(self, submit: PendingSubmit) -> Receipt:
        """The receipt; raises `SubmitRefused`, `RedisUnavailable`, …"""
        lone = self._lone
        if lone is None or lone.under_way or self._senders or not self._one_by_one:
            return await self._enlist(submit)
        reply = lone.find(submit)
        if reply is None:
            return await self._enlist(submit)
        return await self._send_lone(lone, submit, reply)

    async def close(self) -> None:
        """Wait until what was handed in is sent or has failed."""
        if self._lone is not None:
            await self._lone.close()
        if self._senders:
            await asyncio.wait(self._senders)

    async def _send_lone(
        self, lone: LoneHits, submit: PendingSubmit, reply: CachedReply
    ) -> Receipt:
        try:
            answer = await lone.send(reply)
            if answer is not None:
                return self._receipts.read(submit, answer)
            receipt = self._enlist(submit, first=True)
        finally:
            self._start()
        return await receipt

    def _enlist(self, submit: PendingSubmit, *, first: bool = False) -> asyncio.Future[Receipt]:
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if first else self._waiting.append)((submit, future))
        self._start()
        return future

    def _start(self) -> None:
        """Send what has gathered, unless enough batches, or a lone hit, are under way."""
        if not self._waiting or (self._lone and self._lone.under_way):
            return
        at_once = _AT_ONCE if self.may_answer(hashed=True) else 1
        if len(self._senders) < at_once:
            self._senders.add(asyncio.create_task(self._send_all(), name="sensestream-submit"))

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                await self._send_batch(self._take())
        finally:  # not when the task is done: submits that come in between would wait for no task
            if (task := asyncio.current_task()) is not None:
                self._senders.discard(task)

    def _take(self) -> _Batch:
        members: list[Waiting] = []
        size = 0
        while self._waiting and len(members) < _BATCH and size < _BATCH_BYTES:
            submit, future = self._waiting.popleft()
            if not future.cancelled():
                members.append((submit, future))
                size += len(submit.request.audio) + len(submit.request.metadata)
        self._one_by_one = len(members) <= 1
        batch = _Batch(members, self._last_queued)
        self._last_queued = batch.queued
        return batch

    async def _send_batch(self, batch: _Batch) -> None:
        try:
            # It may run twice: an id is added, or answered, only once.
            replies = await self._link.run(lambda: self._answer_and_queue(batch))
        except Exception as error:
            replies = [error] * len(batch.members)
        finally:
            batch.queued.set()
        for (submit, future), reply in zip(batch.members, replies, strict=True):
            self._resolve(submit, future, reply)

    async def _answer_and_queue(self, batch: _Batch) -> list[Any]:
        submits = batch.submits
        replies = await self._answer(submits)
        rest = [
            n for n, submit in enumerate(submits) if n not in replies and not submit.cached_only
        ]
        if rest:
            if batch.previous is not None:
                await batch.previous.wait()
            queued = await self._queue([submits[n] for n in rest])
            replies |= zip(rest, queued, strict=True)
        return [replies.get(n) or NotCached() for n in range(len(submits))]

    async def _answer(self, submits: list[PendingSubmit]) -> dict[int, Any]:
        """The replies to the cache hits among them, by position."""
        if self._cached is None:
            return {}
        keys = _first_of_their_ids(submits)
        results = await self._cached.find(keys)
        hits = {
            n: CachedReply(submit.request, submit.lane, key, result)
            for n, (submit, key, result) in enumerate(zip(submits, keys, results, strict=True))
            if key and result
        }
        if not hits:
            return {}
        replies = await self._cached.answer(list(hits.values()))
        return {n: reply for n, reply in zip(hits, replies, strict=True) if reply is not None}

    async def _queue(self, submits: list[PendingSubmit]) -> list[Any]:
        names = self._keys
        keys = [names.requests, names.requests_high, names.stats]
        arguments: list[str | int] = [self._max_backlog]
        for submit in submits:
            keys += submit.keys(names)
            arguments += submit.arguments()
        return list(
            await self._link.connection.run_script(
                _SUBMIT, [encode_args(*keys)], [encode_args(*arguments)]
            )
        )

    def _resolve(self, submit: PendingSubmit, future: asyncio.Future[Receipt], reply: Any) -> None:
        if future.done():  # its caller has been cancelled; the request stands all the same
            return
        try:
            future.set_result(self._receipts.read(submit, reply))
        except SensestreamError as error:
            future.set_exception(error)


def _first_of_their_ids(submits: list[PendingSubmit]) -> list[ResultKey | None]:
    """Each submit's result key; `None` where one before it has the same id and gets the answer."""
    seen: set[str] = set()
    keys = []
    for submit in submits:
        keys.append(None if submit.request.id in seen else submit.result_key)
        seen.add(submit.request.id)
    return keys
