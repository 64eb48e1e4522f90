"""Spans of a worker's work on a request, in the trace that the request belongs to.

Through OpenTelemetry's API alone, and only where that is installed (the extra `[otel]`) and a
provider is set up when the worker starts. They are made when the request is answered, from its
timings, and not while it is worked on: a request that goes back to the stream leaves no span.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sensestream_common.contract.keys import REQUESTS_GROUP, Keys, Lane
from sensestream_common.contract.outcome import Outcome

from sensestream_consumer.telemetry.stages import StageTiming, now

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

__all__ = ["Tracing"]


class Tracing:
    """The tracer of one worker; does nothing where no provider is set up."""

    def __init__(self, keys: Keys, consumer: str) -> None:
        self._keys = keys
        self._consumer = consumer
        self._tracer = _tracer()

    def record(
        self, lane: Lane, outcome: Outcome, picked_up_at: int, timings: Sequence[StageTiming]
    ) -> None:
        """Make a CONSUMER span below the sender's, with a span for each stage in it.

        `picked_up_at` and the timings are in nanoseconds of `stages.now`.

        The sender's span is its parent. OpenTelemetry prefers links for batch consumers; a worker
        processes one message per span, so a parent is right.
        """
        if self._tracer is None:
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        wall = time.time_ns() - now()
        destination = self._keys.lane(lane)
        span = self._tracer.start_span(
            f"process {destination}",
            TraceContextTextMapPropagator().extract({"traceparent": outcome.traceparent}),
            SpanKind.CONSUMER,
            self._attributes(destination, outcome),
            start_time=wall + picked_up_at,
        )
        if span.is_recording():
            inside = set_span_in_context(span)
            for timing in timings:
                stage = self._tracer.start_span(
                    timing.stage.value, inside, start_time=wall + timing.began
                )
                stage.end(wall + timing.ended)
            if not outcome.completed:
                span.set_status(Status(StatusCode.ERROR, outcome.message))
        span.end(wall + now())

    def _attributes(self, destination: str, outcome: Outcome) -> dict[str, Any]:
        """OpenTelemetry's conventions for messaging, then this pipeline's own attributes."""
        attributes: dict[str, Any] = {
            "messaging.system": "redis",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": destination,
            "messaging.consumer.group.name": REQUESTS_GROUP,
            "messaging.client.id": self._consumer,
            "messaging.message.id": outcome.entry,
            "error.type": outcome.error and outcome.error.value,
            "sensestream.request.id": outcome.id,
            "sensestream.status": outcome.status.value,
            "sensestream.audio": outcome.audio[:300],
            "sensestream.cache": outcome.cache and outcome.cache.value,
            "sensestream.duration": outcome.duration,
            "sensestream.attempt": outcome.attempt,
        }
        return {name: value for name, value in attributes.items() if value is not None}


def _tracer() -> Tracer | None:
    try:
        from opentelemetry import trace
    except ModuleNotFoundError:
        return None
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None  # none is set up, and a span that goes nowhere costs 40 µs
    return trace.get_tracer("sensestream")
