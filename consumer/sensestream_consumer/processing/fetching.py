"""Fetching the audio of a request, with retries while its source is away for the moment."""

from __future__ import annotations

import asyncio

from redis.exceptions import RedisError
from sensestream_common.connections.connection import is_outage
from sensestream_common.connections.retry import Backoff
from sensestream_common.contract.errors import ErrorCode, RequestError, TransientError
from sensestream_common.contract.request import Request

from sensestream_consumer.audio import Fetched, Fetcher
from sensestream_consumer.processing.deadlines import Deadlines
from sensestream_consumer.telemetry.metrics import RETRIES
from sensestream_consumer.telemetry.stages import Stage, timed

__all__ = ["Fetching"]

_TRIES = 4  # of a reference that is unavailable for the moment: about four seconds in all
_AT_ONCE = 16  # bounds open files and sockets, and the memory behind them


class Fetching:
    """A worker's fetches, each for as long as its request is worth an answer."""

    def __init__(self, fetcher: Fetcher, deadlines: Deadlines) -> None:
        self._fetcher = fetcher
        self._deadlines = deadlines
        self._local = asyncio.Semaphore(_AT_ONCE)
        self._remote = asyncio.Semaphore(_AT_ONCE)  # apart: a slow site or store holds up no file

    async def fetch(self, request: Request) -> Fetched:
        """The referenced bytes, hashed; the caller closes them.

        Raises `RequestError`, which is `TransientError` when the tries did not help.
        """
        with timed(Stage.FETCH):
            if request.audio.startswith("redis:"):
                # Not cut short: a command's reply would stay in the connection for the next one.
                fetched = await self._fetch_with_retries(request)
            else:
                async with self._deadlines.within(request):
                    fetched = await self._fetch_with_retries(request)
        if request.digest and request.digest != fetched.digest:
            fetched.close()
            raise RequestError(
                ErrorCode.DIGEST_MISMATCH,
                f"digest={request.digest} was promised, but the bytes read have "
                f"{fetched.digest}: send the digest of these bytes, or none",
            )
        return fetched

    async def _fetch_with_retries(self, request: Request) -> Fetched:
        remote = request.audio.lower().startswith(("http:", "https:", "s3:"))
        at_once = self._remote if remote else self._local
        backoff = Backoff(first=0.5, longest=4.0)
        redis_away = Backoff()
        while True:
            try:
                async with at_once:
                    return await self._fetcher.fetch(request.audio)
            except TransientError:
                if backoff.failures + 1 >= _TRIES:
                    raise
                RETRIES.labels("fetch").inc()
                await backoff.wait()
            except RedisError as error:  # the audio is in Redis: tried for as long as it is away
                if not is_outage(error):
                    raise
                RETRIES.labels("fetch").inc()
                await redis_away.wait()
            self._deadlines.check(request)
