"""Sending requests: concurrent submits share pipelines, and every request has its own answer.

While one pipeline is under way, further submits gather for the next: a single caller pays one
round trip, and hundreds of callers pay it together. Sending again after a lost reply is safe,
because the submit script adds an id only once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoScriptError
from sensestream_common.errors import BacklogFull, PipelineError, SensestreamError
from sensestream_common.keys import Keys, Lane
from sensestream_common.outcome import Status
from sensestream_common.pipelining import exchange, pack
from sensestream_common.request import Request
from sensestream_common.scripts import load_script

from sensestream_producer.link import Link, passes
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
        names = [
            keys.lane(self.lane),
            keys.requests,
            keys.requests_high,
            keys.request(self.request.id),
            keys.stats,
        ]
        return names + ([self.staged, keys.upload(self.request.id)] if self.staged else [])

    def arguments(self, max_backlog: int) -> list[str | int]:
        left = "" if self.time_left is None else self.time_left
        fields = [part for pair in self.request.encode().items() for part in pair]
        return [self.lane.value, max_backlog, left, *fields]


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
        """The script's answer or error for each; only those without one are sent again."""
        answers: dict[int, Any] = {}

        async def attempt() -> None:
            missing = [index for index in range(len(submits)) if index not in answers]
            replies = await self._pipeline(submits[index] for index in missing)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                await self._link.redis.script_load(_SUBMIT.source)
            answers.update(
                (index, reply)
                for index, reply in zip(missing, replies, strict=True)
                if not isinstance(reply, NoScriptError) and not passes(reply)
            )
            outages = [reply for reply in replies if passes(reply)]
            if outages:
                raise outages[0]

        while len(answers) < len(submits):
            await self._link.run(attempt)
        return [answers[index] for index in range(len(submits))]

    async def _pipeline(self, submits: Iterable[Submit]) -> list[Any]:
        packed = []
        for submit in submits:
            keys, arguments = submit.keys(self._keys), submit.arguments(self._max_backlog)
            packed.append(pack("EVALSHA", _SUBMIT.sha, len(keys), *keys, *arguments))
        return await exchange(self._link.redis, packed)

    def _resolve(self, submit: Submit, future: asyncio.Future[Receipt], answer: Any) -> None:
        if future.done():  # its caller has been cancelled; the request stands all the same
            return
        try:
            future.set_result(self._receipt(submit, answer))
        except SensestreamError as error:
            future.set_exception(error)

    def _receipt(self, submit: Submit, answer: Any) -> Receipt:
        if isinstance(answer, SensestreamError):
            raise answer
        if isinstance(answer, Exception):
            raise self._error(answer)
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
        raise UploadVanished(f"the staged upload of {submit.request.id!r} is gone")

    def _error(self, error: Exception) -> SensestreamError:
        _, found, text = str(error).partition("WRONGKEY ")
        return PipelineError(text) if found else self._link.translate(error)


def backlog_full(keys: Keys, backlog: int | str, limit: int) -> BacklogFull:
    return BacklogFull(
        f"{backlog} requests wait in the pipeline {keys.name!r} and at most {limit} may "
        "(setting SENSESTREAM_MAX_BACKLOG): submit again later, or start more workers"
    )
