"""Answers to what has been heard before: from the cache, without storing the upload or queueing it.

The gateway has the bytes and hashed them itself, so nobody's claim is trusted. A recording that is
not known, or whose result vanishes before it is read, goes the way of every other.
"""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass, replace
from typing import Any

import structlog
from redis.exceptions import ResponseError
from sensestream_common.errors import PipelineError
from sensestream_common.identity import is_identity, result_identity
from sensestream_common.keys import Keys, Lane
from sensestream_common.outcome import CacheUse, Outcome, Status
from sensestream_common.redaction import redacted
from sensestream_common.request import Request
from sensestream_common.scripts import load_script
from sensestream_common.transcript import Transcript

from sensestream_producer.link import Link
from sensestream_producer.submission import Receipt, RequestState

__all__ = ["Known", "KnownAnswers"]

log = structlog.get_logger("sensestream.gateway")

_ANSWER = load_script("sensestream_producer.gateway", "answer")


@dataclass(frozen=True, slots=True)
class Known:
    """A result of the cache, and where it is."""

    digest: str
    identity: str
    transcript: Transcript
    model: str


class KnownAnswers:
    """Looks into the cache as the pipeline's recogniser has filled it, and answers from it."""

    def __init__(self, link: Link, keys: Keys, *, request_ttl: int, result_ttl: int) -> None:
        self._link = link
        self._keys = keys
        self._request_ttl = request_ttl
        self._result_ttl = result_ttl
        # Who answered, as an outcome says it: named as workers name themselves.
        self._name = f"gateway-{socket.gethostname()}-{secrets.token_hex(4)}"

    async def find(self, digest: str, language: str, itn: bool) -> Known | None:
        """What is known of the bytes with this digest; `None` also while no worker lives."""
        keys = [self._keys.recogniser, self._keys.audio(digest)]
        found: Any = await self._link.run(lambda: self._link.redis.mget(keys))
        recogniser, audio = found
        if recogniser is None or audio is None or not is_identity(audio):
            return None
        identity = result_identity(audio.decode(), recogniser.decode(), language, itn)
        transcript, model = await self._result(identity)
        if transcript is None:
            return None
        return Known(digest, identity, transcript, model)

    async def answer(
        self, known: Known, request: Request, lane: Lane
    ) -> tuple[Receipt, Outcome | None]:
        """Write the outcome; it comes back unless the request's id stood there already."""
        outcome = Outcome(
            id=request.id,
            entry="",
            status=Status.COMPLETED,
            audio=redacted(request.audio),
            cache=CacheUse.HIT,
            digest=known.digest,
            model=known.model,
            worker=self._name,
            metadata=request.metadata,
            traceparent=request.traceparent,
        ).with_transcript(known.transcript)
        word, *rest = await self._write(known, request, lane, outcome)
        if word == "answered":
            entry, stream_id, now = rest
            at = int(now)
            whole = replace(outcome, entry=entry, submitted_at=at, started_at=at, finished_at=at)
            receipt = Receipt(
                id=request.id, entry=entry, lane=lane, state=RequestState.DONE,
                status=Status.COMPLETED, outcome=stream_id,
            )  # fmt: skip
            return receipt, whole
        entry, stood, state, status, stream_id = rest
        receipt = Receipt(
            id=request.id,
            entry=entry,
            lane=Lane.HIGH if stood == Lane.HIGH else Lane.NORMAL,
            duplicate=True,
            state=state,
            status=Status(status) if status else None,
            outcome=stream_id,
        )
        return receipt, None

    async def _write(
        self, known: Known, request: Request, lane: Lane, outcome: Outcome
    ) -> list[str]:
        names = self._keys
        keys = [names.requests, names.requests_high, names.transcripts, names.webhooks]
        keys += [names.request(request.id), names.stats]
        keys += [names.result(known.identity), names.audio(known.digest)]
        ttl = self._result_ttl if request.ttl is None else request.ttl
        arguments: list[Any] = [lane.value, self._request_ttl, ttl * 1000, outcome.dumps()]
        arguments += [request.callback_url, request.id]
        arguments += [part for field in outcome.encode().items() for part in field]
        try:
            # Safe to send again: the second time the id stands there, with its outcome.
            reply: Any = await self._link.run(lambda: _ANSWER(self._link.redis, keys, arguments))
        except PipelineError as error:
            cause = error.__cause__
            _, found, text = str(cause).partition("WRONGKEY ")
            if isinstance(cause, ResponseError) and found:
                raise PipelineError(text) from None
            raise
        return [part.decode() for part in reply]

    async def _result(self, identity: str) -> tuple[Transcript | None, str]:
        key = self._keys.result(identity)
        try:
            found: Any = await self._link.run(
                lambda: self._link.redis.hmget(key, "transcript", "model")
            )
            text, model = found
            return (Transcript.loads(text) if text else None), (model or b"").decode()
        except (KeyError, TypeError, ValueError, RecursionError, PipelineError) as error:
            # As a worker does: what cannot be read is not there.
            log.warning("cache_entry_unusable", key=key, error=repr(error))
            return None, ""
