"""Open `http://` and `https://`, with limits on everything that the other side decides.

This speaks httpcore, the transport below httpx, and not an httpx client: the client logs whole
URLs, query strings included, keeps cookies across requests, reads proxies and `.netrc` from the
environment and expands compressed answers without a bound.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import ssl
from contextlib import suppress
from functools import cache
from http import HTTPStatus

import certifi
import httpcore
import httpx
from sensestream_common.addresses import CheckedBackend, Resolve, resolve
from sensestream_common.contract.errors import ErrorCode, RequestError, TransientError

from sensestream_consumer.audio.policy import AudioPolicy, too_large
from sensestream_consumer.audio.sources.body import DecompressingWriter
from sensestream_consumer.audio.sources.reference import Reference, parse_reference
from sensestream_consumer.audio.spool import CHUNK, Fetched, Spool

__all__ = ["Web", "trusted"]

# At DEBUG httpcore logs the headers of every answer, and with them a redirect's query string.
logging.getLogger("httpcore").setLevel(logging.INFO)

_CONNECT_TIMEOUT = 10.0  # seconds; a host that does not answer by then is down
_REDIRECTS = {301, 302, 303, 307, 308}
_GONE = {404, 410}
_FORBIDDEN = {401, 403}
_PASSING = {408, 425, 429}
_PARTIAL = 206
_MAX_PORT = 65535
_RANGE = re.compile(r"bytes 0-(\d{1,18})/(\d{1,18})")


class Web:
    """Fetches over HTTP/1.1; one pool of connections, shared by all requests of a worker.

    Args:
        policy: the limits, and whether private hosts may be reached.
        resolve: looks up a host's addresses.
        tls: the certificates that are trusted, by default those of `trusted()`.
    """

    def __init__(
        self,
        policy: AudioPolicy,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or trusted(),
            max_connections=None,  # the worker bounds how many requests it works on
            max_keepalive_connections=8,
            keepalive_expiry=5.0,
            network_backend=CheckedBackend(
                allow_private=policy.allow_private_hosts, resolve=resolve
            ),
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    async def open(self, reference: Reference) -> Fetched:
        """Fetch the body of a successful answer, at most `policy.max_redirects` further on.

        Raises `RequestError`, as `TransientError` where trying again may help.
        """
        limit = self._policy.fetch_timeout
        try:
            async with asyncio.timeout(limit):
                return await self._follow(reference)
        except TimeoutError as error:
            raise _unavailable(f"{reference} took longer than {limit:g} seconds") from error
        except httpcore.TimeoutException as error:
            raise _unavailable(f"{reference} did not answer in time") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise _broken(reference, error) from error

    async def _follow(self, reference: Reference) -> Fetched:
        here, url = reference, _url_of(reference)
        for _ in range(self._policy.max_redirects + 1):
            async with self._pool.stream(
                "GET",
                httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=_headers(url),
                extensions={"timeout": self._timeouts()},
            ) as response:
                if response.status not in _REDIRECTS:
                    _require_success(here, response.status)
                    _require_whole(here, response)
                    return await self._receive(here, response)
                here, url = _next(here, url, response)
        limit = self._policy.max_redirects
        message = f"{reference} redirects more than {limit} times; give its final address"
        raise RequestError(ErrorCode.AUDIO_UNAVAILABLE, message)

    async def _receive(self, reference: Reference, response: httpcore.Response) -> Fetched:
        limit = self._policy.max_bytes
        length = _header(response, b"content-length")
        if length.isdecimal() and (len(length) > 18 or int(length) > limit):
            raise too_large(reference.display, limit)
        with Spool(reference.display, limit) as spool:
            body = DecompressingWriter(reference, spool, _header(response, b"content-encoding"))
            waiting = bytearray()
            async for part in response.aiter_stream():
                waiting += part
                if len(waiting) >= CHUNK:
                    await asyncio.to_thread(body.feed, bytes(waiting))
                    waiting.clear()
            await asyncio.to_thread(body.feed, bytes(waiting))
            body.finish()
            media_type = _header(response, b"content-type").partition(";")[0].strip().lower()
            return spool.finish(media_type[:100])

    def _timeouts(self) -> dict[str, float]:
        whole = self._policy.fetch_timeout
        connect = min(_CONNECT_TIMEOUT, whole / 2)
        return {"connect": connect, "read": whole, "write": whole, "pool": whole}


@cache
def trusted() -> ssl.SSLContext:
    """Return a context of the public authorities and the system's own, a company's among them.

    Read once, since it takes 70 ms; `SSL_CERT_FILE` and `SSL_CERT_DIR` are heeded.
    """
    context = ssl.create_default_context(cafile=certifi.where())
    context.load_default_certs()
    return context


def _url_of(reference: Reference) -> httpx.URL:
    try:
        url = httpx.URL(reference.uri)
        host, port = url.host, url.port  # an internationalised name is decoded only when asked for
    except (httpx.InvalidURL, ValueError) as error:
        message = f"{reference} is not a valid URL; check its host, its port and its escapes"
        raise RequestError(ErrorCode.BAD_REQUEST, message) from error
    if not host:
        raise RequestError(ErrorCode.BAD_REQUEST, f"{reference} names no host")
    if port is not None and not 0 < port <= _MAX_PORT:
        message = f"{reference} names the port {port}; ports go from 1 to {_MAX_PORT}"
        raise RequestError(ErrorCode.BAD_REQUEST, message)
    return url


def _headers(url: httpx.URL) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"Host", url.netloc),
        (b"User-Agent", b"sensestream-worker"),
        (b"Accept", b"*/*"),
        (b"Accept-Encoding", b"identity"),
    ]
    if url.userinfo:
        pair = f"{url.username}:{url.password}".encode()
        headers.append((b"Authorization", b"Basic " + base64.b64encode(pair)))
    return headers


def _next(
    here: Reference, url: httpx.URL, response: httpcore.Response
) -> tuple[Reference, httpx.URL]:
    """Where a redirect leads; its address is checked like any other when it is connected to."""
    location = _location(response)
    target = None
    with suppress(httpx.InvalidURL, ValueError):
        target = url.join(location) if location else None
    if target is None:
        message = f"{here} answered {response.status} without saying where to; ask its operator"
        raise RequestError(ErrorCode.AUDIO_UNAVAILABLE, message)
    if target.scheme not in {"http", "https"} or (url.scheme, target.scheme) == ("https", "http"):
        message = (
            f"{here} redirects from {url.scheme} to {target.scheme!r}, which is not followed; "
            "give the final address"
        )
        raise RequestError(ErrorCode.AUDIO_FORBIDDEN, message)
    _url_of(parse_reference(str(target)))
    same_origin = (url.scheme, url.netloc) == (target.scheme, target.netloc)
    if same_origin and not target.userinfo:
        target = target.copy_with(userinfo=url.userinfo)
    onward = parse_reference(str(target))
    return onward, _url_of(onward)


def _header(response: httpcore.Response, name: bytes) -> str:
    found = (value for key, value in response.headers if key.lower() == name)
    return next(found, b"").decode("latin-1").strip()


def _location(response: httpcore.Response) -> str:
    """Return where a redirect leads; sites write it in UTF-8 although the header is Latin-1."""
    raw = _header(response, b"location").encode("latin-1")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _require_whole(reference: Reference, response: httpcore.Response) -> None:
    """Refuse a part of a file, which was not asked for; a part that is all of it will do."""
    if response.status != _PARTIAL:
        return
    told = _header(response, b"content-range")
    match = _RANGE.fullmatch(told.lower())
    if match is None or int(match[1]) + 1 != int(match[2]):
        message = (
            f"{reference} answered 206 with a part of the file ({told[:60] or 'no range'}) though "
            "all of it was asked for; have it serve the whole file"
        )
        raise RequestError(ErrorCode.AUDIO_UNAVAILABLE, message)


def _require_success(reference: Reference, status: int) -> None:
    if 200 <= status < 300:
        return
    reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "unknown"
    answer = f"{reference} answered {status} ({reason})"
    if status in _PASSING or status >= 500:
        raise _unavailable(answer)
    if status in _GONE:
        raise RequestError(ErrorCode.AUDIO_NOT_FOUND, f"{answer}; check the address")
    if status in _FORBIDDEN:
        message = f"{answer}; give an address that the worker may read, such as a signed one"
        raise RequestError(ErrorCode.AUDIO_FORBIDDEN, message)
    raise RequestError(ErrorCode.AUDIO_UNAVAILABLE, f"{answer}; give the audio's own address")


def _broken(reference: Reference, error: Exception) -> RequestError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            message = f"{reference}: the certificate is not trusted ({cause.verify_message})"
            return RequestError(ErrorCode.AUDIO_UNAVAILABLE, message)
        cause = cause.__cause__ or cause.__context__
    return _unavailable(f"{reference}: the connection failed ({type(error).__name__})")


def _unavailable(message: str) -> TransientError:
    return TransientError(ErrorCode.AUDIO_UNAVAILABLE, message)
