"""Checks at the start of a worker: of Redis, and of the host.

They are those of `sensestream doctor`, and log what is not as it should be. A start is refused only
where a worker would be of no use; a Redis that is full, for one, needs workers most.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, AuthorizationError
from sensestream_common.connections.connection import redacted_url
from sensestream_common.connections.redis_checks import read_facts, redis_findings
from sensestream_common.contract.errors import PipelineError
from sensestream_common.findings import Finding, Level

from sensestream_consumer.broker.autopipeline import retry_until_available
from sensestream_consumer.settings import WorkerSettings
from sensestream_consumer.startup.host_checks import host_findings

__all__ = ["check_host", "check_redis", "wait_for_redis"]

log = structlog.get_logger(__name__)

_REFUSED = "redis_version"  # a replica may become the master, and memory may be freed


async def wait_for_redis(redis: Redis, url: str) -> None:
    """Wait until Redis answers, and check it.

    Raises `PipelineError` for a refused password, which no wait will cure.
    """

    async def ping() -> None:
        try:
            await redis.ping()
        except (AuthenticationError, AuthorizationError) as error:
            raise PipelineError(
                f"Redis at {redacted_url(url)} refuses this user and password: "
                f"{error} (setting SENSESTREAM_REDIS_URL)"
            ) from error

    await retry_until_available(ping, "connect")
    await retry_until_available(lambda: check_redis(redis), "check Redis")


async def check_redis(redis: Redis) -> None:
    """Log what this Redis may lose; `PipelineError` for one that no worker can work with."""
    findings = redis_findings(await read_facts(redis, config=False))
    _warn(findings)
    for finding in findings:
        if finding.level is Level.FAULT and finding.check == _REFUSED:
            raise PipelineError(f"{finding.observed}. {finding.fix}")


def check_host(settings: WorkerSettings) -> None:
    """Log what is wrong with the runtimes installed and the folders that may be read."""
    _warn(host_findings(settings))


def _warn(findings: Iterable[Finding]) -> None:
    for finding in findings:
        if finding.level is not Level.OK:
            write = log.error if finding.level is Level.FAULT else log.warning
            write(
                "preflight_warning", check=finding.check, observed=finding.observed, fix=finding.fix
            )
