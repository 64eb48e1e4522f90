"""A service that is traced, and submits: `python traced_service.py REDIS_URL`.

A program, because a process has one provider of tracers, and the tests' own shall have none. Prints
the spans it made and the trace contexts it got back, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sensestream_common.contract.errors import RequestError
from sensestream_producer import Client, blocking
from sensestream_producer.testing import ScriptedPipeline

OWN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def submit(client: Client, audio: str) -> dict[str, str]:
    back = {"asyncio": (await client.transcribe(audio, id="asyncio")).traceparent}
    back["own"] = (await client.transcribe(audio, id="own", traceparent=OWN)).traceparent
    try:
        await client.submit("no scheme", id="refused")
    except RequestError:
        back["refused"] = ""
    return back


def main(url: str, audio: str) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    with trace.get_tracer("service").start_as_current_span("GET /calls"):
        with blocking.Client(url) as client:
            back = {"blocking": client.transcribe(audio, id="blocking").traceparent}
        with ScriptedPipeline("hello").blocking_client() as double:
            back["double"] = double.transcribe(audio, id="double").traceparent

        async def rest() -> dict[str, str]:
            async with Client(url) as client:
                return await submit(client, audio)

        back |= asyncio.run(rest())
    json.dump({"spans": [shown(span) for span in exporter.get_finished_spans()], "back": back},
              sys.stdout)  # fmt: skip


def shown(span: ReadableSpan) -> dict[str, Any]:
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace": format(span.context.trace_id, "032x") if span.context else "",
        "span": format(span.context.span_id, "016x") if span.context else "",
        "parent": format(span.parent.span_id, "016x") if span.parent else "",
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes or {}),
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
