"""A pipeline that is empty, a client of it, and a connection to look behind the scenes with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from sensestream_common.connections.connection import connect
from sensestream_common.contract.keys import Keys
from sensestream_producer import Client


@pytest.fixture
def keys() -> Keys:
    return Keys("sensestream")


@pytest.fixture
async def redis(redis_url: str, anyio_backend: str) -> AsyncIterator[Redis]:
    connection = connect(redis_url, name="test")
    yield connection
    await connection.aclose()


@pytest.fixture
async def client(redis_url: str, anyio_backend: str) -> AsyncIterator[Client]:
    async with Client(redis_url) as client:
        yield client
