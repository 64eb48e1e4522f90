"""The state of a request, and of the pipeline."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError
from sensestream_common.contract.keys import REQUESTS_GROUP, Keys, Lane
from sensestream_common.contract.outcome import Outcome, Status, outcome_from_entry

from sensestream_producer.outcomes.stream_ids import entries, parse_id

__all__ = ["PipelineStatus", "RequestStatus", "WorkerStatus", "pipeline_status", "request_status"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStatus:
    """The state of a request: queued, started or done, then with its outcome while that is kept."""

    id: str
    state: str
    entry: str
    lane: Lane
    status: Status | None = None
    outcome: Outcome | None = None

    def to_json(self) -> dict[str, Any]:
        """The state as a JSON object."""
        value: dict[str, Any] = {"id": self.id, "state": self.state, "entry": self.entry}
        value["lane"] = self.lane.value
        if self.status:
            value["status"] = self.status.value
        if self.outcome:
            value["outcome"] = self.outcome.to_json()
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """A living worker, as it describes itself in its key."""

    consumer: str
    host: str = ""
    pid: int = 0
    model: str = ""
    device: str = ""
    since: int = 0  # milliseconds since the epoch
    in_flight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStatus:
    """Counts of entries, the living workers, and the counters since the pipeline began.

    `backlog` and `backlog_high` are unanswered requests by lane; `pending` of them are held by
    workers. `oldest_ms` is the age of the oldest, in milliseconds; `None` without any.
    """

    backlog: int
    backlog_high: int
    pending: int
    oldest_ms: int | None
    transcripts: int
    dead: int
    workers: tuple[WorkerStatus, ...] = ()
    counters: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The status as a JSON object."""
        value = {name: getattr(self, name) for name in self.__slots__ if name != "workers"}
        value["workers"] = [
            {name: getattr(worker, name) for name in worker.__slots__} for worker in self.workers
        ]
        return value


async def request_status(redis: Redis, keys: Keys, request_id: str) -> RequestStatus | None:
    """The state of a request, or `None` for an unknown id: never submitted, or expired since."""
    known = _texts(await redis.hgetall(keys.request(request_id)))
    if not known:
        return None
    outcome = None
    if known.get("outcome"):
        found = await entries(redis, keys.transcripts, known["outcome"], known["outcome"])
        outcome = outcome_from_entry(found[0][1]) if found else None
    return RequestStatus(
        id=request_id,
        state=known.get("state", ""),
        entry=known.get("entry", ""),
        lane=Lane.HIGH if known.get("lane") == Lane.HIGH else Lane.NORMAL,
        status=Status(known["status"]) if known.get("status") else None,
        outcome=outcome,
    )


async def pipeline_status(redis: Redis, keys: Keys) -> PipelineStatus:
    """The status of the pipeline; raises redis-py's errors."""
    lanes = (keys.requests, keys.requests_high)
    pending = [await _pending(redis, lane) for lane in lanes]
    async with redis.pipeline(transaction=True) as pipe:
        for stream in (*lanes, keys.transcripts, keys.dead):
            pipe.xlen(stream)
        for lane in lanes:
            pipe.xrange(lane, count=1)
        pipe.time()
        pipe.hgetall(keys.stats)
        answers: list[Any] = await pipe.execute()
    backlog, high, transcripts, dead, oldest, oldest_high, time, counters = answers
    now = time[0] * 1000 + time[1] // 1000
    ages = [now - parse_id(first[0][0])[0] for first in (oldest, oldest_high) if first]
    return PipelineStatus(
        backlog=backlog,
        backlog_high=high,
        pending=sum(pending),
        oldest_ms=max(ages) if ages else None,
        transcripts=transcripts,
        dead=dead,
        workers=await _workers(redis, keys),
        counters={name: _number(count) for name, count in sorted(_texts(counters).items())},
    )


async def _pending(redis: Redis, lane: str) -> int:
    try:
        groups: Any = await redis.xinfo_groups(lane)
    except ResponseError as error:
        if "no such key" in str(error):
            return 0
        raise
    return sum(group["pending"] for group in groups if group["name"] == REQUESTS_GROUP.encode())


async def _workers(redis: Redis, keys: Keys) -> tuple[WorkerStatus, ...]:
    prefix = keys.worker("")
    names = [key.decode() async for key in redis.scan_iter(match=prefix + "*", count=2000)]
    found = await asyncio.gather(*(redis.hgetall(name) for name in names))
    workers = [
        _worker(name.removeprefix(prefix), _texts(raw))
        for name, raw in zip(names, found, strict=True)
        if raw
    ]
    return tuple(sorted(workers, key=lambda worker: worker.consumer))


def _worker(consumer: str, about: dict[str, str]) -> WorkerStatus:
    return WorkerStatus(
        consumer=consumer,
        host=about.get("host", ""),
        pid=_number(about.get("pid", "")),
        model=about.get("model", ""),
        device=about.get("device", ""),
        since=_number(about.get("since", "")),
        in_flight=_number(about.get("in_flight", "")),
    )


def _texts(raw: Any) -> dict[str, str]:
    return {
        name.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for name, value in raw.items()
    }


def _number(text: str) -> int:
    return int(text) if text.lstrip("-").isdecimal() else 0
