"""Outcomes out: the commit that acknowledges a request and publishes its outcome in one step.

Not the transactional outbox of databases: here the queue and the outcomes are in one Redis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import Any

import structlog
from redis.exceptions import ResponseError
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.errors import ErrorCode
from sensestream_common.contract.keys import REQUESTS_GROUP, Keys
from sensestream_common.contract.outcome import CacheUse, Outcome, to_json_text

from sensestream_consumer.broker.autopipeline import retry_until_available
from sensestream_consumer.broker.broker import Broker
from sensestream_consumer.broker.deliveries import Delivery, InFlight, Lease

__all__ = ["CacheWrite", "Commit", "CommitResult", "Outbox"]

log = structlog.get_logger(__name__)

_COMMIT = load_script("sensestream_consumer.broker.lua", "commit")
# The parts of the script's call for each request, in this order and by the script's own names:
# keys, arguments, and the lists behind them, each preceded by its length.
COMMIT_KEYS = ("lane", "request", "upload", "result", "audio", "lease", "crashes")
COMMIT_ARGUMENTS = (
    "entry", "must_own", "outcome", "status", "carried_id", "upload_ttl",
    "result_ttl", "alias_value", "lease_value", "forget_crashes", "expected_sha1",
)  # fmt: skip
COMMIT_LISTS = ("fields", "dead_letter", "webhook", "stored", "counters")
# The bytes of an upload whose request became a dead letter stay, so that it can be replayed; with
# a TTL, so that memory pressure may take them before it takes anything that is still queued.
_DEAD_UPLOAD_TTL_MS = 7 * 86_400_000


@dataclass(frozen=True, slots=True)
class CacheWrite:
    """The writes of a commit to the cache, beside the outcome.

    `transcript` (JSON) is stored under `result` for `ttl_ms`; without it (a hit) the retention of
    the stored one is prolonged. `alias` is the digest of bytes, `alias_value` the value of their
    alias. With `expected_sha1` nothing is written unless that is the SHA-1 of the transcript that
    Redis keeps.
    """

    result: str = ""
    transcript: str = ""
    alias: str = ""
    alias_value: str = ""
    ttl_ms: int = 0
    expected_sha1: str = ""


class CommitResult(Enum):
    """The end of a commit, by the first element of the script's reply."""

    COMMITTED = 1  # this outcome was published
    ALREADY_ANSWERED = 0  # another worker has answered, or it is not ours to fail
    # With these two nothing was written, and the delivery is in flight as before.
    RESULT_CHANGED = 2  # the cache does not hold the expected transcript any more
    REJECTED = -1  # the key of a stream holds another type


@dataclass(frozen=True, slots=True, eq=False)
class Commit:
    """The answer to one request, on its way out."""

    delivery: Delivery
    outcome: Outcome
    keep: CacheWrite
    lease: Lease | None = None
    callback_url: str = ""


class Outbox:
    """Publishes outcomes: exactly one for each request entry, however many workers try."""

    def __init__(
        self, broker: Broker, in_flight: InFlight, *, request_ttl: int, decode_revision: str
    ) -> None:
        """`request_ttl` is in seconds; `decode_revision` is a part of the aliases' names."""
        self._broker = broker
        self._in_flight = in_flight
        self._decode_revision = decode_revision
        keys = broker.keys
        self._shared_keys = [keys.transcripts, keys.dead, keys.webhooks, keys.stats]
        self._shared_arguments = [REQUESTS_GROUP, broker.consumer, request_ttl]

    async def commit(
        self,
        delivery: Delivery,
        outcome: Outcome,
        *,
        keep: CacheWrite | None = None,
        lease: Lease | None = None,
        callback_url: str = "",
    ) -> bool:
        """Answer a request; false when another worker has, or when it is not ours to fail.

        Tried until Redis answers: a second try after a lost reply finds the entry acknowledged
        and writes nothing. For a transcript the first finisher wins, owner or not.
        """
        return await self.publish(
            Commit(delivery, outcome, keep or CacheWrite(), lease, callback_url)
        )

    async def publish(self, commit: Commit) -> bool:
        """Answer a request, as `commit` does."""

        async def attempt() -> Any:
            [reply] = await self._send([commit])
            if CommitResult(reply[0]) is CommitResult.REJECTED:
                raise ResponseError(reply[1].decode())
            return reply

        reply = await retry_until_available(attempt, "commit")
        return self._settle(commit, reply) is CommitResult.COMMITTED

    async def commit_all(self, commits: Sequence[Commit]) -> list[CommitResult]:
        """Answer several requests in one step of Redis's, and wait for none of them longer."""
        replies = await retry_until_available(lambda: self._send(commits), "commit")
        return [self._settle(commit, reply) for commit, reply in zip(commits, replies, strict=True)]

    async def _send(self, commits: Sequence[Commit]) -> Any:
        keys, arguments = [*self._shared_keys], [*self._shared_arguments]
        for commit in commits:
            commit.delivery.settle()
        for commit in commits:
            keys += self._keys_of(commit)
            arguments += self._arguments_of(commit)
        return await self._broker.run(_COMMIT, keys, arguments)

    def _settle(self, commit: Commit, reply: list[Any]) -> CommitResult:
        settled = CommitResult(reply[0])
        if settled in (CommitResult.RESULT_CHANGED, CommitResult.REJECTED):
            commit.delivery.reopen()
            return settled
        commit.delivery.settled()
        self._in_flight.discard(commit.delivery)
        if commit.lease is not None:
            self._in_flight.discard_lease(commit.lease)
        for problem in reply[2:]:
            log.warning(
                "commit_incomplete",
                id=commit.outcome.id,
                entry=commit.delivery.entry,
                problem=problem.decode(),
            )
        return settled

    def _keys_of(self, commit: Commit) -> list[str]:
        """`COMMIT_KEYS` of a request; `none` for one that the script shall leave alone."""
        names, keep = self._broker.keys, commit.keep
        delivery, outcome = commit.delivery, commit.outcome
        return [
            names.lane(delivery.lane),
            names.request(outcome.id),
            _upload(delivery, names) or names.none,
            names.result(keep.result) if keep.result else names.none,
            names.audio(keep.alias, self._decode_revision) if keep.alias else names.none,
            commit.lease.key if commit.lease else names.none,
            names.crashes(outcome.digest) if _forgets_crashes(commit) else names.none,
        ]

    def _arguments_of(self, commit: Commit) -> list[Any]:
        """`COMMIT_ARGUMENTS` and `COMMIT_LISTS` of a request."""
        delivery, outcome, keep = commit.delivery, commit.outcome, commit.keep
        letter = _dead_letter(delivery, outcome)
        upload_ttl: int | str = ""
        if _upload(delivery, self._broker.keys):
            upload_ttl = _DEAD_UPLOAD_TTL_MS if letter else 0
        entry = outcome.encode()
        counters = _counters(outcome, bool(letter))
        stored = {"transcript": keep.transcript, "model": outcome.model} if keep.transcript else {}
        return [
            delivery.entry,
            0 if outcome.completed else 1,
            to_json_text(entry),
            outcome.status.value,
            1 if delivery.fields.get(b"id") else 0,
            upload_ttl,
            keep.ttl_ms,
            keep.alias_value,
            commit.lease.value if commit.lease else "",
            1 if _forgets_crashes(commit) else 0,
            keep.expected_sha1,
            *_list(entry),
            *_list(letter),
            *_list({"url": commit.callback_url, "id": outcome.id} if commit.callback_url else {}),
            *_list(stored),
            len(counters),
            *counters,
        ]


def _forgets_crashes(commit: Commit) -> bool:
    """Whether the crashes that its bytes caused are forgotten.

    The crashes of a request that used up its attempts stay counted, for the copies that still
    wait; and a hit whose bytes were not read proves nothing.
    """
    outcome = commit.outcome
    exhausted = outcome.error is ErrorCode.ATTEMPTS_EXHAUSTED
    unread = outcome.cache is CacheUse.HIT and not commit.delivery.digest
    return bool(outcome.digest) and not exhausted and not unread


def _upload(delivery: Delivery, keys: Keys) -> str:
    """The key of the uploaded bytes that this request brought along; empty if it brought none."""
    key = keys.upload(delivery.fields.get(b"id", b"").decode("utf-8", "replace"))
    return key if delivery.fields.get(b"audio") == f"redis:{key}".encode() else ""


def _dead_letter(delivery: Delivery, outcome: Outcome) -> dict[Any, Any]:
    """The whole request and the reason; empty for an error that an operator cannot fix."""
    if outcome.error is None or not outcome.error.dead_letter:
        return {}
    letter: dict[Any, Any] = {**delivery.fields}
    return letter | {
        "dead:entry": delivery.entry,
        "dead:lane": delivery.lane.value,
        "dead:digest": outcome.digest,
        "dead:error": outcome.error.value,
        "dead:message": outcome.message,
        "dead:attempt": str(outcome.attempt),
        "dead:worker": outcome.worker,
        "dead:at": str(outcome.finished_at),
    }


def _counters(outcome: Outcome, dead: bool) -> list[str]:
    if outcome.cache is None:
        return ["failed", "dead"] if dead else ["failed"]
    return ["completed", {"miss": "misses", "hit": "hits"}.get(outcome.cache, outcome.cache.value)]


def _list(fields: Mapping[Any, Any]) -> list[Any]:
    return [2 * len(fields), *chain.from_iterable(fields.items())]
