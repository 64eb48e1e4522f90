"""Results of the workers' cache as a client keeps them, and a request together with its result."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sensestream_common.connections.pipelined_connection import EncodedArgs, encode_args
from sensestream_common.contract.keys import Lane
from sensestream_common.contract.outcome import Outcome, to_json_text
from sensestream_common.contract.request import Request
from sensestream_common.redaction import redacted

__all__ = ["CachedAnswer", "CachedReply", "CachedResult", "ResultKey"]

# The parts of a call of answer.lua for each request, in this order and by the script's own names.
ANSWER_KEYS = ("request", "result", "audio")
ANSWER_ARGUMENTS = (
    "lane",
    "digest_unverified",
    "expected_sha1",
    "result_ttl",
    "webhook_url",
    "id",
    "field_count",
    "own_members",
)
_RETENTION_LAG = 1.0  # seconds that a retention may be behind: a look for every hit costs more


class ResultKey(NamedTuple):
    """The values that a result is looked up by."""

    digest: str
    language: str
    itn: bool
    digest_unverified: bool  # this process has not hashed the bytes


class _Retention:
    """How long Redis keeps a result, as far as this process has prolonged it."""

    __slots__ = ("_look_again", "_ttl")

    def __init__(self) -> None:
        self._ttl = 0  # milliseconds
        self._look_again = 0.0  # by monotonic time

    def lacks(self, ttl: int) -> bool:
        """Whether the result may have less than `ttl` ms left, by more than is worth a look."""
        return ttl > self._ttl or time.monotonic() >= self._look_again

    def prolonged(self, ttl: int) -> None:
        """Note that the script has seen to `ttl` milliseconds; 0 stands for none."""
        if ttl:
            self._ttl = ttl
            self._look_again = time.monotonic() + min(_RETENTION_LAG, ttl / 1000 / 100)


@dataclass(slots=True)
class CachedResult:
    """A result as it answers any request for it."""

    recogniser: str
    decode_revision: str
    keys: EncodedArgs  # of the result, of the alias
    checksum: str  # of the transcript; empty for one that the local cache does not keep
    fields: dict[str, Any]  # of the outcome, without the request's own
    field_count: int  # of the same, as names and values
    arguments: EncodedArgs  # these names and values, then the same as members of a JSON object
    retention: _Retention = field(default_factory=_Retention)


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An outcome that the script has written, and its id on the stream of outcomes."""

    outcome: Outcome
    stream_id: str


class CachedReply:
    """A request, and the result that answers it."""

    __slots__ = ("_own_fields", "key", "lane", "request", "result")

    def __init__(self, request: Request, lane: Lane, key: ResultKey, result: CachedResult) -> None:
        self.request = request
        self.lane = lane
        self.key = key
        self.result = result
        self._own_fields = _own_fields(request)

    def ttl(self, result_ttl: int) -> int:
        """Milliseconds that the result shall live from now on; 0 where it does, or nearly.

        `result_ttl` is in seconds, for a request that names none.
        """
        ttl = 1000 * (result_ttl if self.request.ttl is None else self.request.ttl)
        return ttl if self.result.retention.lacks(ttl) else 0

    def arguments(self, ttl: int) -> tuple[EncodedArgs, EncodedArgs]:
        """`ANSWER_ARGUMENTS`, then the outcome's names and values and its other members."""
        request, result, own = self.request, self.result, self._own_fields
        fields = [part for pair in own.items() for part in pair]
        return encode_args(
            self.lane.value,
            1 if self.key.digest_unverified else 0,
            result.checksum,
            ttl,
            request.callback_url,
            request.id,
            len(fields) + result.field_count,
            to_json_text(own)[1:-1],
            *fields,
        ), result.arguments

    def answer(self, reply: list[bytes]) -> CachedAnswer:
        """The outcome that the script has written, from its reply."""
        entry, stream_id, now = [part.decode() for part in reply[1:]]
        at = int(now)
        outcome = Outcome(
            **self.result.fields,
            **self._own_fields,
            entry=entry,
            submitted_at=at,
            started_at=at,
            finished_at=at,
        )
        return CachedAnswer(outcome, stream_id)


def _own_fields(request: Request) -> dict[str, Any]:
    """The fields of an outcome that are its request's own."""
    own = {"id": request.id, "audio": redacted(request.audio)}
    if request.metadata:
        own["metadata"] = request.metadata
    if request.traceparent:
        own["traceparent"] = request.traceparent
    return own
