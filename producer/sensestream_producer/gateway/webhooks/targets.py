"""Checks a callback URL when its request is submitted; each delivery checks the address again."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

from sensestream_common.addresses import is_public
from sensestream_common.redaction import redacted

from sensestream_producer.gateway.errors import ApiError
from sensestream_producer.gateway.settings import GatewaySettings

__all__ = ["require_callback"]

_RESOLVE_TIMEOUT = 5.0  # seconds for a look-up; a host that takes longer is let through
_PORTS = {"http": 80, "https": 443}


async def require_callback(url: str, settings: GatewaySettings) -> None:
    """Raise `ApiError` (400) for a URL that webhooks of this gateway may not go to."""
    if not settings.webhook_secret:
        raise _refused(
            "this gateway sends no webhooks: leave callback_url out, or have "
            "SENSESTREAM_WEBHOOK_SECRET set"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    except (KeyError, ValueError):
        host, port = "", 0
    if not host:
        raise _refused(f"callback_url={redacted(url)!r:.200} is not an http:// or https:// URL")
    if not settings.webhook_allow_private and not await _leads_to_public(host, port):
        raise _refused(
            f"callback_url leads to {host!r:.200}, which is, or resolves to, an address that is "
            "not public: name a host that the internet reaches, or have "
            "SENSESTREAM_WEBHOOK_ALLOW_PRIVATE=1 set"
        )


async def _leads_to_public(host: str, port: int) -> bool:
    """Whether all addresses of a host are public; `ApiError` for a host that does not exist."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_RESOLVE_TIMEOUT):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (TimeoutError, UnicodeError):
        found = []
    except socket.gaierror as error:
        if error.errno != socket.EAI_AGAIN:  # the resolver is away, and may know the host later
            raise _refused(f"callback_url names an unknown host: {host!r:.200}") from None
        found = []
    return all(is_public(ip_address(str(entry[4][0]).partition("%")[0])) for entry in found)


def _refused(message: str) -> ApiError:
    return ApiError(400, "callback_refused", message, param="callback_url")
