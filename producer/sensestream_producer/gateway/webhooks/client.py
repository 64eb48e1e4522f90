"""The HTTP client of webhooks: a POST that connects only to addresses it has checked."""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

import httpcore
from sensestream_common import __version__
from sensestream_common.addresses import CheckedBackend

__all__ = ["Attempt", "WebhookClient"]

# At DEBUG httpcore logs the headers of every answer.
logging.getLogger("httpcore").setLevel(logging.INFO)

_CONNECTIONS = 64
_URL_CHARACTERS = "%/?:@!$&'()*+,;=~-._[]|"


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of one try to deliver; `permanent` when a further try would fail as well."""

    delivered: bool
    reason: str = ""
    permanent: bool = False


class _NotPublic(Exception):
    """The host's address is one that webhooks may not go to."""


class WebhookClient:
    """Posts over HTTP/1.1, to public addresses only unless `allow_private`.

    `timeout`, in seconds, covers a whole call. The client follows no redirects, and uses no proxy,
    cookie or credential of the environment.
    """

    def __init__(self, *, timeout: float, allow_private: bool) -> None:
        self._timeout = timeout
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(),
            max_connections=_CONNECTIONS,
            max_keepalive_connections=8,
            keepalive_expiry=5.0,
            network_backend=CheckedBackend(
                allow_private=allow_private, refuse=lambda host: _NotPublic(host)
            ),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> Attempt:
        """Try once to deliver `body`. An error is in the result; none is raised."""
        try:
            target, credentials = _target(url)
        except (ValueError, UnicodeError):
            return Attempt(False, "the address is no URL", permanent=True)
        headers = headers | credentials
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(target, headers, body)
        except _NotPublic as host:
            return Attempt(False, f"{str(host)!r:.100} is not a public address")
        except TimeoutError:
            return Attempt(False, f"no answer within {self._timeout:g} s")
        except Exception as error:
            return Attempt(False, f"the connection failed ({type(error).__name__})")

    async def _post(self, target: httpcore.URL, headers: dict[str, str], body: bytes) -> Attempt:
        sent = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "User-Agent": f"sensestream/{__version__}",
            **headers,
        }
        request_headers = [(b"Host", _host(target))]
        request_headers += [(name.encode(), value.encode()) for name, value in sent.items()]
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)
        async with self._pool.stream(
            "POST", target, headers=request_headers, content=body, extensions={"timeout": timeouts}
        ) as response:
            # The body may have no end: it is not read, and the connection is closed instead.
            status = response.status
        if 200 <= status < 300:
            return Attempt(True)
        return Attempt(False, f"it answered {status}", permanent=status == 410)


def _target(url: str) -> tuple[httpcore.URL, dict[str, str]]:
    """The target of a URL, and the header for its user, if it names one.

    Raises `ValueError` for anything that is not an http or https URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(url)
    host = parts.hostname
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    target = httpcore.URL(
        scheme=parts.scheme.encode(),
        host=host.encode() if host.isascii() else host.encode("idna"),
        port=parts.port,
        target=quote(path, safe=_URL_CHARACTERS).encode(),
    )
    if parts.username is None:
        return target, {}
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return target, {"Authorization": f"Basic {base64.b64encode(user).decode()}"}


def _host(target: httpcore.URL) -> bytes:
    host = b"[" + target.host + b"]" if b":" in target.host else target.host
    return host if target.port is None else host + b":%d" % target.port
