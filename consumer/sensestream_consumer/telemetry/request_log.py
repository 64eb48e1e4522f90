"""The log of each request: its identity, bound once, and one canonical line."""

from __future__ import annotations

import re
from collections.abc import Sequence

import structlog
from sensestream_common.contract.outcome import Outcome
from sensestream_common.contract.request import BadRequest, Request
from structlog.contextvars import bind_contextvars

from sensestream_consumer.telemetry.stages import StageTiming, seconds_by_stage

__all__ = ["bind_request", "log_outcome", "trace_id"]

log = structlog.get_logger(__name__)

# Any version, as W3C asks: later ones may append fields, and begin as version 00 does.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?![0-9a-f])")
_NO_TRACE = "0" * 32


def trace_id(traceparent: str) -> str | None:
    """The trace that a W3C trace context names; `None` where there is none, or no valid one."""
    found = _TRACEPARENT.match(traceparent)
    return found[1] if found and found[1] != _NO_TRACE else None


def bind_request(entry: str, request: Request | BadRequest) -> None:
    """Bind the request to every line that its task logs from here on."""
    bind_contextvars(id=request.id, entry=entry)
    if trace := trace_id(request.traceparent):
        bind_contextvars(trace_id=trace)


def log_outcome(outcome: Outcome, committed: bool, timings: Sequence[StageTiming]) -> None:
    """The one canonical line per request; `waited_ms` is from its submission to its pick-up."""
    trace = trace_id(outcome.traceparent)
    log.info(
        "request_answered" if committed else "request_answered_by_another",
        id=outcome.id,
        entry=outcome.entry,
        **({"trace_id": trace} if trace else {}),
        audio=outcome.audio[:300],
        status=outcome.status.value,
        cache=outcome.cache and outcome.cache.value,
        error=outcome.error and outcome.error.value,
        message=outcome.message or None,
        language=outcome.language or None,
        duration=outcome.duration,
        attempt=outcome.attempt,
        worker=outcome.worker,
        waited_ms=(outcome.started_at or 0) - (outcome.submitted_at or 0),
        took_ms=(outcome.finished_at or 0) - (outcome.started_at or 0),
        **{
            f"{stage}_ms": round(taken * 1e3, 1)
            for stage, taken in seconds_by_stage(timings).items()
        },
    )
