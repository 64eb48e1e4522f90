"""ASGI middleware around all routes: hosts, origins, body sizes, response headers, request log."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sensestream_producer.gateway.errors import ApiError, error_response
from sensestream_producer.gateway.settings import GatewaySettings

__all__ = ["FORM_SLACK", "Guard"]

log = structlog.get_logger("sensestream.gateway")

FORM_SLACK = 1 << 20  # bytes of a form beside its files
# Most clients read a response only once they have sent the body, so the rest of a rejected one is
# still received, up to these bytes and seconds.
_MAX_DRAINED = 16 << 20
_DRAIN_SECONDS = 5.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"\[([^\]]*)\](?::\d*)?|([^:]*)(?::\d*)?")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Wraps the whole application, its handler of unexpected errors included."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        self._app = app
        self._hosts = settings.allowed_hosts
        self._anonymous = not settings.api_keys
        if self._anonymous and not self._hosts and not settings.allow_anonymous:
            # DNS rebinding: without keys, a page of any site could reach the gateway through its
            # reader's browser, under a host name of its own that resolves to loopback.
            self._hosts = (*_LOOPBACK, settings.http_host)
        self._origins = settings.cors_origins
        self._body_limit = settings.max_body_bytes
        self._form_limit = settings.max_upload_bytes + FORM_SLACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send)
        try:
            self._check(exchange)
            await self._app(scope, exchange.receive, exchange.send)
        except ApiError as error:
            if not exchange.started:
                await error_response(scope["path"], error)(scope, exchange.receive, exchange.send)
        except Exception:
            # The application's handler has logged and answered it; uvicorn would log it again.
            log.debug("request_failed", exc_info=True)
        finally:
            exchange.log_request()

    def _check(self, exchange: _Exchange) -> None:
        """Raise `ApiError` for a host, an origin or a declared length that is not allowed."""
        headers = exchange.headers
        host = headers.get("host", "")
        if self._hosts and _name(host) not in self._hosts:
            raise ApiError(
                421,
                "host_not_allowed",
                f"this gateway does not answer to the host name {_name(host)!r:.80}: use another "
                "name, or have this one added to SENSESTREAM_ALLOWED_HOSTS",
            )
        origin = headers.get("origin", "")
        same = origin.partition("://")[2] == host
        if self._anonymous and origin and not same and origin not in self._origins:
            raise ApiError(
                403,
                "origin_not_allowed",
                f"pages of {origin!r:.80} may not call this gateway: have the origin added to "
                "SENSESTREAM_CORS_ORIGINS",
            )
        form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        exchange.limit = self._form_limit if form else self._body_limit
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > exchange.limit:
            raise exchange.too_large()


class _Exchange:
    """One call: limits and counts the body, and adds headers to the response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = Headers(scope=scope)
        self.started = False
        self.limit = 0
        self._scope = scope
        self._receive = receive
        self._send = send
        self._received = 0
        self._complete = False
        self._status = 0
        self._began = time.monotonic()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._received > self.limit:
                raise self.too_large()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._status = message["status"]
            _add_headers(message)
            await self._drain()
        await self._send(message)

    def too_large(self) -> ApiError:
        return ApiError(
            413,
            "too_large",
            f"the body has more than {self.limit} bytes: send a shorter or a compressed recording, "
            "or a reference to it",
        )

    def log_request(self) -> None:
        """Log one line for each call; health checks are left out."""
        if self._scope["path"].startswith("/health"):
            return
        log.info(
            "request",
            method=self._scope["method"],
            path=self._scope["path"][:200],
            status=self._status,
            ms=round((time.monotonic() - self._began) * 1000, 1),
        )

    async def _drain(self) -> None:
        """Receive the rest of a rejected body, within bounds."""
        # A client that sent `Expect: 100-continue` sends no body before it is asked for it.
        unasked = "expect" in self.headers and not self._received
        if self._complete or unasked or self._status < 400 or self._status == 408:
            return
        drained = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while drained < _MAX_DRAINED:
                    message = await self._receive()
                    drained += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return


def _add_headers(message: MutableMapping[str, Any]) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    match = _HOST.fullmatch(host)
    return (match[1] or match[2] or "").lower() if match else ""
