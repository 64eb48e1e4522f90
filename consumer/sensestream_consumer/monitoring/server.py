"""The worker's own HTTP: /metrics, /health and /health/ready, and nothing else.

The event loop that does the work answers, so that /health proves that this loop turns; only the
text of /metrics is built in a thread. h11 reads the protocol. A bounded number of connections is
open, each for one request and a few seconds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import h11
import structlog
from sensestream_common.contract.errors import SettingsError

from sensestream_consumer.monitoring.exposition import render
from sensestream_consumer.monitoring.gauges import Scrape
from sensestream_consumer.monitoring.group_stats import Group
from sensestream_consumer.monitoring.readiness import Readiness

__all__ = ["serve"]

log = structlog.get_logger(__name__)

_CONNECTIONS = 16  # beyond them a caller is turned away at once
_PATIENCE = 5.0  # seconds for one exchange, the slowest reader's included
_REQUEST_BYTES = 16_384
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class _Page:
    status: int
    body: bytes
    content_type: str = _JSON


class _Endpoint:
    """The pages, and one exchange of HTTP for each connection."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._group: Group | None = None
        self._renderer = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._open = 0
        self._pages: Mapping[str, Callable[[str], Awaitable[_Page]]] = {
            "/metrics": self._metrics,
            "/health": self._health,
            "/health/ready": self._ready,
        }

    def close(self) -> None:
        self._renderer.shutdown(wait=False, cancel_futures=True)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= _CONNECTIONS:
                async with asyncio.timeout(_PATIENCE):
                    await self._exchange(reader, writer)
        except (TimeoutError, OSError, h11.RemoteProtocolError) as error:
            log.debug("metrics_request_timeout", error=repr(error))
        finally:
            self._open -= 1
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_REQUEST_BYTES)
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await reader.read(4096))
        if not isinstance(event, h11.Request):
            return  # it connected, and left again
        page = await self._answer(event)
        headers = [
            ("Content-Type", page.content_type),
            ("Content-Length", str(len(page.body))),
            ("Cache-Control", "no-store"),
            ("Connection", "close"),
        ]
        writer.write(connection.send(h11.Response(status_code=page.status, headers=headers)) or b"")
        if event.method != b"HEAD":
            writer.write(connection.send(h11.Data(data=page.body)) or b"")
        await writer.drain()

    async def _answer(self, request: h11.Request) -> _Page:
        if request.method not in (b"GET", b"HEAD"):
            return _page(405, error="only GET and HEAD")
        path = request.target.decode("ascii", "replace").partition("?")[0]
        page = self._pages.get(path)
        if page is None:
            return _page(404, error=f"no such page: there are {', '.join(self._pages)}")
        accept = b", ".join(value for name, value in request.headers if name == b"accept")
        return await page(accept.decode("latin-1"))

    async def _metrics(self, accept: str) -> _Page:
        scrape = await self._scrape()
        loop = asyncio.get_running_loop()
        body, content_type = await loop.run_in_executor(self._renderer, render, scrape, accept)
        return _Page(200, body, content_type)

    async def _scrape(self) -> Scrape | None:
        parts = self._readiness.parts
        if parts is None:
            return None
        if self._group is None:
            self._group = Group(parts.broker)
        await self._group.refresh()
        return Scrape(self._readiness, parts, self._group)

    async def _health(self, _accept: str) -> _Page:
        return _page(200, alive=True)

    async def _ready(self, _accept: str) -> _Page:
        if reason := self._readiness.reason():
            return _page(503, ready=False, reason=reason)
        return _page(200, ready=True)


def _page(code: int, **facts: Any) -> _Page:
    return _Page(code, json.dumps(facts).encode() + b"\n")


@asynccontextmanager
async def serve(host: str, port: int, readiness: Readiness) -> AsyncIterator[None]:
    """Listen while inside. Raises `SettingsError` where that cannot be."""
    endpoint = _Endpoint(readiness)
    try:
        server = await asyncio.start_server(endpoint.handle, host, port)
    except OSError as error:
        raise SettingsError(
            f"SENSESTREAM_METRICS_PORT={port}: cannot listen on {host}: {error.strerror or error} "
            "(each worker of a host needs a port of its own; SENSESTREAM_METRICS_HOST names the "
            "address)"
        ) from error
    log.info("metrics_served", url=f"http://{host}:{port}/metrics")
    async with server:
        try:
            yield
        finally:
            endpoint.close()
