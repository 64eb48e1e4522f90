"""Answers out: the commit that acknowledges a request and publishes its outcome in one step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sensestream_common.errors import ErrorCode
from sensestream_common.keys import REQUESTS_GROUP, Keys
from sensestream_common.outcome import Outcome, json_of
from sensestream_common.scripts import load_script

from sensestream_consumer.backoff import until_redis_answers
from sensestream_consumer.commands import Commands
from sensestream_consumer.holding import Held, Holding, Lease

__all__ = ["Keep", "Outbox"]

log = structlog.get_logger(__name__)

_COMMIT = load_script("sensestream_consumer.lua", "commit")
# The bytes of an upload whose request became a dead letter stay, so that it can be replayed; with
# a TTL, so that memory pressure may take them before it takes anything that is still queued.
_DEAD_UPLOAD_TTL_MS = 7 * 86_400_000


@dataclass(frozen=True, slots=True)
class Keep:
    """What a commit leaves in the cache beside the outcome.

    `transcript` (JSON) is stored under `result` for `ttl_ms`; without it (a hit) the retention of
    what is there is prolonged. `alias_of` is the audio identity that `alias` leads to.
    """

    result: str = ""
    transcript: str = ""
    alias: str = ""
    alias_of: str = ""
    ttl_ms: int = 0


class Outbox:
    """Publishes outcomes; every request entry gets exactly one, whoever else tries."""

    def __init__(
        self, commands: Commands, keys: Keys, holding: Holding, consumer: str, *, request_ttl: int
    ) -> None:
        self._commands = commands
        self._keys = keys
        self._holding = holding
        self._consumer = consumer
        self._request_ttl = request_ttl

    async def commit(
        self,
        held: Held,
        outcome: Outcome,
        *,
        keep: Keep | None = None,
        lease: Lease | None = None,
        callback_url: str = "",
    ) -> bool:
        """Answer a request; false when somebody else has, or when it is not ours to fail.

        Tried until Redis answers: a second try after a lost reply finds the entry acknowledged
        and writes nothing. For a transcript the first finisher wins, owner or not.
        """
        held.settling = True
        keys, arguments = self._script(held, outcome, keep or Keep(), lease, callback_url)
        reply = await until_redis_answers(
            lambda: self._commands.run(_COMMIT, keys, arguments), "commit"
        )
        self._holding.discard(held)
        if lease is not None:
            self._holding.discard_lease(lease)
        for problem in reply[2:]:
            log.warning("commit_incomplete", problem=problem.decode())
        return bool(reply[0])

    def _script(
        self, held: Held, outcome: Outcome, keep: Keep, lease: Lease | None, callback_url: str
    ) -> tuple[list[str], list[Any]]:
        none = self._keys.none
        names = self._keys
        upload = _upload(held, names)
        letter = _dead_letter(held, outcome)
        exhausted = outcome.error is ErrorCode.ATTEMPTS_EXHAUSTED
        keys = [
            names.lane(held.lane),
            names.transcripts,
            names.dead,
            names.webhooks,
            names.request(outcome.id),
            upload or none,
            names.result(keep.result) if keep.result else none,
            names.audio(keep.alias) if keep.alias else none,
            lease.key if lease else none,
            # What killed its workers stays counted, for the copies of it that still wait.
            names.crashes(outcome.digest) if outcome.digest and not exhausted else none,
            names.stats,
        ]
        entry = outcome.encode()
        stored = {"transcript": keep.transcript, "model": outcome.model} if keep.transcript else {}
        arguments = [
            REQUESTS_GROUP,
            self._consumer,
            held.entry,
            0 if outcome.completed else 1,
            json_of(entry),
            outcome.status.value,
            self._request_ttl,
            1 if held.fields.get(b"id") else 0,
            _DEAD_UPLOAD_TTL_MS if upload and letter else 0,
            keep.ttl_ms,
            keep.alias_of,
            lease.value if lease else "",
            *_list(entry),
            *_list(letter),
            *_list({"url": callback_url, "id": outcome.id} if callback_url else {}),
            *_list(stored),
            *_counted(_counters(outcome, bool(letter))),
        ]
        return keys, arguments


def _upload(held: Held, keys: Keys) -> str:
    """The key of the uploaded bytes that this request brought along; empty if it brought none."""
    key = keys.upload(held.fields.get(b"id", b"").decode("utf-8", "replace"))
    return key if held.fields.get(b"audio") == f"redis:{key}".encode() else ""


def _dead_letter(held: Held, outcome: Outcome) -> dict[Any, Any]:
    """The request whole, and why it was given up; empty where nobody could mend it."""
    if outcome.error is None or not outcome.error.dead_letter:
        return {}
    letter: dict[Any, Any] = {**held.fields}
    return letter | {
        "dead:entry": held.entry,
        "dead:lane": held.lane.value,
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
    return _counted([part for field in fields.items() for part in field])


def _counted(values: Iterable[Any]) -> list[Any]:
    items = list(values)
    return [len(items), *items]
