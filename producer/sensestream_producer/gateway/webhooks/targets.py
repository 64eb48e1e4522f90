"""Where webhooks may go: looked at when a request is handed in, and again at each delivery."""

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

_PATIENCE = 5.0  # seconds for one look-up; a resolver that is slow refuses nobody
_PORTS = {"http": 80, "https": 443}


async def require_callback(url: str, settings: GatewaySettings) -> None:
    """`ApiError` for an address that no webhook of this gateway goes to."""
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
    """Whether all of its addresses are public; `ApiError` for a host that there is not."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_PATIENCE):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (TimeoutError, UnicodeError):
        found = []
    except socket.gaierror as error:
        if error.errno != socket.EAI_AGAIN:  # a resolver that is away may know it later
            raise _refused(f"callback_url names a host that there is not: {host!r:.200}") from None
        found = []
    return all(is_public(ip_address(str(entry[4][0]).partition("%")[0])) for entry in found)


def _refused(message: str) -> ApiError:
    return ApiError(400, "callback_refused", message, param="callback_url")
