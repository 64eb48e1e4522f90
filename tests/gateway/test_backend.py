"""Uploads in a store when the reply of a submit is lost, or the id is submitted again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from sensestream_common.connections.connection import connect
from sensestream_common.connections.pipelined_connection import PipelinedConnection
from sensestream_common.contract.keys import Keys
from sensestream_producer.gateway.backend import Backend
from sensestream_producer.gateway.settings import GatewaySettings
from sensestream_producer.gateway.uploads.multipart import File
from sensestream_producer.gateway.uploads.spool import Spool
from sensestream_producer.gateway.uploads.stores import FolderStore
from sensestream_producer.submit.submission import Submission

pytestmark = pytest.mark.anyio

KEYS = Keys("sensestream")


async def file_of(content: bytes) -> File:
    spool = Spool()
    spool.feed(content)
    return File("file", spool, await spool.finish())


def lose_replies(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Lose the replies of this many commands that carry a reference to a file."""
    execute, left = PipelinedConnection.execute, iter(range(times))

    async def lossy(line: PipelinedConnection, packed: Sequence[bytes]) -> list[Any]:
        replies = await execute(line, packed)
        if any(b"file://" in command for command in packed) and next(left, None) is not None:
            raise RedisConnectionError("lost")
        return replies

    monkeypatch.setattr(PipelinedConnection, "execute", lossy)


@pytest.mark.parametrize("lost", [0, 1])
async def test_upload_of_a_queued_request_stays_in_the_store(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """After a lost reply the request is its own duplicate, and its upload must stay."""
    lose_replies(monkeypatch, lost)
    backend = Backend(GatewaySettings(redis_url=redis_url), FolderStore(tmp_path))
    await backend.submit(Submission(audio=b""), await file_of(b"RIFF"))
    assert await waiting(redis_url) == stored(tmp_path)
    await backend.close()


async def test_upload_for_a_queued_id_is_not_stored_again(redis_url: str, tmp_path: Path) -> None:
    backend = Backend(GatewaySettings(redis_url=redis_url), FolderStore(tmp_path))
    for _ in range(2):
        await backend.submit(Submission(audio=b"", id="same"), await file_of(b"RIFF"))
    assert await waiting(redis_url) == stored(tmp_path)
    await backend.close()


def stored(folder: Path) -> list[str]:
    return [path.as_uri() for path in folder.iterdir()]


async def waiting(url: str) -> list[str]:
    redis: Redis
    async with connect(url, name="test") as redis:
        rows: Any = await redis.xrange(KEYS.requests)
    return [fields[b"audio"].decode() for _, fields in rows]
