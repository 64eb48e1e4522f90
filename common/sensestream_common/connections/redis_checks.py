"""Is this Redis fit to be a queue and a cache, and what may it lose?

Only INFO and CONFIG GET are asked, and nothing is written. A managed Redis often refuses one or
both: what could not be read is said, and is no fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from sensestream_common.connections.connection import is_outage, redacted_url
from sensestream_common.connections.memory_checks import memory_findings
from sensestream_common.findings import Finding, fault, fine, warning

__all__ = ["OLDEST_REDIS", "RedisFacts", "examine_redis", "read_facts", "redis_findings"]

OLDEST_REDIS = (6, 2)  # XAUTOCLAIM, XPENDING IDLE, XTRIM MINID, and exclusive ranges


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """`info` is empty, and `appendfsync` is `None`, where Redis refuses to tell."""

    info: Mapping[str, Any]
    appendfsync: str | None = None


async def examine_redis(redis: Redis, url: str) -> list[Finding]:
    """All there is to say about the Redis at `url`; one fault where it does not let us in."""
    where = f"Redis at {redacted_url(url)}"
    try:
        await redis.ping()
        facts = await read_facts(redis)
    except (RedisError, OSError) as error:
        return [_no_entry(where, error)]
    return [fine("redis", f"{where} answers"), *redis_findings(facts)]


def _no_entry(where: str, error: Exception) -> Finding:
    refusals = (AuthenticationError, AuthorizationError, NoPermissionError)
    # What a user may not do while connecting (CLIENT SETNAME) comes as a lost connection.
    if isinstance(error, refusals) or isinstance(error.__cause__, refusals):
        return fault(
            "redis",
            f"{where} refuses this user: {error}",
            "Check user and password in SENSESTREAM_REDIS_URL, and what the user may do (ACL "
            "GETUSER).",
        )
    return fault(
        "redis",
        f"{where} does not answer: {str(error) or type(error).__name__}",
        "Start it, or name another one with SENSESTREAM_REDIS_URL.",
    )


async def read_facts(redis: Redis, *, config: bool = True) -> RedisFacts:
    """What INFO and CONFIG GET tell; raises what redis-py raises when Redis is away.

    Without `config` only INFO is asked: what a user may not ask is an entry of Redis's ACL log.
    """
    info: Mapping[str, Any] = {}
    appendfsync = None
    try:
        info = await redis.info()
        if config:
            appendfsync = _text(await redis.config_get("appendfsync"))
    except ResponseError as error:  # refused to this user, or renamed away
        if is_outage(error):
            raise
    return RedisFacts(info, appendfsync)


def redis_findings(facts: RedisFacts) -> list[Finding]:
    """A finding for each thing that the facts tell, good or bad."""
    info = facts.info
    if not info:
        return [
            warning(
                "redis_info",
                "Redis refuses INFO to this user, so that version, memory, eviction and "
                "persistence could not be read",
                "ACL SETUSER … +info, or look at them where this Redis is managed.",
            )
        ]
    found = [_version(info), _role(info), _persistence(facts), *memory_findings(info)]
    return [finding for finding in found if finding]


def _version(info: Mapping[str, Any]) -> Finding:
    version = str(info.get("redis_version", "0"))
    name = f"Redis {version}"
    if fork := info.get("valkey_version"):
        name = f"Valkey {fork}, as Redis {version}"
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < OLDEST_REDIS:
        return fault(
            "redis_version",
            f"this Redis is {version}: Sensestream needs 6.2 or newer",
            "Install Redis 6.2 or newer, or Valkey.",
        )
    return fine("redis_version", name)


def _role(info: Mapping[str, Any]) -> Finding | None:
    if info.get("role") != "slave":
        return None
    return fault(
        "redis_role",
        f"this Redis is a replica of {info.get('master_host')}:{info.get('master_port')} and takes "
        "no writes",
        "Name the master in SENSESTREAM_REDIS_URL, or sentinels: redis+sentinel://….",
    )


def _persistence(facts: RedisFacts) -> Finding:
    info = facts.info
    if info.get("aof_last_write_status", "ok") != "ok":
        return fault(
            "persistence",
            "the last write to the append-only file failed, and Redis refuses all others",
            "Make room on the disk of its data directory.",
        )
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return fault(
            "persistence",
            "the last snapshot failed, and Redis refuses writes for it (MISCONF)",
            "Make room on the disk of its data directory, or memory for the fork (its log says "
            "which).",
        )
    if not int(info.get("aof_enabled", 0)):
        return warning(
            "persistence",
            "the append-only file is off: a restart of Redis loses all requests, uploads and "
            "outcomes since its last snapshot",
            "CONFIG SET appendonly yes (and the same in redis.conf), or know how your provider "
            "keeps writes.",
        )
    return _fsync(facts.appendfsync)


def _fsync(appendfsync: str | None) -> Finding:
    if appendfsync == "no":
        return warning(
            "persistence",
            "append-only file on, but appendfsync is no: a crash of the machine loses what the "
            "kernel had not written yet, some 30 s",
            "CONFIG SET appendfsync everysec, or always.",
        )
    costs = {
        None: "appendfsync could not be read",
        "always": "appendfsync always: no acknowledged write is lost",
        "everysec": "appendfsync everysec: a crash may take back the last two seconds",
    }
    said = costs.get(appendfsync, f"appendfsync {appendfsync}")
    return fine("persistence", f"append-only file on, {said}")


def _text(settings: Mapping[Any, Any]) -> str | None:
    """The one value of a CONFIG GET, whose names and values come as bytes or as text."""
    for value in settings.values():
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return None
