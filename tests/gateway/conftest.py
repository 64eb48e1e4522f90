"""A gateway, a worker and a Redis that the tests of this folder share."""

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

from tests.support.clips import encoded, tone
from tests.support.gateways import GatewayProcess
from tests.support.workers import WorkerProcess

StartGateway = Callable[..., GatewayProcess]
CLIPS = Path(next(iter(bundled.__path__)))
JOBS = "/v1/transcriptions"
TRANSCRIBE = "/v1/audio/transcriptions"


def upload(seed: int) -> dict[str, Any]:
    """The files of a form with one recording; each `seed` makes another one."""
    return {"file": (f"{seed}.wav", encoded(tone(seed)))}


def submit(
    gateway: GatewayProcess, content: bytes, *, wait: float = 30, **fields: Any
) -> dict[str, Any]:
    """The job made of an upload, with its outcome if that comes within `wait` seconds."""
    files = {"file": ("a.wav", content)}
    url = f"{gateway.url}{JOBS}?wait={wait:g}"
    response = httpx.post(url, files=files, data=fields, timeout=60)
    assert response.is_success, response.text
    return dict(response.json())


@pytest.fixture(scope="session")
def shared_redis(redis_executable: str) -> Iterator[EmbeddedRedis]:
    """A Redis with a worker. It is never emptied, so each test uses recordings of its own."""
    with EmbeddedRedis(executable=redis_executable) as server:
        yield server


@pytest.fixture(scope="session")
def worker(
    shared_redis: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("gateway-worker")
    process = WorkerProcess(shared_redis.url, folder, folder / "worker.log", reclaim_after=2)
    process.wait_ready()
    yield process
    process.kill()


@pytest.fixture(scope="session")
def start_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """A factory of gateways with settings; they stop with the session at the latest."""
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
    shared_redis: EmbeddedRedis, worker: WorkerProcess, start_gateway: StartGateway
) -> GatewayProcess:
    """A gateway in front of the worker, without keys."""
    return start_gateway(shared_redis.url)


@pytest.fixture(scope="session")
def http(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        yield client


@pytest.fixture
def redis(shared_redis: EmbeddedRedis) -> Iterator[Redis]:
    with shared_redis.client() as client:
        yield client
