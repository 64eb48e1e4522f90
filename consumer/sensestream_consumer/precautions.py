"""What an operator should know about the Redis a worker has been given, before it matters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError
from sensestream_common.errors import PipelineError

__all__ = ["look_at_redis", "warnings_about"]

log = structlog.get_logger(__name__)

_OLDEST = (6, 2)  # XAUTOCLAIM, XPENDING IDLE, XTRIM MINID, and exclusive ranges


async def look_at_redis(redis: Redis) -> None:
    """Log what this Redis may lose; `PipelineError` for one that lacks the commands needed."""
    try:
        info: dict[str, Any] = {}
        for section in ("server", "memory", "persistence"):
            info |= await redis.info(section)
    except NoPermissionError:
        return  # its operator has narrowed our rights, and knows what it runs
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        raise PipelineError(f"this Redis is {version}: Sensestream needs 6.2 or newer")
    for event, facts in warnings_about(info):
        log.warning(event, **facts)


def warnings_about(info: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """The event and its facts for each risk that INFO shows."""
    found = []
    policy = str(info.get("maxmemory_policy", ""))
    if policy.startswith("allkeys"):
        found.append(
            (
                "redis_may_evict_the_queue",
                {
                    "maxmemory_policy": policy,
                    "risk": "when memory is full it evicts the request streams with their group",
                    "mend": "CONFIG SET maxmemory-policy volatile-lfu",
                },
            )
        )
    if not int(info.get("aof_enabled", 0)):
        found.append(
            (
                "redis_keeps_no_log",
                {
                    "risk": "a restart of Redis loses what was queued since its last snapshot",
                    "mend": "CONFIG SET appendonly yes",
                },
            )
        )
    return found
