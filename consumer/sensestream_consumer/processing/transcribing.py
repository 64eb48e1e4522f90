"""Transcribing a miss: the only way to the engine.

    slot → attempt → decode → look up the audio ─ unknown → lease → engine → new transcript
                                                └ known, or leased elsewhere: no engine

The slot and the attempt end before a request waits for another worker, so that waiting takes
nothing from the engine.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog
from sensestream_common.connections.retry import Backoff
from sensestream_common.contract.alias import Alias, AudioWarning
from sensestream_common.contract.errors import TransientError
from sensestream_common.contract.request import Request
from sensestream_common.contract.transcript import Transcript

from sensestream_consumer.audio import (
    AudioPolicy,
    Fetched,
    audio_identity,
    decode_with_warnings,
)
from sensestream_consumer.broker.deliveries import Delivery, Lease
from sensestream_consumer.cache.results import Cache, Cached, Leased, LeasedElsewhere
from sensestream_consumer.engine import Engine, NotStarted
from sensestream_consumer.processing.attempts import Attempts
from sensestream_consumer.processing.deadlines import Deadlines, expired
from sensestream_consumer.processing.slots import SlotPool
from sensestream_consumer.telemetry.metrics import RETRIES
from sensestream_consumer.telemetry.stages import Stage, timed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Transcribed", "Transcribing"]

log = structlog.get_logger(__name__)

_TRIES = 5  # of a recording that the device has no memory for: about eight seconds in all


@dataclass(frozen=True, slots=True)
class Transcribed:
    """A new transcript, and the lease that its commit takes along."""

    transcript: Transcript
    lease: Lease | None


class Transcribing:
    """A worker's way to the engine, for as long as a request is worth an answer."""

    def __init__(
        self,
        *,
        engine: Engine,
        cache: Cache,
        attempts: Attempts,
        slots: SlotPool,
        policy: AudioPolicy,
        deadlines: Deadlines,
    ) -> None:
        self._engine = engine
        self._cache = cache
        self._attempts = attempts
        self._slots = slots
        self._policy = policy
        self._deadlines = deadlines
        # Apart from asyncio's own threads, which a hung network disk may hold.
        self._decoders = ThreadPoolExecutor(engine.capacity, thread_name_prefix="decode")

    def close(self) -> None:
        """Decode nothing more; waits for no thread."""
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def transcribe(
        self, delivery: Delivery, request: Request, fetched: Fetched
    ) -> tuple[Alias, Transcribed | LeasedElsewhere | Cached]:
        """Transcribe bytes, unless their audio turns out to be known, or leased elsewhere.

        Returns the alias of the bytes, and what became of their audio.

        Raises `AtCapacity` when no slot is available, what `Attempts.begin` raises, and
        `RequestError`, which is `TransientError` when the tries at the engine did not help.
        """
        with self._slots.acquire(delivery):
            async with self._attempts.begin(delivery, request.id, fetched.digest):
                self._deadlines.check(request)
                samples, alias = await self._decode(fetched)
                return alias, await self._transcribe(delivery, request, samples, alias.audio)

    async def _decode(self, fetched: Fetched) -> tuple[NDArray[np.int16], Alias]:
        """The samples, int16[n], 16 kHz mono, and the alias that the bytes get."""
        loop = asyncio.get_running_loop()
        with timed(Stage.DECODE):
            samples, warnings = await loop.run_in_executor(
                self._decoders, decode_with_warnings, fetched, self._policy
            )
            audio = await loop.run_in_executor(self._decoders, audio_identity, samples)
        return samples, Alias(audio, tuple(map(_sendable, warnings)))

    async def _transcribe(
        self, delivery: Delivery, request: Request, samples: NDArray[np.int16], audio: str
    ) -> Transcribed | LeasedElsewhere | Cached:
        identity = self._cache.identity(audio, request.language, request.itn)
        if request.ttl == 0:  # stores nothing, so there is nothing to lease
            cached = await self._cache.result(identity)
            if cached is not None:
                return Cached(cached)
            return Transcribed(await self._run_engine(samples, request), None)
        async with self._cache.lease(identity) as leased:
            if not isinstance(leased, Leased):
                return leased
            delivery.lease = leased.lease
            transcript = await self._run_engine(samples, request)
            return Transcribed(transcript, leased.hand_over())

    async def _run_engine(self, samples: NDArray[np.int16], request: Request) -> Transcript:
        """Transcribe samples, and try again while the device has no memory left for them."""
        backoff = Backoff(first=0.5, longest=4.0)
        while True:
            self._deadlines.check(request)
            try:
                return await self._engine.transcribe(
                    samples,
                    request.language,
                    request.itn,
                    start_within=self._deadlines.left(request),
                )
            except NotStarted:
                raise expired(request) from None
            except TransientError as error:
                if backoff.failures + 1 >= _TRIES:
                    raise
                log.warning("engine_retries", tries=backoff.failures + 1, error=error.message)
                RETRIES.labels("engine").inc()
                await backoff.wait()


def _sendable(warning: AudioWarning) -> AudioWarning:
    """The warning as it can be sent: a library's text, or a tag, may hold what is no UTF-8."""
    return replace(warning, message=warning.message.encode("utf-8", "replace").decode())
