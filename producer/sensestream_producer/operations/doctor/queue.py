"""The queue: types of keys, the consumer group, workers, and progress.

An entry held by a living worker is fine, however long it takes; these checks look for entries that
no worker will ever answer.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError
from sensestream_common.contract.keys import HANDED_BACK, KEY_MAP, REQUESTS_GROUP, Keys
from sensestream_common.findings import Finding, fault, fine, warning

from sensestream_producer.operations.status import PipelineStatus, pipeline_status
from sensestream_producer.outcomes.stream_ids import entries, last_id

__all__ = ["queue_findings"]

_NEARLY_FULL = 0.8  # of max_backlog
_SILENT_MS = 15_000  # as long as a worker's own SENSESTREAM_RECLAIM_AFTER, by default
_STUCK_MS = 300_000  # without any outcome; longer than all but the longest recordings take


async def queue_findings(redis: Redis, keys: Keys, *, max_backlog: int) -> list[Finding]:
    """Findings on the queue; a key of a foreign type hides the others."""
    if foreign := await _foreign_keys(redis, keys):
        return foreign
    status = await pipeline_status(redis, keys)
    lanes = (keys.requests, keys.requests_high)
    consumers = [(lane, about) for lane in lanes for about in await _consumers(redis, lane)]
    reading = {about["name"] for _, about in consumers if about["idle"] < _SILENT_MS}
    found = [_workers(status, len(reading)), _backlog(status, max_backlog)]
    for lane in lanes:
        found += await _group(redis, lane)
    for lane, about in consumers:
        found += await _silent(redis, keys, lane, about, alive=bool(status.workers or reading))
    return [*found, await _progress(redis, keys, status), _letters(status)]


async def _foreign_keys(redis: Redis, keys: Keys) -> list[Finding]:
    """Faults for keys of the pipeline that have another type."""
    found = []
    for kind in KEY_MAP:
        if kind.pattern.endswith("*"):
            continue
        key = keys.prefix + kind.pattern
        answer: Any = await redis.type(key)
        if (type_ := answer.decode()) not in ("none", kind.type):
            found.append(
                fault(
                    "keys",
                    f"{key} holds a {type_} where a {kind.type} belongs",
                    "Rename or delete that key, or use another SENSESTREAM_PIPELINE.",
                )
            )
    return found


def _workers(status: PipelineStatus, reading: int) -> Finding:
    waiting = status.backlog + status.backlog_high
    if not status.workers and reading:
        return warning(
            "workers",
            f"{reading} consumers read, and none has a key: memory pressure evicted their keys",
            "Run doctor again in five seconds, when they are written anew; raise maxmemory.",
        )
    if not status.workers and waiting:
        return fault(
            "workers",
            f"{waiting} requests wait and no worker is alive",
            "Start one: sensestream-worker.",
        )
    if not status.workers:
        return warning("workers", "no worker is alive", "Start one: sensestream-worker.")
    kinds = sorted({f"{worker.model} on {worker.device}" for worker in status.workers})
    observed = f"{len(status.workers)} alive, {', '.join(kinds)}"
    if len({worker.model for worker in status.workers}) > 1:
        return warning(
            "workers",
            f"{observed}: they share no results, and answers depend on the worker",
            "Run one model in each pipeline: another SENSESTREAM_PIPELINE for the other.",
        )
    return fine("workers", observed)


def _backlog(status: PipelineStatus, most: int) -> Finding:
    waiting = status.backlog + status.backlog_high
    oldest = "" if status.oldest_ms is None else f", the oldest for {status.oldest_ms / 1000:.0f} s"
    observed = f"{waiting} requests, {status.pending} of them with workers{oldest}"
    if waiting >= most:
        return fault(
            "backlog",
            f"{observed}: submits are refused from {most} on",
            "Add workers, or raise SENSESTREAM_MAX_BACKLOG where Redis has the memory for it.",
        )
    if waiting >= most * _NEARLY_FULL:
        return warning(
            "backlog",
            f"{observed}: submits are refused from {most} on",
            "Add workers before it is reached.",
        )
    return fine("backlog", observed)


async def _group(redis: Redis, stream: str) -> list[Finding]:
    """Findings on whether the group sees every entry; none for a stream without entries."""
    first = await entries(redis, stream, count=1)
    group = await _find_group(redis, stream)
    if group is None and not first:
        return []
    if group is None:
        fix = "Start a worker: the first one creates it, from the first entry on."
        return [warning("group", f"{stream} has no consumer group yet", fix)]
    if first and await _orphaned(redis, stream, first[0][0]):
        return [
            fault(
                "group",
                f"entry {first[0][0].decode()} of {stream} counts as delivered and no worker holds "
                "it (the group was created at $, or a consumer was deleted while it held entries)",
                f"Stop all workers, XGROUP SETID '{stream}' {REQUESTS_GROUP} 0, and start them "
                "again.",
            )
        ]
    observed = f"{stream}: {group['pending']} pending{await _oldest(redis, stream)}"
    return [fine("group", observed)]


async def _find_group(redis: Redis, stream: str) -> dict[str, Any] | None:
    try:
        groups: Any = await redis.xinfo_groups(stream)
    except ResponseError as error:
        if "no such key" in str(error):
            return None
        raise
    return next((group for group in groups if group["name"] == REQUESTS_GROUP.encode()), None)


async def _orphaned(redis: Redis, stream: str, entry: bytes) -> bool:
    """Whether this entry exists, counts as delivered, and is held by no consumer."""
    group = await _find_group(redis, stream)
    if group is None or not _precedes(entry, group["last-delivered-id"]):
        return False
    if await redis.xpending_range(stream, REQUESTS_GROUP, entry, entry, 1):
        return False
    return bool(await entries(redis, stream, entry.decode(), entry.decode()))


async def _oldest(redis: Redis, stream: str) -> str:
    rows: Any = await redis.xpending_range(stream, REQUESTS_GROUP, "-", "+", 1)
    if not rows:
        return ""
    seconds, _ = await redis.time()
    waited = max(0, seconds - int(rows[0]["message_id"].split(b"-")[0]) // 1000)
    return f", the oldest submitted {waited} s ago, {rows[0]['times_delivered'] - 1} attempts"


async def _consumers(redis: Redis, stream: str) -> list[dict[str, Any]]:
    """The group's consumers, without the one that owns handed-back entries."""
    if await _find_group(redis, stream) is None:
        return []
    found: Any = await redis.xinfo_consumers(stream, REQUESTS_GROUP)
    return [about for about in found if about["name"] != HANDED_BACK.encode()]


async def _silent(
    redis: Redis, keys: Keys, stream: str, consumer: dict[str, Any], *, alive: bool
) -> list[Finding]:
    """A finding on a consumer that holds entries and no longer renews them."""
    name = consumer["name"].decode("utf-8", "replace")
    if not consumer["pending"] or consumer["idle"] < _SILENT_MS:
        return []
    if await redis.exists(keys.worker(name)):
        return []
    observed = (
        f"{name} holds {consumer['pending']} entries of {stream} and has been silent for "
        f"{consumer['idle'] / 1000:.0f} s"
    )
    if alive:
        fix = "Nothing to do: another worker takes them after SENSESTREAM_RECLAIM_AFTER."
        return [warning("silent_consumers", observed, fix)]
    return [fault("silent_consumers", observed, "Start a worker: it takes them over.")]


async def _progress(redis: Redis, keys: Keys, status: PipelineStatus) -> Finding:
    """A finding on the time since the last outcome, while requests wait and workers live."""
    seconds, _ = await redis.time()
    last = (await last_id(redis, keys.transcripts))[0]
    ago = max(0, seconds * 1000 - last)
    observed = f"{status.transcripts} kept" + (f", the last {ago / 1000:.0f} s ago" if last else "")
    waited = min(ago, status.oldest_ms or 0)
    if status.workers and waited > _STUCK_MS:
        return warning(
            "outcomes",
            f"{observed}, though requests wait and workers are alive",
            "Read the workers' logs: they may be fetching from a host that hangs, or transcribing "
            "one very long recording.",
        )
    return fine("outcomes", observed)


def _letters(status: PipelineStatus) -> Finding:
    if not status.dead:
        return fine("dead_letters", "none")
    fix = "sensestream dead list shows them; replay or purge them."
    return fine("dead_letters", f"{status.dead} failed requests kept", fix)


def _precedes(entry: bytes, last: bytes) -> bool:
    """Whether `entry` is not after `last`."""
    return _order(entry) <= _order(last)


def _order(entry: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number or 0)
