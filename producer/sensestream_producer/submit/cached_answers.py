"""Repeats: what the workers' cache keeps is answered by whoever submits it, and never queued.

A worker would only look it up and send it back. Its terms stand in `{name}:reuse-policy`, which
workers write: whose results may be used, and whether a digest that is only claimed counts. What
was looked up once is remembered, and believed only as far as the script can
check it when it is sent again.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from redis.exceptions import NoPermissionError, ResponseError
from sensestream_common.connections.pipelined_connection import (
    EncodedArgs,
    encode_arg,
    encode_args,
    pack,
)
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.identity import checksum, is_identity, result_identity
from sensestream_common.contract.keys import Keys, Lane
from sensestream_common.contract.outcome import (
    CacheUse,
    Outcome,
    Status,
    to_json_text,
    transcript_fields,
)
from sensestream_common.contract.request import Request
from sensestream_common.contract.transcript import MALFORMED, read_transcript
from sensestream_common.lru_cache import LruCache
from sensestream_common.redaction import redacted

from sensestream_producer.transport import RedisTransport

__all__ = ["CachedAnswers", "CachedReply", "CachedResult", "ResultKey"]

log = structlog.get_logger("sensestream.client")

_ANSWER = load_script("sensestream_producer.submit", "answer")
_FRESH = 10.0  # seconds until terms are read anew: the script sees to it that they hold
_LOOK_AGAIN = 1.0  # the same for terms that refuse something
_FORBIDDEN = 60.0  # the same for whom Redis lets see none
_REMEMBERED = 16 << 20  # bytes, of all that is remembered
_WORN = 1.0  # seconds that a retention may be behind: a look for every hit costs more
_OVERHEAD = 3000  # bytes of one beside its text and its segments
# Bytes of one that is remembered: Redis reads it through, to check it, for each repeat.
_LONGEST = 32 << 10


class ResultKey(NamedTuple):
    """What a result is looked up by; `claimed`: nobody here has hashed the bytes."""

    digest: str
    language: str
    itn: bool
    claimed: bool


@dataclass(frozen=True, slots=True)
class ReusePolicy:
    """On which workers let repeats be answered; ages in seconds."""

    recogniser: str
    result_ttl: int
    wary: bool  # a digest that is only claimed does not count
    packed: EncodedArgs  # recogniser and request_ttl


@dataclass(slots=True)
class CachedResult:
    """An answer that is kept, ready for any request that asks for it."""

    recogniser: str
    keys: EncodedArgs  # of the result, of the alias
    checksum: str  # of the transcript; empty for one that is not remembered
    found: dict[str, Any]  # of the outcome, without what is a request's own
    fields: int  # of the same, how many words there are as the script takes it
    packed: EncodedArgs  # these words, then the same as members of a JSON object
    # Prolonged by so many milliseconds, and by monotonic time when that is worth another look.
    _prolonged: int = 0
    _look_again: float = 0.0

    def lacks(self, ttl: int) -> bool:
        """Whether it may have less than `ttl` milliseconds left, by more than is worth a look."""
        return ttl > self._prolonged or time.monotonic() >= self._look_again

    def prolonged(self, ttl: int) -> None:
        """Note it; 0 is nothing."""
        if not ttl:
            return
        self._prolonged = ttl
        self._look_again = time.monotonic() + min(_WORN, ttl / 1000 / 100)


class CachedReply:
    """A request, and what answers it."""

    __slots__ = ("_own", "ask", "lane", "repeat", "request")

    def __init__(self, request: Request, lane: Lane, ask: ResultKey, repeat: CachedResult) -> None:
        self.request = request
        self.lane = lane
        self.ask = ask
        self.repeat = repeat
        self._own = _own(request)

    def retention(self, result_ttl: int) -> int:
        """Milliseconds that what is kept shall live from now on; 0 where it does, or nearly.

        `result_ttl` seconds where the request says nothing.
        """
        ttl = 1000 * (result_ttl if self.request.ttl is None else self.request.ttl)
        return ttl if self.repeat.lacks(ttl) else 0

    def arguments(self, retention: int) -> tuple[EncodedArgs, EncodedArgs]:
        """As the script takes it."""
        request, repeat, own = self.request, self.repeat, self._own
        fields = [part for pair in own.items() for part in pair]
        return encode_args(
            self.lane.value, 1 if self.ask.claimed else 0, repeat.checksum, retention,
            request.callback_url, request.id, len(fields) + repeat.fields, to_json_text(own)[1:-1],
            *fields,
        ), repeat.packed  # fmt: skip

    def answer(self, entry: str, at: int) -> Outcome:
        """The outcome as it was written."""
        found, own = self.repeat.found, self._own
        return Outcome(**found, **own, entry=entry, submitted_at=at, started_at=at, finished_at=at)


class CachedAnswers:
    """The results of one pipeline, for those who submit to it; `role` is who they are."""

    def __init__(self, link: RedisTransport, keys: Keys, *, role: str) -> None:
        self._link = link
        self._keys = keys
        self._shared = encode_args(
            keys.requests, keys.requests_high, keys.transcripts, keys.webhooks, keys.stats,
            keys.reuse_policy,
        )  # fmt: skip
        # Who answered, as an outcome says it: named as workers name themselves.
        self._name = f"{role}-{socket.gethostname()}-{secrets.token_hex(4)}"
        self._terms: ReusePolicy | None = None
        self._look_again = 0.0
        self._remembered: LruCache[ResultKey, CachedResult] = LruCache(_REMEMBERED)

    def answers(self, *, claimed: bool) -> bool:
        """Whether anything may be answered by a digest that is only claimed, or by one that is
        not, as far as is known here.
        """
        if self._terms is None:
            return time.monotonic() >= self._look_again  # to be asked
        return not (self._terms.wary and claimed)

    def remembered(self, ask: ResultKey) -> CachedResult | None:
        """What answers it without a question to Redis, as far as is known here."""
        terms = self._terms
        if terms is None or time.monotonic() >= self._look_again or (terms.wary and ask.claimed):
            return None
        return self._recall(ask, terms)

    async def find(self, asks: Sequence[ResultKey | None]) -> list[CachedResult | None]:
        """What is kept for each; Redis is asked only for what is not remembered.

        Nothing while no worker lives, and for whom Redis does not let see the cache.
        """
        wanted = {ask for ask in asks if ask is not None}
        terms = await self._current_terms() if wanted else None
        if terms is None:
            return [None] * len(asks)
        if terms.wary:
            wanted = {ask for ask in wanted if not ask.claimed}
        found = {ask: repeat for ask in wanted if (repeat := self._recall(ask, terms))}
        if unknown := wanted - found.keys():
            found |= await self._look_up(unknown, terms)
        return [found.get(ask) if ask else None for ask in asks]

    async def answer(self, cases: Sequence[CachedReply]) -> list[Any]:
        """The script's answer for each: an outcome is written, or nothing at all."""
        terms = self._terms
        if terms is None:
            return [[b"gone"] for _ in cases]
        keys, arguments = [self._shared], [terms.packed]
        retentions = [case.retention(terms.result_ttl) for case in cases]
        for case, retention in zip(cases, retentions, strict=True):
            if case.repeat.recogniser != terms.recogniser:  # they changed since it was found
                return [[b"gone"] for _ in cases]
            keys += [encode_arg(self._keys.request(case.request.id)), case.repeat.keys]
            arguments += case.arguments(retention)
        try:
            answers: list[Any] = await self._link.line.run_script(_ANSWER, keys, arguments)
        except ResponseError as error:
            if not _is_forbidden(error):
                raise
            self._terms, self._look_again = None, time.monotonic() + _FORBIDDEN
            return [[b"gone"] for _ in cases]
        for answer, case, retention in zip(answers, cases, retentions, strict=True):
            if answer[0] == b"answered":
                case.repeat.prolonged(retention)
            elif answer[0] == b"gone":
                self._remembered.forget(case.ask)
                self._look_again = 0.0
        return answers

    async def _current_terms(self) -> ReusePolicy | None:
        """As they were a moment ago; sooner anew where they refuse something."""
        if time.monotonic() < self._look_again:
            return self._terms
        fields = ("recogniser", "result_ttl", "request_ttl", "untrusted_digest_until")
        [found] = await self._link.line.execute([pack("HMGET", self._keys.reuse_policy, *fields)])
        forbidden = isinstance(found, ResponseError) and _is_forbidden(found)
        self._terms = None if isinstance(found, ResponseError) else _terms(found)
        fresh = _FRESH if self._terms and not self._terms.wary else _LOOK_AGAIN
        self._look_again = time.monotonic() + (_FORBIDDEN if forbidden else fresh)
        return self._terms

    def _recall(self, ask: ResultKey, terms: ReusePolicy) -> CachedResult | None:
        known = self._remembered.get(ask)
        return known if known and known.recogniser == terms.recogniser else None

    async def _look_up(
        self, asks: Iterable[ResultKey], terms: ReusePolicy
    ) -> dict[ResultKey, CachedResult]:
        asked = list(asks)
        aliases = await self._link.line.execute(
            [pack("GET", self._keys.audio(ask.digest)) for ask in asked]
        )
        results = {
            ask: result_identity(audio.decode(), terms.recogniser, ask.language, ask.itn)
            for ask, audio in zip(asked, aliases, strict=True)
            if isinstance(audio, bytes) and is_identity(audio)
        }
        kept = await self._link.line.execute(
            [
                pack("HMGET", self._keys.result(identity), "transcript", "model")
                for identity in results.values()
            ]
        )
        found = {}
        for (ask, identity), fields in zip(results.items(), kept, strict=True):
            if isinstance(fields, list) and fields[0] and not _is_long(fields[0], ask):
                repeat = self._read(ask, identity, fields[0], fields[1] or b"", terms)
                if repeat is not None:
                    found[ask] = repeat
        return found

    def _read(
        self, ask: ResultKey, identity: str, value: bytes, model: bytes, terms: ReusePolicy
    ) -> CachedResult | None:
        """What is kept, made ready; `None`, as a worker does, for what cannot be read."""
        key = self._keys.result(identity)
        try:
            transcript = read_transcript(value)
        except MALFORMED as error:
            log.warning("cache_entry_unusable", key=key, error=repr(error))
            return None
        found = {
            **transcript_fields(transcript), "segments": tuple(transcript.segments),
            "status": Status.COMPLETED, "cache": CacheUse.HIT, "digest": ask.digest,
            "model": model.decode("utf-8", "replace"), "worker": self._name,
        }  # fmt: skip
        entry = Outcome(id="", entry="", **found).encode()
        words = [part for pair in entry.items() for part in pair]
        short = len(value) <= _LONGEST
        repeat = CachedResult(
            recogniser=terms.recogniser,
            keys=encode_args(key, self._keys.audio(ask.digest)),
            checksum=checksum(value) if short else "",
            found=found,
            fields=len(words),
            packed=encode_args(*words, to_json_text(entry)[1:-1]),
        )
        if short:
            self._remembered.put(ask, repeat, _OVERHEAD + 7 * len(value))
        return repeat


def _terms(found: list[bytes | None]) -> ReusePolicy | None:
    """The terms in a reply; `None` where no worker lives that has written them."""
    recogniser, result_ttl, request_ttl, untrusted_digest_until = found
    if not (recogniser and result_ttl and request_ttl):
        return None
    try:
        wary = int(untrusted_digest_until or 0) > 0
        named = encode_args(recogniser, int(request_ttl))
        return ReusePolicy(recogniser.decode(), int(result_ttl), wary, named)
    except ValueError as error:
        log.warning("reuse_policy_invalid", error=repr(error))
        return None


def _is_long(value: bytes, ask: ResultKey) -> bool:
    """Left to workers: many in one batch would hold up the loop. Uploads do not come in batches."""
    return ask.claimed and len(value) > _LONGEST


def _is_forbidden(error: ResponseError) -> bool:
    """Whether this user may not do it: then repeats are left to workers."""
    return isinstance(error, NoPermissionError) or "NOPERM" in str(error)


def _own(request: Request) -> dict[str, Any]:
    """The fields of an outcome that are its request's own."""
    own = {"id": request.id, "audio": redacted(request.audio)}
    if request.metadata:
        own["metadata"] = request.metadata
    if request.traceparent:
        own["traceparent"] = request.traceparent
    return own
