"""A Redis, a worker with the embedded model, and a folder of recordings that it may read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sensestream_producer.cli.demo_session import bundled_clips
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.support.workers import WorkerProcess


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundled clips, such as `en-telephone.wav`; tests may add files."""
    folder = tmp_path_factory.mktemp("recordings")
    for clip in bundled_clips():
        shutil.copy(clip.path, folder)
    return folder


@pytest.fixture(scope="session")
def url(
    redis_executable: str, recordings: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a Redis with one worker."""
    log = tmp_path_factory.mktemp("logs") / "worker.log"
    with EmbeddedRedis(executable=redis_executable) as redis:
        worker = WorkerProcess(redis.url, recordings, log)
        try:
            worker.wait_ready()
            yield redis.url
        finally:
            worker.kill()
