"""A span for each submit, and its context in the request, where a service is traced.

Through OpenTelemetry's API alone, and only where that is installed (the extra `[otel]`) and the
service has set up a provider: it brings the SDK, and says where spans go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cache
from typing import Any

from sensestream_common.contract.keys import Keys

from sensestream_producer.submit.submission import Receipt, Submission

__all__ = ["traced"]

Send = Callable[[Submission], Awaitable[Receipt]]


async def traced(send: Send, submission: Submission, keys: Keys) -> Receipt:
    """`send` in a PRODUCER span, whose context the request carries to the worker.

    A `traceparent` that the caller gave is carried as it is, and no span is begun.
    """
    if submission.traceparent or not _is_traced():
        return await send(submission)
    return await _in_span(send, submission, keys)


async def _in_span(send: Send, submission: Submission, keys: Keys) -> Receipt:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    destination = keys.lane(submission.lane)
    attributes = {  # OpenTelemetry's conventions for messaging
        "messaging.system": "redis",
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
        "messaging.destination.name": destination,
        "sensestream.request.id": submission.id,
    }
    with trace.get_tracer("sensestream").start_as_current_span(
        f"submit {destination}", kind=trace.SpanKind.PRODUCER, attributes=attributes
    ) as span:
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        receipt = await send(replace(submission, traceparent=carrier.get("traceparent", "")))
        span.set_attribute("messaging.message.id", receipt.entry)
        span.set_attribute("sensestream.duplicate", receipt.duplicate)
        return receipt


def _is_traced() -> bool:
    api = _api()
    return api is not None and not isinstance(api.get_tracer_provider(), api.ProxyTracerProvider)


@cache
def _api() -> Any:
    """Loaded with the first submit, so that importing the client loads nothing of it."""
    try:
        from opentelemetry import trace
    except ModuleNotFoundError:
        return None
    return trace
