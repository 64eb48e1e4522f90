"""The result cache: what has been heard before, and who is listening to something right now.

A result is found by identity: of the recording (its decoded samples), of the recogniser, of the
language asked for and of inverse text normalisation. An alias leads from the digest of bytes to
the identity of the audio in them, so that a repeat needs no decoding, and no reading where the
sender names the digest. Nothing a sender claims is ever stored.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

import structlog
from redis.exceptions import ResponseError
from sensestream_common.connections.connection import is_out_of_memory
from sensestream_common.connections.retry import Backoff
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.identity import checksum, is_identity, result_identity
from sensestream_common.contract.transcript import MALFORMED, Transcript, read_transcript

from sensestream_consumer.broker.autopipeline import retry_until_available
from sensestream_consumer.broker.broker import Broker
from sensestream_consumer.broker.deliveries import InFlight, Lease
from sensestream_consumer.cache.local import CachedTranscript, LocalCache

__all__ = ["Cache", "Lookup"]

log = structlog.get_logger(__name__)

_RELEASE = load_script("sensestream_consumer.broker.lua", "release_key")


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the cache knows about some bytes: the identity of their audio, and a transcript."""

    audio: str = ""
    transcript: Transcript | None = None


class Cache:
    """Results, aliases and leases of one pipeline, as one recogniser sees them."""

    def __init__(
        self, broker: Broker, in_flight: InFlight, fingerprint: str, *, lease_ms: int
    ) -> None:
        self._broker = broker
        self._in_flight = in_flight
        self._fingerprint = fingerprint
        self._lease_ms = lease_ms
        self._recall = LocalCache()

    def identity(self, audio: str, language: str, itn: bool) -> str:
        """The identity of a result, in hex, from the identity of the audio."""
        return result_identity(audio, self._fingerprint, language, itn)

    async def find(self, digest: str, language: str, itn: bool) -> Lookup:
        """What is known about the bytes with this digest."""
        audio = self._recall.audio(digest) or await self._alias(digest)
        if not audio:
            return Lookup()
        return Lookup(audio, await self.result(self.identity(audio, language, itn)))

    def recall(self, digest: str, language: str, itn: bool) -> tuple[str, CachedTranscript] | None:
        """The audio in these bytes and its transcript, as this worker saw them last.

        `None` for a long transcript too: it is cheaper looked up, and compared here.
        """
        audio = self._recall.audio(digest)
        known = self._recall.transcript(self.identity(audio, language, itn)) if audio else None
        return (audio, known) if known and known.short else None

    def learn(
        self, digest: str, audio: str, identity: str, transcript: Transcript, value: str
    ) -> None:
        """What is about to be kept: `value` is the transcript as it is stored."""
        self._recall.learn_audio(digest, audio)
        self._recall.learn_transcript(identity, transcript, value.encode())

    async def _alias(self, digest: str) -> str:
        """The audio in the bytes with this digest; empty where that is not known."""
        audio = await self._get("GET", self._broker.keys.audio(digest))
        if audio is None or not is_identity(audio):
            return ""
        name = str(audio.decode())
        self._recall.learn_audio(digest, name)
        return name

    async def result(self, identity: str) -> Transcript | None:
        """The transcript stored under an identity."""
        value = await self._get("HGET", self._broker.keys.result(identity), "transcript")
        if value is None:
            self._recall.forget(identity)
            return None
        known = self._recall.transcript(identity)
        if known is not None and known.checksum == checksum(value):
            return known.transcript
        transcript = _transcript(value)
        if transcript is not None:
            self._recall.learn_transcript(identity, transcript, value)
        return transcript

    async def acquire(self, identity: str) -> tuple[Lease | None, bool, Transcript | None]:
        """Try to become the one that transcribes this.

        Returns the lease if it is ours, whether somebody else has it, and the transcript if it has
        come meanwhile. A lease that a full Redis refuses, or whose key holds something else, counts
        as none: (None, False, None).
        """
        lease = Lease(
            self._broker.keys.lease(identity), f"{self._broker.consumer}:{secrets.token_hex(8)}"
        )
        taken, transcript = await asyncio.gather(
            retry_until_available(lambda: self._set_lease(lease), "lease"), self.result(identity)
        )
        if taken is None:
            return None, False, transcript
        if not taken:
            return None, True, transcript
        self._in_flight.add_lease(lease)
        return lease, False, transcript

    async def release(self, lease: Lease) -> None:
        self._in_flight.discard_lease(lease)
        await retry_until_available(
            lambda: self._broker.run(_RELEASE, [lease.key], [lease.value]), "release"
        )

    async def look(self, identity: str) -> tuple[bool, Transcript | None]:
        """Whether somebody still transcribes this, and the result if it is there."""
        holder, transcript = await asyncio.gather(
            self._get("GET", self._broker.keys.lease(identity)), self.result(identity)
        )
        return holder is not None, transcript

    async def await_other(self, identity: str) -> Transcript | None:
        """Wait while another transcribes this: its transcript; `None` when it gave up or died."""
        backoff = Backoff(first=0.02, longest=0.5)
        while True:
            held, transcript = await self.look(identity)
            if transcript is not None or not held:
                return transcript
            await backoff.wait()

    async def _set_lease(self, lease: Lease) -> bool | None:
        try:
            if await self._broker.commands(
                "SET", lease.key, lease.value, "NX", "PX", self._lease_ms
            ):
                return True
            # Ours already where an earlier try went through and its reply was lost.
            return bool(await self._broker.commands("GET", lease.key) == lease.value.encode())
        except ResponseError as error:
            # What is no string is nobody's lease: waited for, it might never end.
            if is_out_of_memory(error) or "WRONGTYPE" in str(error):
                return None
            raise

    async def _get(self, *command: str) -> bytes | None:
        """A value of the cache; one that cannot be read is one that is not there."""
        try:
            value = await retry_until_available(lambda: self._broker.commands(*command), "look-up")
        except ResponseError as error:
            log.warning("cache_entry_unusable", key=command[1], error=str(error))
            return None
        return value if isinstance(value, bytes) else None


def _transcript(value: bytes) -> Transcript | None:
    try:
        return read_transcript(value)
    except MALFORMED as error:
        log.warning("cache_entry_unusable", error=repr(error))
        return None
