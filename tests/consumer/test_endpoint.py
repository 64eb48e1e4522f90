"""The endpoint of a worker by itself: what it serves, to whom, and for how long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from sensestream_common.contract.errors import SettingsError
from sensestream_consumer.monitoring import server as endpoint
from sensestream_consumer.monitoring.readiness import Readiness

from tests.support.ports import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Of an endpoint whose worker has just been started."""
    number = free_port()
    async with endpoint.serve("127.0.0.1", number, Readiness()):
        yield number


async def exchange(port: int, request: bytes) -> bytes:
    """All that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()


async def get(port: int, path: str, *, method: str = "GET", accept: str = "*/*") -> tuple[int, str]:
    request = f"{method} {path} HTTP/1.1\r\nHost: worker\r\nAccept: {accept}\r\n\r\n"
    head, _, body = (await exchange(port, request.encode())).decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


async def test_a_worker_that_loads_its_model_is_alive_and_says_why_it_is_not_ready(
    port: int,
) -> None:
    assert await get(port, "/health") == (200, '{"alive": true}\n')
    status, body = await get(port, "/health/ready")
    assert status == 503
    assert json.loads(body) == {"ready": False, "reason": "the model is being loaded"}
    status, body = await get(port, "/metrics")
    assert status == 200
    assert 'sensestream_retries_total{operation="fetch"} ' in body
    assert "sensestream_in_flight_requests" not in body


async def test_a_scraper_is_answered_in_the_format_it_accepts(port: int) -> None:
    assert (await get(port, "/metrics"))[1].startswith("# HELP")
    openmetrics = await get(port, "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert openmetrics[1].endswith("# EOF\n")
    assert await get(port, "/metrics?name[]=x", method="HEAD") == (200, "")


async def test_an_unknown_path_or_method_is_refused_in_a_sentence(port: int) -> None:
    status, body = await get(port, "/")
    assert status == 404
    assert "/health/ready" in body
    assert (await get(port, "/metrics", method="POST"))[0] == 405
    assert await exchange(port, b"\x16\x03\x01\x02\x00\x01\r\n\r\n") == b""
    with suppress(ConnectionError):  # reset while it still sends
        assert await exchange(port, b"GET /" + b"x" * 100_000) == b""
    assert (await get(port, "/health"))[0] == 200


async def test_silent_connections_block_other_callers_only_briefly(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "_PATIENCE", 0.5)
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(16)]

    async def served() -> bool:
        with suppress(ConnectionError, IndexError):
            return (await get(port, "/health"))[0] == 200
        return False

    assert not await served()
    await wait_until(served, timeout=10)
    for reader, writer in idle:
        assert await reader.read() == b""
        writer.close()


async def test_a_port_that_is_taken_is_told_with_its_setting(port: int) -> None:
    with pytest.raises(SettingsError, match=f"SENSESTREAM_METRICS_PORT={port}"):
        async with endpoint.serve("127.0.0.1", port, Readiness()):
            pass
