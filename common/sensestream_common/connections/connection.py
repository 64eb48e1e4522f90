"""Connections to the pipeline's Redis, with the time-outs and retries that each role needs.

redis-py's defaults (a socket time-out of 5 s, ten retries of any command, RESP3) are wrong here:
a blocking read outlasts the time-out, and an XADD that is retried after its reply was lost
stands in the stream twice. So nothing is retried below the code that knows whether it may be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.asyncio import BlockingConnectionPool, Redis, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ConnectionError as RedisConnectionError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError as RedisTimeoutError,
    TryAgainError,
)

from sensestream_common.contract.errors import SettingsError

__all__ = [
    "BLOCK_SECONDS",
    "OUTAGE_ERRORS",
    "connect",
    "connect_blocking",
    "is_out_of_memory",
    "is_outage",
    "redacted_url",
    "sentinel_address",
]

BLOCK_SECONDS = 2.0  # of a blocking read; bounds how long a reader takes to notice anything
_SOCKET_TIMEOUT = 10.0  # above BLOCK_SECONDS, and above a script on a busy Redis
_CONNECT_TIMEOUT = 5.0
_SENTINEL_CONNECTIONS = 256
_POOL_WAIT = 20.0  # how long a command waits for a free connection of the pool

_PASSING = re.compile(r"\b(BUSY|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|READONLY|TRYAGAIN)\b")

# What passes when Redis is back: to be met with a wait and another try, never with an exit.
OUTAGE_ERRORS: tuple[type[Exception], ...] = (
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    MasterDownError,
    ClusterDownError,
    TryAgainError,
    OSError,
)


def connect(url: str, *, name: str, connections: int = 16) -> Redis:
    """An asyncio client that answers bytes and retries nothing by itself.

    `name` is shown by CLIENT LIST. At most `connections` are open; further commands wait for one.
    Raises `SettingsError` for a URL that is none; does not touch the network yet.
    """
    options = {**_options(url, name, _SOCKET_TIMEOUT), "retry": Retry(NoBackoff(), 0)}
    try:
        if url.startswith("redis+sentinel://"):
            return _through_sentinel(url, options, connections)
        pool = BlockingConnectionPool.from_url(
            url, max_connections=connections, timeout=_POOL_WAIT, **options
        )
    except ValueError as error:
        raise SettingsError(f"SENSESTREAM_REDIS_URL={redacted_url(url)!r}: {error}") from None
    return Redis.from_pool(pool)


def connect_blocking(url: str, *, name: str, timeout: float) -> redis.Redis:
    """A blocking client with one connection, for a thread of its own; it retries nothing.

    `timeout` bounds every command, in seconds. Replies are bytes.
    """
    options = {
        **_options(url, name, timeout),
        "retry": redis.retry.Retry(NoBackoff(), 0),
        "socket_connect_timeout": timeout,
    }
    if url.startswith("redis+sentinel://"):
        address = sentinel_address(url)
        sentinel = redis.Sentinel(  # type: ignore[no-untyped-call]
            list(address.sentinels),
            sentinel_kwargs=_sentinel_options(address),
            **_master_options(address),
            **options,
        )
        master: redis.Redis = sentinel.master_for(address.master)  # type: ignore[no-untyped-call]
        return master
    client: redis.Redis = redis.Redis.from_url(url, max_connections=1, **options)
    return client


def _options(url: str, name: str, timeout: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "client_name": name,
        # CLIENT SETINFO is new in Redis 7.2: older ones refuse it, or cannot grant it to a user.
        "driver_info": None,
        "decode_responses": False,  # one field that is not UTF-8 would raise for a whole batch
        "health_check_interval": 0,
        "protocol": 2,
        "socket_connect_timeout": _CONNECT_TIMEOUT,
        "socket_timeout": timeout,
    }
    if not url.startswith("unix://"):
        options["socket_keepalive"] = True
    return options


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """redis+sentinel://[user:password@]host:port[,host:port…]/master[/db][?sentinel_password=…]"""

    sentinels: tuple[tuple[str, int], ...]
    master: str
    db: int
    username: str | None
    password: str | None
    sentinel_password: str | None


def sentinel_address(url: str) -> SentinelAddress:
    """Read a redis+sentinel URL; `SettingsError` for one that names no master."""
    parts = urlsplit(url)
    userinfo, _, hosts = parts.netloc.rpartition("@")
    username, _, password = userinfo.partition(":")
    master, _, db = parts.path.strip("/").partition("/")
    if not master or not hosts:
        raise SettingsError(
            f"SENSESTREAM_REDIS_URL={redacted_url(url)!r}: name sentinels and master, "
            "such as redis+sentinel://10.0.0.1:26379,10.0.0.2:26379/mymaster/0"
        )
    sentinels = []
    for host in hosts.split(","):
        address, _, port = host.rpartition(":") if ":" in host else (host, "", "26379")
        sentinels.append((address, int(port)))
    return SentinelAddress(
        sentinels=tuple(sentinels),
        master=master,
        db=int(db or 0),
        username=unquote(username) or None,
        password=unquote(password) or None,
        sentinel_password=dict(parse_qsl(parts.query)).get("sentinel_password"),
    )


def _through_sentinel(url: str, options: dict[str, Any], connections: int) -> Redis:
    address = sentinel_address(url)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        list(address.sentinels),
        sentinel_kwargs=_sentinel_options(address),
        # This pool raises where the other waits: let it never be the one that is full.
        max_connections=max(connections, _SENTINEL_CONNECTIONS),
        **_master_options(address),
        **options,
    )
    client: Redis = sentinel.master_for(address.master, redis_class=_ThroughSentinel)
    return client


class _ThroughSentinel(Redis):
    """Closes the connections to the sentinels as well, which redis-py leaves open."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool  # a SentinelConnectionPool, which its type does not say
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def _sentinel_options(address: SentinelAddress) -> dict[str, Any]:
    return {
        "password": address.sentinel_password,
        "socket_timeout": _CONNECT_TIMEOUT,
        "socket_connect_timeout": _CONNECT_TIMEOUT,
    }


def _master_options(address: SentinelAddress) -> dict[str, Any]:
    return {"db": address.db, "username": address.username, "password": address.password}


def is_out_of_memory(error: Exception) -> bool:
    """Whether Redis refused a write because `maxmemory` is reached."""
    # redis-py takes the code off a plain error; 6.2 quotes it late in a script's.
    return isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error)


def is_outage(error: Exception) -> bool:
    """Whether Redis cannot do it now and will be able to later: wait, and try again."""
    if isinstance(error, OUTAGE_ERRORS):
        return True
    # A 6.2 server wraps the code into a script's error, and redis-py knows no class for the rest.
    return isinstance(error, ResponseError) and bool(_PASSING.search(str(error)))


def redacted_url(url: str) -> str:
    """The URL without its password and query, for logs and messages."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "…"
    rest = rest.partition("?")[0]
    userinfo, at, host = rest.rpartition("@")
    return f"{scheme}://{'…@' if at and userinfo else ''}{host}"
