"""Fixtures for all tests: a real redis-server for each test that asks for one.

Asynchronous tests run under anyio's plugin: a module of them says `pytestmark =
pytest.mark.anyio`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from sensestream_producer.local.redis_server import (
    EmbeddedRedis,
    RedisServerMissing,
    find_redis_server,
)

# A process that a shell starts in the background ignores Ctrl-C, and so would its children whose
# answer to Ctrl-C is tested. A signal with a handler is back at its default in a child.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def redis_executable() -> str:
    """The redis-server of this machine; without one a skip at home and a failure in CI."""
    try:
        return find_redis_server()
    except RedisServerMissing as missing:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def _session_redis(redis_executable: str) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(executable=redis_executable) as server:
        yield server


@pytest.fixture
def redis_server(_session_redis: EmbeddedRedis) -> EmbeddedRedis:
    """The session's server, emptied, its counters too. One that is stopped is `own_redis`."""
    with _session_redis.client() as client:
        client.flushall()
        client.config_resetstat()
    return _session_redis


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    return redis_server.url


@pytest.fixture
def own_redis(redis_executable: str) -> Iterator[Callable[..., EmbeddedRedis]]:
    """A factory of private servers, which end with the test; options as of `EmbeddedRedis`."""
    with ExitStack() as stack:

        def start(**options: Any) -> EmbeddedRedis:
            return stack.enter_context(EmbeddedRedis(executable=redis_executable, **options))

        yield start
