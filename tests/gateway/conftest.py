"""A gateway, a worker and a Redis for all tests of this folder: starting them takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from sensestream_consumer import clips as bundled
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.support.gateways import GatewayProcess
from tests.support.workers import WorkerProcess

StartGateway = Callable[..., GatewayProcess]
CLIPS = Path(next(iter(bundled.__path__)))


@pytest.fixture(scope="session")
def heard_redis(redis_executable: str) -> Iterator[EmbeddedRedis]:
    """A Redis with a worker; it is not emptied, so tests here take recordings of their own."""
    with EmbeddedRedis(executable=redis_executable) as server:
        yield server


@pytest.fixture(scope="session")
def worker(
    heard_redis: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("gateway-worker")
    process = WorkerProcess(heard_redis.url, folder, folder / "worker.log", reclaim_after=2)
    process.wait_ready()
    yield process
    process.kill()


@pytest.fixture(scope="session")
def start_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """A factory of gateways, which end with the tests; a test that is through may end its own."""
    folder = tmp_path_factory.mktemp("gateways")
    with ExitStack() as stack:
        count = 0

        def start(url: str, **settings: Any) -> GatewayProcess:
            nonlocal count
            count += 1
            gateway = GatewayProcess(url, folder / f"gateway-{count}.log", **settings)
            return stack.enter_context(gateway)

        yield start


@pytest.fixture(scope="session")
def gateway(
    heard_redis: EmbeddedRedis, worker: WorkerProcess, start_gateway: StartGateway
) -> GatewayProcess:
    """The gateway in front of the worker, without keys."""
    return start_gateway(heard_redis.url)


@pytest.fixture(scope="session")
def http(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        yield client


@pytest.fixture
def redis(heard_redis: EmbeddedRedis) -> Iterator[Redis]:
    with heard_redis.client() as client:
        yield client
