"""Attempts are starts: charged in Redis just before work that could take the process down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.keys import REQUESTS_GROUP

from sensestream_consumer.broker.autopipeline import retry_until_available
from sensestream_consumer.broker.broker import Broker
from sensestream_consumer.broker.deliveries import Delivery, DeliveryState
from sensestream_consumer.processing.slots import SharedExclusiveGate

__all__ = ["Attempts", "DeliveryLost"]

log = structlog.get_logger(__name__)

_START = load_script("sensestream_consumer.processing", "start")
_CRASH_TTL_MS = 86_400_000  # how long bytes that killed a worker stay suspect


class DeliveryLost(Exception):
    """Somebody else holds the entry now: drop the work, write nothing."""


class Attempts:
    """The way to the engine: through its room, and charged."""

    def __init__(self, broker: Broker, room: SharedExclusiveGate, *, most: int) -> None:
        self._broker = broker
        self._room = room
        self._most = most

    @asynccontextmanager
    async def start(self, held: Delivery, request_id: str, digest: str) -> AsyncIterator[None]:
        """In the engine's room, with a start charged (once for each time the entry is held).

        An entry whose earlier start, or whose bytes', ended in a crash is in there alone.
        Raises `DeliveryLost`, or `RequestError` (attempts_exhausted) with nothing charged.
        """
        if not held.suspect:
            async with self._room.enter(alone=False):
                if await self._charge(held, request_id, digest, alone=False):
                    yield
                    return
            held.suspect = True
        async with self._room.enter(alone=True):
            await self._charge(held, request_id, digest, alone=True)
            yield

    async def _charge(self, held: Delivery, request_id: str, digest: str, *, alone: bool) -> bool:
        """Whether it may go on; false for a suspect that is not alone."""
        _raise_if_lost(held)
        if held.state is DeliveryState.STARTED:
            return True
        keys = [
            self._broker.keys.lane(held.lane),
            self._broker.keys.request(request_id),
            self._broker.keys.crashes(digest),
        ]
        arguments = [
            REQUESTS_GROUP, self._broker.consumer, held.entry, self._most, _CRASH_TTL_MS,
            int(alone), held.starts,
        ]  # fmt: skip
        what, starts, crashes = await retry_until_available(
            lambda: self._broker.run(_START, keys, arguments), "start"
        )
        _raise_if_lost(held)
        if what == b"lost":
            raise DeliveryLost
        if what == b"suspect":
            return False
        if what == b"exhausted":
            held.refuse_start(starts)
            message = _exhausted(starts, crashes, self._most)
            raise RequestError(ErrorCode.ATTEMPTS_EXHAUSTED, message)
        held.start(starts)
        if alone:
            log.warning("suspect_started", attempt=starts, crashes=crashes)
        return True


def _raise_if_lost(held: Delivery) -> None:
    if held.state is DeliveryState.LOST:
        raise DeliveryLost


def _exhausted(starts: int, crashes: int, most: int) -> str:
    if starts >= most:
        what = f"it was started {starts} times and its worker ended each time before it answered"
    else:
        what = f"copies of it ended {crashes} workers"
    return (
        f"{what} (SENSESTREAM_MAX_ATTEMPTS={most}): look at the recording, "
        "then replay the dead letter"
    )
