"""Server-sent events on the wire."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

__all__ = ["COMMENT", "HEADERS", "encode", "position_of", "stream"]

COMMENT = b": still here\n\n"
# A proxy that gathers an answer before it hands it on would hold events back.
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def encode(data: Any, *, event: str = "", id: str = "") -> bytes:  # noqa: A002 - its name in SSE
    """One event; `data` is written as JSON, which has no line breaks."""
    lines = [f"id: {id}"] if id else []
    lines += [f"event: {event}"] if event else []
    lines += [f"data: {json.dumps(data, ensure_ascii=False)}"]
    return ("\n".join(lines) + "\n\n").encode()


def position_of(id: str) -> bytes:  # noqa: A002
    """A sign of life that dispatches no event, and tells a client from where to go on."""
    return f"id: {id}\n\n".encode()


def stream(events: AsyncIterator[bytes] | AsyncGenerator[bytes]) -> StreamingResponse:
    return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)
