"""Cache hits answered at submit time: the client or gateway writes the outcome a worker would.

A worker would only look the result up and send it back, so these requests are never queued.
Workers state the reuse policy in `{name}:reuse-policy`: which recogniser's results may be used, by
the aliases of which decode revision, and whether the digest of bytes that this process has not
hashed counts. The client keeps results it has looked up in a local cache but never trusts it: the
script checks that Redis still holds the same transcript.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import NoPermissionError, ResponseError
from sensestream_common.connections.pipelined_connection import (
    EncodedArgs,
    encode_arg,
    encode_args,
    pack,
)
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.alias import Alias, is_decode_revision, read_alias
from sensestream_common.contract.identity import checksum, result_identity
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.outcome import (
    CacheUse,
    Outcome,
    Status,
    to_json_text,
    transcript_fields,
)
from sensestream_common.contract.transcript import MALFORMED, read_transcript
from sensestream_common.lru_cache import LruCache

from sensestream_producer.submit.cached_result import CachedReply, CachedResult, ResultKey
from sensestream_producer.transport import RedisTransport

__all__ = ["CachedAnswers", "ReusePolicy"]

log = structlog.get_logger("sensestream.client")

_ANSWER = load_script("sensestream_producer.submit", "answer")
_POLICY_FRESH = 10.0  # seconds until the policy is read anew: the script sees to it that it holds
_POLICY_RETRY = 1.0  # the same for a policy that refuses something
_POLICY_FORBIDDEN = 60.0  # the same where Redis's users may not read it
_CACHE_BYTES = 16 << 20  # of the local cache
_OVERHEAD = 3000  # bytes of a result beside its text and its segments
# Bytes of JSON of a transcript in the local cache: for each hit Redis reads it through.
_LONGEST = 32 << 10
_CANNOT_ANSWER = b"gone"
_POLICY_FIELDS = (
    "recogniser",
    "decode_revision",
    "result_ttl",
    "request_ttl",
    "untrusted_digest_until",
)


@dataclass(frozen=True, slots=True)
class ReusePolicy:
    """The terms on which workers let cache hits be answered; ages in seconds."""

    recogniser: str
    decode_revision: str
    result_ttl: int
    digests_untrusted: bool  # an unverified digest does not count
    arguments: EncodedArgs  # recogniser, decode revision and request_ttl

    def covers(self, result: CachedResult) -> bool:
        """Whether a result was looked up for the same recogniser and decode revision."""
        return (
            result.recogniser == self.recogniser and result.decode_revision == self.decode_revision
        )

    def refuses(self, key: ResultKey) -> bool:
        """Whether this key's digest does not count."""
        return self.digests_untrusted and key.digest_unverified


class CachedAnswers:
    """The results of one pipeline as a submitting process (a `role`) may use them."""

    def __init__(self, link: RedisTransport, keys: Keys, *, role: str) -> None:
        self._link = link
        self._keys = keys
        self._shared_keys = encode_args(
            keys.requests,
            keys.requests_high,
            keys.transcripts,
            keys.webhooks,
            keys.stats,
            keys.reuse_policy,
        )
        # The `worker` of its outcomes: made as workers make their names.
        self._name = f"{role}-{socket.gethostname()}-{secrets.token_hex(4)}"
        self._policy: ReusePolicy | None = None
        self._look_again = 0.0  # at the policy, by monotonic time
        self._results: LruCache[ResultKey, CachedResult] = LruCache(_CACHE_BYTES)

    def may_answer(self, *, hashed: bool) -> bool:
        """Whether hits may be answered, as far as known here; by a digest that was `hashed`."""
        if self._policy is None:
            return time.monotonic() >= self._look_again  # still to be read
        return hashed or not self._policy.digests_untrusted

    def local(self, key: ResultKey) -> CachedResult | None:
        """The result in the local cache, where no question to Redis is due."""
        policy = self._policy
        if policy is None or time.monotonic() >= self._look_again or policy.refuses(key):
            return None
        return self._local(key, policy)

    async def find(self, keys: Sequence[ResultKey | None]) -> list[CachedResult | None]:
        """The result for each key; Redis is asked only for those not in the local cache.

        None at all while no worker lives, and where Redis's users may not read the cache.
        """
        wanted = {key for key in keys if key is not None}
        policy = await self._current_policy() if wanted else None
        if policy is None:
            return [None] * len(keys)
        wanted = {key for key in wanted if not policy.refuses(key)}
        found = {key: result for key in wanted if (result := self._local(key, policy))}
        if unknown := wanted - found.keys():
            found |= await self._look_up(unknown, policy)
        return [found.get(key) if key else None for key in keys]

    async def answer(self, replies: Sequence[CachedReply]) -> list[Any]:
        """Have the script write an outcome for each.

        Returns a `CachedAnswer`, `None` where the result is kept no longer or the policy has
        changed, or the script's reply for a request that it did not answer.
        """
        policy = self._policy
        if policy is None or not all(policy.covers(r.result) for r in replies):
            return [None] * len(replies)
        ttls = [reply.ttl(policy.result_ttl) for reply in replies]
        try:
            answers = await self._run_script(policy, replies, ttls)
        except ResponseError as error:
            if not _is_forbidden(error):
                raise
            self._policy, self._look_again = None, time.monotonic() + _POLICY_FORBIDDEN
            return [None] * len(replies)
        return [self._read(*each) for each in zip(replies, answers, ttls, strict=True)]

    async def _run_script(
        self, policy: ReusePolicy, replies: Sequence[CachedReply], ttls: Sequence[int]
    ) -> list[list[bytes]]:
        keys, arguments = [self._shared_keys], [policy.arguments]
        for reply, ttl in zip(replies, ttls, strict=True):
            keys += [encode_arg(self._keys.request(reply.request.id)), reply.result.keys]
            arguments += reply.arguments(ttl)
        answers: list[list[bytes]] = await self._link.connection.run_script(
            _ANSWER, keys, arguments
        )
        return answers

    def _read(self, reply: CachedReply, answer: list[bytes], ttl: int) -> Any:
        if answer[0] == b"answered":
            reply.result.retention.prolonged(ttl)
            return reply.answer(answer)
        if answer[0] != _CANNOT_ANSWER:
            return answer
        self._results.evict(reply.key)
        self._look_again = 0.0
        return None

    async def _current_policy(self) -> ReusePolicy | None:
        """The policy as it was a moment ago; read sooner where it refuses something."""
        if time.monotonic() < self._look_again:
            return self._policy
        command = pack("HMGET", self._keys.reuse_policy, *_POLICY_FIELDS)
        [found] = await self._link.connection.execute([command])
        forbidden = isinstance(found, ResponseError) and _is_forbidden(found)
        self._policy = policy = None if isinstance(found, ResponseError) else _read_policy(found)
        wait = _POLICY_FRESH if policy and not policy.digests_untrusted else _POLICY_RETRY
        self._look_again = time.monotonic() + (_POLICY_FORBIDDEN if forbidden else wait)
        return policy

    def _local(self, key: ResultKey, policy: ReusePolicy) -> CachedResult | None:
        result = self._results.get(key)
        return result if result and policy.covers(result) else None

    async def _look_up(
        self, keys: Iterable[ResultKey], policy: ReusePolicy
    ) -> dict[ResultKey, CachedResult]:
        asked = list(keys)
        values = await self._link.connection.execute(
            [pack("GET", self._keys.audio(key.digest, policy.decode_revision)) for key in asked]
        )
        aliases = {
            key: alias
            for key, value in zip(asked, values, strict=True)
            if isinstance(value, bytes) and (alias := read_alias(value))
        }
        identities = {
            key: result_identity(alias.audio, policy.recogniser, key.language, key.itn)
            for key, alias in aliases.items()
        }
        kept = await self._link.connection.execute(
            [
                pack("HMGET", self._keys.result(identity), "transcript", "model")
                for identity in identities.values()
            ]
        )
        found = {}
        for (key, identity), fields in zip(identities.items(), kept, strict=True):
            if isinstance(fields, list) and fields[0] and not _is_left_to_workers(fields[0], key):
                model = fields[1] or b""
                result = self._prepare(key, identity, aliases[key], fields[0], model, policy)
                if result is not None:
                    found[key] = result
        return found

    def _prepare(
        self,
        key: ResultKey,
        identity: str,
        alias: Alias,
        value: bytes,
        model: bytes,
        policy: ReusePolicy,
    ) -> CachedResult | None:
        """The result, encoded once for all its hits; `None`, as in a worker, for one unreadable."""
        name = self._keys.result(identity)
        try:
            transcript = read_transcript(value)
        except MALFORMED as error:
            log.warning("cache_entry_unusable", key=name, error=repr(error))
            return None
        fields = {
            **transcript_fields(transcript),
            "segments": tuple(transcript.segments),
            "warnings": alias.warnings,
            "status": Status.COMPLETED,
            "cache": CacheUse.HIT,
            "digest": key.digest,
            "model": model.decode("utf-8", "replace"),
            "worker": self._name,
        }
        entry = Outcome(id="", entry="", **fields).encode()
        words = [part for pair in entry.items() for part in pair]
        short = len(value) <= _LONGEST
        result = CachedResult(
            recogniser=policy.recogniser,
            decode_revision=policy.decode_revision,
            keys=encode_args(name, self._keys.audio(key.digest, policy.decode_revision)),
            checksum=checksum(value) if short else "",
            fields=fields,
            field_count=len(words),
            arguments=encode_args(*words, to_json_text(entry)[1:-1]),
        )
        if short:
            self._results.put(key, result, _OVERHEAD + 7 * len(value))
        return result


def _read_policy(found: list[bytes | None]) -> ReusePolicy | None:
    """The policy in a reply; `None` where no worker lives that has written one."""
    recogniser, revision, result_ttl, request_ttl, untrusted_digest_until = found
    if not (recogniser and revision and result_ttl and request_ttl):
        return None
    try:
        if not is_decode_revision(decode_revision := revision.decode()):
            raise ValueError(f"decode_revision is {decode_revision!r}")
        return ReusePolicy(
            recogniser.decode(),
            decode_revision,
            int(result_ttl),
            digests_untrusted=int(untrusted_digest_until or 0) > 0,
            arguments=encode_args(recogniser, revision, int(request_ttl)),
        )
    except ValueError as error:
        log.warning("reuse_policy_invalid", error=repr(error))
        return None


def _is_left_to_workers(value: bytes, key: ResultKey) -> bool:
    """Whether a transcript is too long: many in one batch would hold up the event loop.

    Uploads, whose digests are verified, do not come in batches.
    """
    return key.digest_unverified and len(value) > _LONGEST


def _is_forbidden(error: ResponseError) -> bool:
    """Whether Redis's user may not do it: then cache hits are left to workers."""
    return isinstance(error, NoPermissionError) or "NOPERM" in str(error)
