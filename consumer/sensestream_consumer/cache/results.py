"""The result cache in Redis: transcripts, aliases that lead to them, and leases to transcribe.

A result is found by identity: of the recording (its decoded samples), of the recogniser, of the
language asked for and of inverse text normalisation. An alias leads from the digest of bytes to
the identity of the audio in them and to the warnings about them, so that a hit needs no decoding,
and no reading where the sender names the digest. An alias is stored only for bytes that a worker
has hashed itself. It is named by the decode revision too: other decoders may read other audio.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
from redis.exceptions import ResponseError
from sensestream_common.connections.connection import is_out_of_memory
from sensestream_common.connections.retry import Backoff
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.alias import Alias, read_alias
from sensestream_common.contract.identity import checksum, result_identity
from sensestream_common.contract.transcript import MALFORMED, Transcript, read_transcript

from sensestream_consumer.broker.autopipeline import retry_until_available
from sensestream_consumer.broker.broker import Broker
from sensestream_consumer.broker.deliveries import InFlight, Lease
from sensestream_consumer.cache.local import LocalCache

__all__ = ["Cache", "Cached", "Leased", "LeasedElsewhere", "Lookup"]

log = structlog.get_logger(__name__)

_RELEASE = load_script("sensestream_consumer.broker.lua", "release_key")


@dataclass(frozen=True, slots=True)
class Lookup:
    """A transcript of some bytes, and their alias."""

    alias: Alias
    transcript: Transcript
    unchecked_sha1: str = ""  # of a transcript that Redis was not asked for: the commit checks it


@dataclass(slots=True)
class Leased:
    """This worker transcribes; `lease` is `None` where Redis could not keep one."""

    lease: Lease | None
    handed_over: bool = field(default=False, init=False)

    def hand_over(self) -> Lease | None:
        """Give the lease away: from now on the receiver, and not the block, has to release it."""
        self.handed_over = True
        return self.lease


@dataclass(frozen=True, slots=True)
class LeasedElsewhere:
    """Another worker transcribes."""


@dataclass(frozen=True, slots=True)
class Cached:
    """The transcript is there already."""

    transcript: Transcript


class Cache:
    """Results, aliases and leases of one pipeline, as one recogniser sees them."""

    def __init__(
        self,
        broker: Broker,
        in_flight: InFlight,
        fingerprint: str,
        decode_revision: str,
        *,
        lease_ms: int,
    ) -> None:
        self._broker = broker
        self._in_flight = in_flight
        self._fingerprint = fingerprint
        self._decode_revision = decode_revision
        self._lease_ms = lease_ms
        self._local = LocalCache()

    def identity(self, audio: str, language: str, itn: bool) -> str:
        """The identity of a result, in hex, from the identity of the audio."""
        return result_identity(audio, self._fingerprint, language, itn)

    # -- results and aliases ------------------------------------------------------------------

    async def find(self, digest: str, language: str, itn: bool) -> Lookup | None:
        """Look up the transcript of the bytes with this digest."""
        alias = self._local.alias(digest) or await self._alias(digest)
        if alias is None:
            return None
        transcript = await self.result(self.identity(alias.audio, language, itn))
        return Lookup(alias, transcript) if transcript is not None else None

    def find_locally(self, digest: str, language: str, itn: bool) -> Lookup | None:
        """The transcript of the bytes with this digest, as this worker saw it last.

        `None` for a long transcript too: to look it up and compare it here is cheaper.
        """
        alias = self._local.alias(digest)
        if alias is None:
            return None
        cached = self._local.transcript(self.identity(alias.audio, language, itn))
        if cached is None or not cached.short:
            return None
        return Lookup(alias, cached.transcript, cached.checksum)

    async def result(self, identity: str) -> Transcript | None:
        """The transcript stored under an identity."""
        value = await self._get("HGET", self._broker.keys.result(identity), "transcript")
        if value is None:
            self._local.evict(identity)
            return None
        cached = self._local.transcript(identity)
        if cached is not None and cached.checksum == checksum(value):
            return cached.transcript
        transcript = _transcript(value)
        if transcript is not None:
            self._local.put_transcript(identity, transcript, value)
        return transcript

    def put_locally(
        self, digest: str, alias: Alias, identity: str, transcript: Transcript, value: str
    ) -> None:
        """Keep what is about to be stored: `value` is the transcript as JSON."""
        self._local.put_alias(digest, alias)
        self._local.put_transcript(identity, transcript, value.encode())

    async def _alias(self, digest: str) -> Alias | None:
        """The alias of the bytes with this digest; `None` where there is none."""
        value = await self._get("GET", self._broker.keys.audio(digest, self._decode_revision))
        alias = read_alias(value) if value is not None else None
        if alias is not None:
            self._local.put_alias(digest, alias)
        return alias

    async def _get(self, *command: str) -> bytes | None:
        """A value of the cache; one that cannot be read counts as absent."""
        try:
            value = await retry_until_available(lambda: self._broker.commands(*command), "look-up")
        except ResponseError as error:
            log.warning("cache_entry_unusable", key=command[1], error=str(error))
            return None
        return value if isinstance(value, bytes) else None

    # -- leases -------------------------------------------------------------------------------

    @asynccontextmanager
    async def lease(self, identity: str) -> AsyncIterator[Leased | LeasedElsewhere | Cached]:
        """Try to become the worker that transcribes this, for the length of the block.

        The end of the block releases the lease, unless it was handed over. A lease that a full
        Redis refuses, or whose key holds something else, counts as none: transcribe anyway.
        """
        lease = Lease(
            self._broker.keys.lease(identity), f"{self._broker.consumer}:{secrets.token_hex(8)}"
        )
        taken, transcript = await asyncio.gather(
            retry_until_available(lambda: self._set_lease(lease), "lease"), self.result(identity)
        )
        if taken:
            self._in_flight.add_lease(lease)
        leased = Leased(lease if taken else None)
        try:
            if transcript is not None:
                yield Cached(transcript)
            elif taken is False:
                yield LeasedElsewhere()
            else:
                yield leased
        finally:
            if taken and not leased.handed_over:
                await self.release(lease)

    async def release(self, lease: Lease) -> None:
        """Give up a lease that was handed over, and renew it no more."""
        self._in_flight.discard_lease(lease)
        await retry_until_available(
            lambda: self._broker.run(_RELEASE, [lease.key], [lease.value]), "release"
        )

    async def wait_for_leaseholder(self, identity: str) -> Transcript | None:
        """Wait while another worker transcribes this.

        Returns its transcript; `None` when it gave up or died.
        """
        backoff = Backoff(first=0.02, longest=0.5)
        while True:
            holder, transcript = await asyncio.gather(
                self._get("GET", self._broker.keys.lease(identity)), self.result(identity)
            )
            if transcript is not None or holder is None:
                return transcript
            await backoff.wait()

    async def _set_lease(self, lease: Lease) -> bool | None:
        """Whether the lease is ours; `None` where Redis can keep none."""
        try:
            if await self._broker.commands(
                "SET", lease.key, lease.value, "NX", "PX", self._lease_ms
            ):
                return True
            # Ours already where an earlier try went through and its reply was lost.
            return bool(await self._broker.commands("GET", lease.key) == lease.value.encode())
        except ResponseError as error:
            # A key that holds no string is no worker's lease: the wait for its end might not end.
            if is_out_of_memory(error) or "WRONGTYPE" in str(error):
                return None
            raise


def _transcript(value: bytes) -> Transcript | None:
    try:
        return read_transcript(value)
    except MALFORMED as error:
        log.warning("cache_entry_unusable", error=repr(error))
        return None
