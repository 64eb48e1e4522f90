"""Connecting to public addresses only, and to the very address that was checked.

A sender of requests could otherwise reach, through the worker or a sender of webhooks, hosts that
only their network can: a cloud's metadata service, a database's status page. Checking a name
and then connecting by name leaves a gap, since the second look-up may answer otherwise (DNS
rebinding); here one look-up is checked and the connection is made to its result.

It needs the extra `[web]`, which the worker and the gateway require.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpcore

from sensestream_common.contract.errors import ErrorCode, RequestError, TransientError

__all__ = ["CheckedBackend", "Refuse", "Resolve", "is_public", "refuse_audio", "resolve"]

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]
Refuse = Callable[[str], Exception]  # what is raised for a host with an address that is not public
SocketOption = (
    tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
)

# IANA's special-purpose registries, written out because `ipaddress` knows more or fewer of them
# from one patch release of Python to the next.
_NOT_PUBLIC = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001:db8::/32",
        "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
_NAT64 = ip_network("64:ff9b::/96")  # RFC 6052: the IPv4 address is in the last 32 bits


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could reach it; an IPv4 inside an IPv6 is looked at too."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = IPv4Address(address.packed[-4:])
        if inner is not None:
            return is_public(inner)
    return address.is_global and not any(address in network for network in _NOT_PUBLIC)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of `host`, as the system's resolver gives them."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        message = f"the host {host!r} could not be resolved ({error.strerror}); check its name"
        raise TransientError(ErrorCode.AUDIO_UNAVAILABLE, message) from error
    except UnicodeError as error:
        raise RequestError(ErrorCode.BAD_REQUEST, f"{host!r} is not a host name") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens httpcore's connections; TLS above them still verifies the name that was asked for."""

    def __init__(
        self, *, allow_private: bool, resolve: Resolve = resolve, refuse: Refuse | None = None
    ) -> None:
        self._allow_private = allow_private
        self._resolve = resolve
        self._refuse = refuse or refuse_audio
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to an address of `host` after it was checked; `refuse`'s error if not public."""
        addresses = await self._resolve(host, port)
        if not self._allow_private:
            self._require_public(host, addresses)
        failure: Exception = httpcore.ConnectError(f"{host!r} has no address")
        for address in addresses:
            try:
                return await self._backend.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ARG002 - the base class's signature
        socket_options: Iterable[SocketOption] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: only TCP is spoken."""
        raise httpcore.UnsupportedProtocol(f"{path!r}: only TCP is spoken")

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""
        await self._backend.sleep(seconds)

    def _require_public(self, host: str, addresses: list[str]) -> None:
        # One private address among public ones is enough to refuse: which is used is up to chance.
        if not all(is_public(ip_address(address)) for address in addresses):
            raise self._refuse(host)


def refuse_audio(host: str) -> RequestError:
    """What the sender of a request is told whose audio is on such a host."""
    message = (
        f"the host {host!r} is, or resolves to, an address that is not public; upload the audio "
        "(`sensestream submit FILE`), or set SENSESTREAM_ALLOW_PRIVATE_HOSTS=1 on the worker"
    )
    return RequestError(ErrorCode.AUDIO_FORBIDDEN, message)
