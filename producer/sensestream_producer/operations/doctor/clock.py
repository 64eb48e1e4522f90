"""Clocks: this host's against Redis's, and Redis's against the last ids of its streams.

Deadlines, ages and retention go by Redis's clock. After the clock is set back, streams go on with
ids of the earlier time, and ages measured by them stand still until the clock has caught up.
"""

from __future__ import annotations

import time

from redis.asyncio import Redis
from sensestream_common.contract.keys import Keys
from sensestream_common.findings import Finding, fault, fine, warning

from sensestream_producer.outcomes.stream_ids import last_id

__all__ = ["clock_findings"]

_SKEW = 2.0  # seconds; a synchronised host is within hundredths
_AHEAD = 2.0  # seconds that an id may be in the future
_LAST_MS = 2**64 - 1  # the highest milliseconds of a stream id


async def clock_findings(redis: Redis, keys: Keys) -> list[Finding]:
    """Findings on the clocks and on stream ids from the future."""
    before = time.time()
    seconds, microseconds = await redis.time()
    after = time.time()
    now = seconds + microseconds / 1e6
    # A difference within the round trip cannot be measured.
    skew = max(0.0, before - now, now - after)
    return [_host(skew, now > after), *await _streams(redis, keys, now)]


def _host(skew: float, redis_ahead: bool) -> Finding:
    if skew <= _SKEW:
        return fine("clock", "this host's clock and Redis's agree")
    ahead, behind = ("Redis's", "this host's") if redis_ahead else ("this host's", "Redis's")
    return warning(
        "clock",
        f"{ahead} clock is {_span(skew)} ahead of {behind}: deadlines that services compute by "
        "their own clocks come too early or too late",
        "Synchronise both hosts (chrony, systemd-timesyncd).",
    )


async def _streams(redis: Redis, keys: Keys, now: float) -> list[Finding]:
    streams = (keys.requests, keys.requests_high, keys.transcripts, keys.dead, keys.webhooks)
    found = []
    for stream in streams:
        last = await last_id(redis, stream)
        if last[0] >= _LAST_MS:
            found.append(_exhausted(stream))
        elif last[0] / 1000 - now > _AHEAD:
            found.append(_from_the_future(stream, last[0] / 1000 - now))
    return found or [fine("stream_ids", "no stream has ids from the future")]


def _exhausted(stream: str) -> Finding:
    return fault(
        "stream_ids",
        f"{stream} has given the highest id there is, and takes no more entries",
        "Answer or save its entries, then DEL it: workers create it again.",
    )


def _from_the_future(stream: str, ahead: float) -> Finding:
    return warning(
        "stream_ids",
        f"the last id of {stream} is {_span(ahead)} in the future (Redis's clock was set back, or "
        "an entry was written by hand): ages and retention are wrong until the clock gets there",
        "Set Redis's clock right; if it is, DEL the stream in an hour in which it is empty.",
    )


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
