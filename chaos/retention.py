"""Every key of a pipeline against the contract's key map: its type, and what will end it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sensestream_common.contract.keys import KEY_MAP, KeyKind, Keys, Retention
from sensestream_consumer.settings import WorkerSettings

__all__ = ["count_by_kind", "retention_faults"]

_KINDS = {kind.pattern: kind for kind in KEY_MAP}
_DAY = 86_400  # seconds
_JANITOR_PERIOD = 60  # seconds


def count_by_kind(redis: Any, keys: Keys) -> Counter[str]:
    """How many keys there are of each kind of the key map; strangers under their own names."""
    found: Counter[str] = Counter()
    for key in redis.scan_iter(count=1000):
        kind = _kind(key.decode("utf-8", "replace"), keys)
        found[kind.pattern if kind else key.decode("utf-8", "replace")] += 1
    return found


def retention_faults(redis: Any, keys: Keys, settings: WorkerSettings) -> list[str]:
    """What is wrong with the keys of a pipeline in which no request waits; empty when all is well.

    A sentence for each key that is not in the key map, has another type than it says, or will not
    end when and as it says.
    """
    longest = _longest(settings)
    faults = []
    for key in sorted(redis.scan_iter(count=1000)):
        name = key.decode("utf-8", "replace")
        kind = _kind(name, keys)
        if kind is None:
            faults.append(f"{name} is not in the key map")
            continue
        found = redis.type(key).decode()
        if found == "none":  # it ended meanwhile
            continue
        if found != kind.type:
            faults.append(f"{name} is a {found}, not a {kind.type}")
        elif kind.retention in (Retention.TTL, Retention.QUEUED):
            faults += _time_fault(name, redis.ttl(key), longest[kind.pattern])
        elif kind.type == "stream":
            faults += _length_fault(name, redis.xlen(key), _most(kind, settings))
    return faults


def _time_fault(name: str, ttl: int, longest: float) -> list[str]:
    if ttl == -1:
        return [f"{name} has no TTL"]
    if ttl > longest:
        return [f"{name} lives {ttl} s more, and should at most {longest:.0f} s"]
    return []


def _length_fault(name: str, length: int, most: int) -> list[str]:
    return [f"{name} holds {length} entries, and should at most {most}"] if length > most else []


def _kind(name: str, keys: Keys) -> KeyKind | None:
    if not name.startswith(keys.prefix):
        return None
    rest = name.removeprefix(keys.prefix)
    return _KINDS.get(rest) or _KINDS.get(rest.partition(":")[0] + ":*")


def _longest(settings: WorkerSettings) -> dict[str, float]:
    """Seconds that a key of each kind may still have to live, where none waits."""
    return {
        "result:*": settings.result_ttl,
        "audio:*": settings.result_ttl,
        "lease:*": settings.reclaim_after,
        "crashes:*": _DAY,
        "request:*": settings.request_ttl,
        "upload:*": 7 * _DAY,  # beside a dead letter; every other one is deleted by the commit
        "recogniser": 2 * settings.reclaim_after,
        "reuse-policy": 2 * settings.reclaim_after,
        "warmed:*": settings.result_ttl,
        "worker:*": settings.reclaim_after,
        "janitor": _JANITOR_PERIOD,
    }


def _most(kind: KeyKind, settings: WorkerSettings) -> int:
    """Entries that a stream may hold right after the janitor, where no request waits."""
    match kind.retention:
        case Retention.TRIMMED:
            return settings.transcripts_max
        case Retention.COUNT:
            return settings.dead_max
        case _:
            return 0
