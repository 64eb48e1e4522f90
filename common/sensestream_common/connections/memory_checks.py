"""What Redis's memory and its eviction policy mean for a queue that shares them with a cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensestream_common.findings import Finding, fault, fine, warning

__all__ = ["memory_findings"]

_NEARLY_FULL = 0.9
# Below this the allocator's own pages decide the ratio of resident to used memory.
_TELLING_MEMORY = 64 * 2**20
_FRAGMENTED, _SWAPPED = 1.5, 0.8

_NEW_POLICY = "CONFIG SET maxmemory-policy volatile-lfu (and the same in redis.conf)"


def memory_findings(info: Mapping[str, Any]) -> list[Finding]:
    """What INFO tells of eviction, memory, refused writes and fragmentation."""
    found = [_eviction(info), _memory(info), _refusals(info), _shape(info)]
    return [finding for finding in found if finding]


def _eviction(info: Mapping[str, Any]) -> Finding:
    policy = str(info.get("maxmemory_policy", ""))
    evicted = int(info.get("evicted_keys", 0))
    so_far = f"; {evicted} keys evicted since it started"
    if policy.startswith("allkeys") and evicted:
        return fault(
            "eviction",
            f"maxmemory-policy is {policy} and {evicted} keys were evicted since Redis started: "
            "queued requests, uploads and ids may be among them",
            f"{_NEW_POLICY}, and submit again what has no outcome.",
        )
    if policy.startswith("allkeys"):
        return warning(
            "eviction",
            f"maxmemory-policy is {policy}: when memory is full Redis evicts the request streams "
            "with their group, and every queued request, upload and id is lost",
            f"{_NEW_POLICY}.",
        )
    if policy == "noeviction":
        return warning(
            "eviction",
            "maxmemory-policy is noeviction: when memory is full cached results stay, and new "
            "requests are refused",
            f"{_NEW_POLICY}.",
        )
    if not policy:
        return fine("eviction", "maxmemory-policy could not be read")
    return fine("eviction", f"{policy}: memory pressure takes results, never the queue{so_far}")


def _memory(info: Mapping[str, Any]) -> Finding:
    limit = int(info.get("maxmemory", 0))
    # As Redis counts against its limit: buffers of replicas and of the append-only file are free.
    used = int(info.get("used_memory", 0)) - int(info.get("mem_not_counted_for_evict", 0))
    if not limit:
        return warning(
            "memory",
            f"{_size(used)} used and no maxmemory: the cache grows until the kernel ends Redis",
            "CONFIG SET maxmemory to what it may take (and the same in redis.conf).",
        )
    observed = f"{_size(used)} of {_size(limit)} used"
    if _may_evict(info):
        return fine("memory", observed)
    if used >= limit:
        return fault(
            "memory",
            f"{observed} and nothing that may be evicted: submits are refused and nothing is "
            "cached, while workers go on answering what is queued, which makes room",
            f"Let the workers catch up, raise maxmemory, or let cached results go: {_NEW_POLICY}.",
        )
    if used >= limit * _NEARLY_FULL:
        return warning(
            "memory",
            f"{observed} and nothing that may be evicted: soon submits are refused",
            f"Add workers, raise maxmemory, or {_NEW_POLICY}.",
        )
    return fine("memory", observed)


def _may_evict(info: Mapping[str, Any]) -> bool:
    policy = str(info.get("maxmemory_policy", ""))
    if policy.startswith("allkeys"):
        return True
    databases = [about for name, about in info.items() if name[:2] == "db" and name[2:].isdecimal()]
    return policy.startswith("volatile") and any(about["expires"] for about in databases)


def _refusals(info: Mapping[str, Any]) -> Finding | None:
    """Commands refused for want of memory, which Redis counts since 6.2."""
    refused = int(info.get("errorstat_OOM", {}).get("count", 0))
    if not refused:
        return None
    return warning(
        "refused_writes",
        f"{refused} commands were refused for want of memory since Redis started",
        "Raise maxmemory; CONFIG RESETSTAT counts anew.",
    )


def _shape(info: Mapping[str, Any]) -> Finding | None:
    """Resident against used memory, where there is enough of it for the ratio to mean anything."""
    used, ratio = int(info.get("used_memory", 0)), float(info.get("mem_fragmentation_ratio", 1))
    if used < _TELLING_MEMORY or _SWAPPED <= ratio <= _FRAGMENTED:
        return None
    if ratio < _SWAPPED:
        return warning(
            "fragmentation",
            f"only {ratio:.0%} of Redis's memory is resident: the rest is swapped out, and slow",
            "Lower maxmemory below what the machine has free, or give it more.",
        )
    return warning(
        "fragmentation",
        f"Redis keeps {ratio:.1f} times the memory it uses",
        "CONFIG SET activedefrag yes where its build has it, or restart it in a quiet hour.",
    )


def _size(count: int) -> str:
    """Bytes as people read them: 512 KiB, 1.5 GiB."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} GiB"
