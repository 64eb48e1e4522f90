"""Pending requests: listed, and released from a worker that is stuck."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Any

from redis.exceptions import ResponseError
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.keys import (
    HANDED_BACK,
    HANDED_BACK_IDLE,
    REQUESTS_GROUP,
    Keys,
    Lane,
)

from sensestream_producer.outcomes.stream_ids import id_text, parse_id
from sensestream_producer.transport import RedisTransport

__all__ = ["HolderState", "Pending", "PendingFilter", "PendingRequest", "Release", "Released"]

_RELEASE = load_script("sensestream_producer.operations", "release")
_PAGE = 200
_LANES = (Lane.HIGH, Lane.NORMAL)


class HolderState(StrEnum):
    """The state of the worker that holds a pending request."""

    ALIVE = "alive"  # the worker renews it
    SILENT = "silent"  # the worker's key has expired: another worker will reclaim the request
    NOBODY = "nobody"  # handed back: the next worker with a free slot takes it


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRequest:
    """A request that was read and not answered; `audio` is empty where its entry is gone."""

    entry: str
    lane: Lane
    consumer: str
    holder: HolderState
    idle: timedelta | None  # since the last renewal; `None` where it was handed back
    attempts: int  # transcriptions started; each but a running one ended in a crash
    id: str
    audio: str

    def to_json(self) -> dict[str, Any]:
        """The request as a JSON object; `idle_ms` is in milliseconds."""
        return {
            "entry": self.entry,
            "id": self.id,
            "lane": self.lane.value,
            "consumer": self.consumer,
            "holder": self.holder.value,
            "idle_ms": None if self.idle is None else self.idle // timedelta(milliseconds=1),
            "attempts": self.attempts,
            "audio": self.audio,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingFilter:
    """Selects pending requests that meet every condition given; without any, all of them.

    `ids` are request ids or entries; `idle` is the minimum time since the last renewal.
    """

    ids: frozenset[str] = field(default_factory=frozenset)
    consumers: frozenset[str] = field(default_factory=frozenset)
    idle: timedelta | None = None

    def takes(self, request: PendingRequest) -> bool:
        """Whether the request meets every condition."""
        return (
            (not self.ids or request.id in self.ids or request.entry in self.ids)
            and (not self.consumers or request.consumer in self.consumers)
            and (self.idle is None or request.idle is None or request.idle >= self.idle)
        )


class Release(StrEnum):
    """The result of an attempt to release a pending request."""

    RELEASED = "released"
    ALIVE = "alive"
    WAITING = "waiting"
    MOVED = "moved"


@dataclass(frozen=True, slots=True)
class Released:
    """A request, and the result of its release."""

    request: PendingRequest
    result: Release

    @property
    def sentence(self) -> str:
        """The result in a sentence for people."""
        return f"{self.request.id}: {_SENTENCES[self.result].format(self.request.consumer)}"


_SENTENCES = {
    Release.RELEASED: "taken from {}, for the next worker with a free slot",
    Release.ALIVE: "not taken, {} is alive and may be transcribing it: --force takes it all the "
    "same, and the work may then be done twice",
    Release.WAITING: "not taken, it was handed back and waits for a worker with a free slot",
    Release.MOVED: "not taken, it was answered or went to another worker meanwhile",
}


class Pending:
    """The pending requests of one pipeline."""

    def __init__(self, link: RedisTransport, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def select(self, which: PendingFilter | None = None) -> AsyncGenerator[PendingRequest]:
        """Yield the selected requests: the high lane first, each lane oldest first."""
        wanted = which or PendingFilter()
        for lane in _LANES:
            start = "-"
            while page := await self._page(lane, start):
                for request in page:
                    if wanted.takes(request):
                        yield request
                milliseconds, number = parse_id(page[-1].entry)
                start = id_text((milliseconds, number + 1))

    async def release(self, request: PendingRequest, *, force: bool = False) -> Released:
        """Release a request to the next worker with a free slot, as if it had been handed back.

        A request of a living worker needs `force`. The work may then be done twice, because that
        worker cannot be stopped; there is still one outcome.
        """
        keys = [self._keys.lane(request.lane), self._keys.worker(request.consumer)]
        arguments = [
            REQUESTS_GROUP,
            request.entry,
            request.consumer,
            HANDED_BACK,
            HANDED_BACK_IDLE,
            int(force),
        ]
        # Safe to send again: the second time the holder is another, and nothing changes.
        answer: Any = await self._link.run(lambda: _RELEASE(self._link.redis, keys, arguments))
        return Released(request, Release(answer.decode()))

    async def _page(self, lane: Lane, start: str) -> list[PendingRequest]:
        rows = await self._link.run(partial(self._rows, lane, start))
        entries = [row["message_id"] for row in rows]
        consumers = sorted({row["consumer"].decode("utf-8", "replace") for row in rows})
        bodies, alive = await self._link.run(partial(self._details, lane, entries, consumers))
        living = {name for name, lives in zip(consumers, alive, strict=True) if lives}
        return [
            _request(lane, row, body[0][1] if body else {}, living)
            for row, body in zip(rows, bodies, strict=True)
        ]

    async def _rows(self, lane: Lane, start: str) -> list[Any]:
        stream = self._keys.lane(lane)
        try:
            return await self._link.redis.xpending_range(
                stream, REQUESTS_GROUP, start, "+", count=_PAGE
            )
        except ResponseError as error:
            if "NOGROUP" in str(error):  # no worker has ever joined, so nothing is held
                return []
            raise

    async def _details(
        self, lane: Lane, entries: list[bytes], consumers: list[str]
    ) -> tuple[list[Any], list[Any]]:
        """The bodies of these entries, and whether each of these consumers is alive."""
        stream = self._keys.lane(lane)
        async with self._link.redis.pipeline(transaction=False) as pipe:
            for entry in entries:
                pipe.xrange(stream, entry, entry)
            for name in consumers:
                pipe.exists(self._keys.worker(name))
            answers: list[Any] = await pipe.execute()
        return answers[: len(entries)], answers[len(entries) :]


def _request(lane: Lane, row: Any, fields: dict[bytes, bytes], living: set[str]) -> PendingRequest:
    entry, consumer = row["message_id"].decode(), row["consumer"].decode("utf-8", "replace")
    holder = HolderState.ALIVE if consumer in living else HolderState.SILENT
    if consumer == HANDED_BACK:
        holder = HolderState.NOBODY
    idle = timedelta(milliseconds=row["time_since_delivered"])
    return PendingRequest(
        entry=entry,
        lane=lane,
        consumer=consumer,
        holder=holder,
        idle=None if holder is HolderState.NOBODY else idle,
        attempts=max(0, row["times_delivered"] - 1),
        id=fields.get(b"id", b"").decode("utf-8", "replace") or entry,
        audio=fields.get(b"audio", b"").decode("utf-8", "replace"),
    )
