"""The checks of `sensestream doctor`: Redis, the queue, the clocks, and this machine's worker.

They write nothing and claim nothing, so they may run beside a busy pipeline at any time.
"""

from __future__ import annotations

import asyncio

from redis.exceptions import RedisError
from sensestream_common.connections.connection import connect
from sensestream_common.connections.redis_checks import examine_redis
from sensestream_common.findings import Finding, Level, warning

from sensestream_producer.operations.doctor.clock import clock_findings
from sensestream_producer.operations.doctor.queue import queue_findings
from sensestream_producer.operations.doctor.worker import worker_findings
from sensestream_producer.settings import ProducerSettings

__all__ = ["examine"]


async def examine(settings: ProducerSettings, *, worker: bool = True) -> list[Finding]:
    """Run all checks; `worker` includes `sensestream-worker --check`, where it is installed."""
    host = asyncio.create_task(worker_findings(settings), name="worker-check") if worker else None
    try:
        found = await _pipeline(settings)
        theirs = await host if host else []
    finally:
        if host:
            host.cancel()
    known = {finding.check for finding in found}
    # The worker checks the same Redis: leave out its findings on what is reported already.
    return found + [finding for finding in theirs if finding.check not in known]


async def _pipeline(settings: ProducerSettings) -> list[Finding]:
    redis = connect(settings.redis_url, name="sensestream-doctor")
    try:
        found = await examine_redis(redis, settings.redis_url)
        if found[0].level is Level.FAULT:
            return found
        keys = settings.keys
        try:
            found += await queue_findings(redis, keys, max_backlog=settings.max_backlog)
            found += await clock_findings(redis, keys)
        except (RedisError, OSError) as error:
            found.append(
                warning(
                    "queue",
                    f"the queue could not be read to its end: {error}",
                    "Let this user read below the pipeline's prefix (ACL), and run doctor again.",
                )
            )
    finally:
        await redis.aclose()
    return found
