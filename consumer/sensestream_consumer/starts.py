"""Attempts are starts: charged in Redis just before work that could take the process down."""

from __future__ import annotations

import structlog
from sensestream_common.errors import ErrorCode, RequestError
from sensestream_common.keys import REQUESTS_GROUP, Keys
from sensestream_common.scripts import load_script

from sensestream_consumer.backoff import until_redis_answers
from sensestream_consumer.commands import Commands
from sensestream_consumer.holding import Held

__all__ = ["EntryLost", "Starts"]

log = structlog.get_logger(__name__)

_START = load_script("sensestream_consumer.lua", "start")
_CRASH_TTL_MS = 86_400_000  # how long bytes that killed a worker stay suspect


class EntryLost(Exception):
    """Somebody else holds the entry now: drop the work, write nothing."""


class Starts:
    """Charges starts, and refuses one too many."""

    def __init__(self, commands: Commands, keys: Keys, consumer: str, *, most: int) -> None:
        self._commands = commands
        self._keys = keys
        self._consumer = consumer
        self._most = most

    async def charge(self, held: Held, request_id: str, digest: str) -> None:
        """Charge a start, once for each time the entry is held; sets `attempt` and `suspect`.

        Raises `EntryLost`, or `RequestError` (attempts_exhausted) with nothing charged.
        """
        if held.attempt:
            return
        outcome, starts, crashes = await until_redis_answers(
            lambda: self._commands.run(
                _START,
                [
                    self._keys.lane(held.lane),
                    self._keys.request(request_id),
                    self._keys.crashes(digest),
                ],
                [REQUESTS_GROUP, self._consumer, held.entry, self._most, _CRASH_TTL_MS],
            ),
            "start",
        )
        if outcome == b"lost":
            raise EntryLost
        if outcome == b"exhausted":
            held.attempt = starts
            raise RequestError(
                ErrorCode.ATTEMPTS_EXHAUSTED, _exhausted(starts, crashes, self._most)
            )
        held.attempt = starts
        held.suspect = starts > 1 or crashes > 0
        if held.suspect:
            log.warning("suspect_started", entry=held.entry, attempt=starts, crashes=crashes)


def _exhausted(starts: int, crashes: int, most: int) -> str:
    if starts >= most:
        return (
            f"it was started {starts} times and its worker ended each time before it answered "
            f"(SENSESTREAM_MAX_ATTEMPTS={most}): look at the recording, then replay the dead letter"
        )
    return (
        f"the same recording ended {crashes} workers (SENSESTREAM_MAX_ATTEMPTS={most}): "
        "look at the recording, then replay the dead letter"
    )
