"""The wire format of server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

__all__ = ["COMMENT", "encode", "position_of", "stream"]

COMMENT = b": still here\n\n"
# Without these, a proxy that caches or buffers responses would hold events back.
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def encode(data: Any, *, event: str = "", id: str = "") -> bytes:  # noqa: A002 - its name in SSE
    """One event, with `data` as JSON on one line."""
    lines = [f"id: {id}"] if id else []
    lines += [f"event: {event}"] if event else []
    lines += [f"data: {json.dumps(data, ensure_ascii=False)}"]
    return ("\n".join(lines) + "\n\n").encode()


def position_of(id: str) -> bytes:  # noqa: A002
    """A sign of life that dispatches no event, and sets the id that the client resumes from."""
    return f"id: {id}\n\n".encode()


def stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    """A response that sends these encoded events as they come."""
    return StreamingResponse(events, media_type="text/event-stream", headers=_HEADERS)
