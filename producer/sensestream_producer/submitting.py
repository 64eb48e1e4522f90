"""Sending requests: concurrent submits share pipelines, and every request has its own answer.

While one pipeline is under way, further submits gather for the next: a single caller pays one
round trip, and hundreds of callers pay it together. Sending again after a lost reply is safe,
because the submit script adds an id only once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoScriptError, ResponseError
from sensestream_common.errors import BacklogFull, PipelineError, SensestreamError
from sensestream_common.keys import Keys, Lane
from sensestream_common.outcome import Status
from sensestream_common.pipelining import exchange, pack
from sensestream_common.request import Request
from sensestream_common.scripts import load_script

from sensestream_producer.link import Link
from sensestream_producer.submission import Receipt

__all__ = ["Submit", "Submitter", "UploadVanished", "backlog_full"]

_SUBMIT = load_script("sensestream_producer", "submit")
_BATCH = 128  # submits in one pipeline; more delays the first answers and gains nothing
_BATCH_BYTES = 1 << 20


class UploadVanished(SensestreamError):
    """The staged bytes are gone (Redis restarted without its data): stage them again."""


@dataclass(frozen=True, slots=True)
class Submit:
    """One request on its way; `staged` is the key of its uploaded bytes, if it has any."""

    request: Request
    lane: Lane
    time_left: int | None = None
    staged: str = ""

    def keys(self, keys: Keys) -> list[str]:
        own = keys.request(self.request.id)
        return [own, self.staged, keys.upload(self.request.id)] if self.staged else [own]

    def arguments(self) -> list[str | int]:
        left = "" if self.time_left is None else self.time_left
        fields = [part for pair in self.request.encode().items() for part in pair]
        return [self.lane.value, left, 1 if self.staged else 0, len(fields), *fields]


class Submitter:
    """The one sender of a client."""

    def __init__(self, link: Link, keys: Keys, *, max_backlog: int) -> None:
        self._link = link
        self._keys = keys
        self._max_backlog = max_backlog
        self._queue: deque[tuple[Submit, asyncio.Future[Receipt]]] = deque()
        self._task: asyncio.Task[None] | None = None

    def send(self, submit: Submit) -> asyncio.Future[Receipt]:
        """The receipt to come, or the error: `SubmitRefused`, `RedisUnavailable`, …"""
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._queue.append((submit, future))
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name="sensestream-submit")
        return future

    async def close(self) -> None:
        """Wait until what was handed in is sent or has failed."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _drain(self) -> None:
        try:
            while self._queue:
                batch = self._take()
                try:
                    answers = await self._send([submit for submit, _ in batch])
                except Exception as error:
                    answers = [error] * len(batch)
                for (submit, future), answer in zip(batch, answers, strict=True):
                    self._resolve(submit, future, answer)
        finally:
            self._task = None

    def _take(self) -> list[tuple[Submit, asyncio.Future[Receipt]]]:
        batch: list[tuple[Submit, asyncio.Future[Receipt]]] = []
        size = 0
        while self._queue and len(batch) < _BATCH and size < _BATCH_BYTES:
            submit, future = self._queue.popleft()
            if not future.cancelled():
                batch.append((submit, future))
                size += len(submit.request.audio) + len(submit.request.metadata)
        return batch

    async def _send(self, submits: list[Submit]) -> list[Any]:
        """The script's answer for each. It may run twice: an id is added only once."""
        return list(await self._link.run(lambda: self._run(submits)))

    async def _run(self, submits: list[Submit]) -> Any:
        names = self._keys
        keys = [names.requests, names.requests_high, names.stats]
        arguments: list[str | int] = [self._max_backlog]
        for submit in submits:
            keys += submit.keys(names)
            arguments += submit.arguments()
        packed = pack("EVALSHA", _SUBMIT.sha, len(keys), *keys, *arguments)
        [answer] = await exchange(self._link.redis, [packed])
        if isinstance(answer, NoScriptError):
            await self._link.redis.script_load(_SUBMIT.source)
            [answer] = await exchange(self._link.redis, [packed])
        if isinstance(answer, Exception):
            raise _foreign_key(str(answer)) or answer
        return answer

    def _resolve(self, submit: Submit, future: asyncio.Future[Receipt], answer: Any) -> None:
        if future.done():  # its caller has been cancelled; the request stands all the same
            return
        try:
            future.set_result(self._receipt(submit, answer))
        except SensestreamError as error:
            future.set_exception(error)
        except ValueError as error:  # what stands in the request's key is nobody's of ours
            key = self._keys.request(submit.request.id)
            future.set_exception(PipelineError(f"{key} holds something foreign: {error}"))

    def _receipt(self, submit: Submit, answer: Any) -> Receipt:
        if isinstance(answer, Exception):
            own = isinstance(answer, SensestreamError)
            raise answer if own else self._link.translate(answer)
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
                raise _foreign_key(error) or self._link.translate(ResponseError(error))
        raise UploadVanished(f"the staged upload of {submit.request.id!r} is gone")


def _foreign_key(error: str) -> PipelineError | None:
    """The script's own error, if it is that a key holds something else."""
    _, found, text = error.partition("WRONGKEY ")
    return PipelineError(text) if found else None


def backlog_full(keys: Keys, backlog: int | str, limit: int) -> BacklogFull:
    return BacklogFull(
        f"{backlog} requests wait in the pipeline {keys.name!r} and at most {limit} may "
        "(setting SENSESTREAM_MAX_BACKLOG): submit again later, or start more workers"
    )
