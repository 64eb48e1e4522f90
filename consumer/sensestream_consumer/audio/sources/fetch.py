"""Fetch a reference into the worker's own copy of its bytes, by one opener for each scheme."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import structlog

from sensestream_consumer.audio.policy import AudioPolicy
from sensestream_consumer.audio.sources.local_files import open_file
from sensestream_consumer.audio.sources.reference import Reference, parse_reference
from sensestream_consumer.audio.sources.s3 import S3
from sensestream_consumer.audio.sources.stored import open_data, open_key
from sensestream_consumer.audio.sources.web import Web
from sensestream_consumer.audio.spool import Fetched

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["Fetcher", "Opener"]

Opener = Callable[[Reference], Awaitable[Fetched]]

log = structlog.get_logger(__name__)


class Fetcher:
    """Opens references within one policy.

    Not safe to share between event loops: it holds a pool of connections.

    Args:
        policy: the limits that every opener keeps.
        redis: the pipeline's Redis, for `redis:` references.
        upload_prefix: the key prefix of the uploads.
        openers: further schemes and their openers, such as another store's.
    """

    def __init__(
        self,
        policy: AudioPolicy,
        redis: Redis,
        upload_prefix: str,
        openers: Mapping[str, Opener] | None = None,
    ) -> None:
        self._web = Web(policy)
        self._s3 = S3(policy)
        self._openers: dict[str, Opener] = {
            "file": lambda reference: open_file(reference, policy),
            "http": self._web.open,
            "https": self._web.open,
            "s3": self._s3.open,
            "redis": lambda reference: open_key(reference, policy, redis, upload_prefix),
            "data": lambda reference: open_data(reference, policy),
            **(openers or {}),
        }

    async def fetch(self, uri: str) -> Fetched:
        """Copy the bytes at `uri`; the caller closes the copy.

        Raises `RequestError` with the fault of the reference, and `TransientError` where trying
        again may help; Redis's own errors pass through from `redis:` references.
        """
        reference = parse_reference(uri, self._openers)
        fetched = await self._openers[reference.scheme](reference)
        log.debug(
            "audio_fetched", audio=reference.display, size=fetched.size, digest=fetched.digest
        )
        return fetched

    async def aclose(self) -> None:
        """Close what the openers hold open."""
        self._s3.close()
        await self._web.aclose()
