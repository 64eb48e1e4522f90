"""One request on its way to Redis, and what its script's reply means to the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError
from sensestream_common.contract.errors import BacklogFull, PipelineError, SensestreamError
from sensestream_common.contract.keys import Keys, Lane
from sensestream_common.contract.outcome import Status
from sensestream_common.contract.request import Request

from sensestream_producer.submit.cached_result import CachedAnswer, ResultKey
from sensestream_producer.submit.submission import Receipt, RequestState
from sensestream_producer.transport import RedisTransport

__all__ = ["NotCached", "PendingSubmit", "ReceiptReader", "UploadVanished", "backlog_full"]

# The parts of a call of submit.lua for each request, in this order and by the script's own names;
# `SUBMIT_UPLOAD_KEYS` only for one that uploads.
SUBMIT_KEYS = ("request",)
SUBMIT_UPLOAD_KEYS = ("staged", "upload")
SUBMIT_ARGUMENTS = ("lane", "time_left", "uploads", "field_count")


class UploadVanished(SensestreamError):
    """The staged bytes are gone (Redis restarted without its data): stage them again."""


class NotCached(SensestreamError):
    """No result is kept that would answer a request which must not be queued."""


@dataclass(slots=True)
class PendingSubmit:
    """One request on its way.

    `staged` is the key of its uploaded bytes, if it has any. `hashed` says that this process has
    hashed the bytes behind the digest; `cached_only`, that it is answered from the cache or not at
    all.
    """

    request: Request
    lane: Lane
    time_left: int | None = None
    staged: str = ""
    hashed: bool = False
    cached_only: bool = False

    @property
    def result_key(self) -> ResultKey | None:
        """The key to look its result up by; `None` where a worker must decide."""
        request = self.request
        # Staged bytes are known to be new, and Redis's clock judges a deadline.
        if not request.digest or self.staged or request.deadline is not None:
            return None
        return ResultKey(request.digest, request.language, request.itn, not self.hashed)

    def keys(self, keys: Keys) -> list[str]:
        """`SUBMIT_KEYS`, and `SUBMIT_UPLOAD_KEYS` where it uploads."""
        own = keys.request(self.request.id)
        return [own, self.staged, keys.upload(self.request.id)] if self.staged else [own]

    def arguments(self) -> list[str | int]:
        """`SUBMIT_ARGUMENTS`, then the names and values of the fields."""
        left = "" if self.time_left is None else self.time_left
        fields = [part for pair in self.request.encode().items() for part in pair]
        return [self.lane.value, left, 1 if self.staged else 0, len(fields), *fields]


class ReceiptReader:
    """Turns the scripts' replies into receipts, and their refusals into errors."""

    def __init__(self, link: RedisTransport, keys: Keys, *, max_backlog: int) -> None:
        self._link = link
        self._keys = keys
        self._max_backlog = max_backlog

    def read(self, submit: PendingSubmit, reply: Any) -> Receipt:
        """The receipt of a reply; raises the `SensestreamError` that a refusal stands for."""
        if isinstance(reply, Exception):
            own = isinstance(reply, SensestreamError)
            raise reply if own else self._link.translate(reply)
        if isinstance(reply, CachedAnswer):
            return _answered(submit, reply)
        try:
            return self._read(submit, reply)
        except ValueError as error:  # the request's key holds values of another program
            key = self._keys.request(submit.request.id)
            raise PipelineError(f"{key} holds something foreign: {error}") from error

    def _read(self, submit: PendingSubmit, reply: Any) -> Receipt:
        word, *rest = [part.decode() if isinstance(part, bytes) else part for part in reply]
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


def _answered(submit: PendingSubmit, answer: CachedAnswer) -> Receipt:
    return Receipt(
        id=submit.request.id,
        entry=answer.outcome.entry,
        lane=submit.lane,
        state=RequestState.DONE,
        status=Status.COMPLETED,
        outcome=answer.stream_id,
        answer=answer.outcome,
    )


def backlog_full(keys: Keys, backlog: int | str, limit: int) -> BacklogFull:
    """The error for a lane that takes no more, with the setting that bounds it."""
    return BacklogFull(
        f"{backlog} requests wait in the pipeline {keys.name!r} and at most {limit} may "
        "(setting SENSESTREAM_MAX_BACKLOG): submit again later, or start more workers"
    )
