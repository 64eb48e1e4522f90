"""Uploads: bounded, hashed, and never left behind."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from sensestream_common.connections.connection import connect
from sensestream_common.contract.errors import BacklogFull, ErrorCode, RequestError
from sensestream_common.contract.keys import Keys
from sensestream_producer import Client, RedisUnavailable
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.support.pipeline import answer, requests

pytestmark = pytest.mark.anyio


async def test_a_file_is_there_whole_with_its_digest_and_without_an_end(
    client: Client, redis: Redis, keys: Keys, tmp_path: Path
) -> None:
    # Larger than one chunk, so that the order of the pieces shows.
    content = random.Random(7).randbytes(9_500_000)
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    receipt = await client.submit_file(str(path), language="en")
    [(_, request)] = await requests(redis, keys)
    assert request.audio == f"redis:{keys.upload(receipt.id)}"
    assert request.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert await redis.get(keys.upload(receipt.id)) == content
    assert await redis.ttl(keys.upload(receipt.id)) == -1
    assert await redis.keys(keys.upload_prefix + "*") == [keys.upload(receipt.id).encode()]


async def test_a_lost_reply_leaves_no_second_copy_behind(
    client: Client, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, losses = Pipeline.execute, [1]

    async def losing(self: Pipeline, raise_on_error: bool = True) -> list[Any]:
        replies = await execute(self, raise_on_error)
        if losses:
            losses.pop()
            raise RedisConnectionError("the reply was lost")
        return replies

    monkeypatch.setattr(Pipeline, "execute", losing)
    await client.submit_file(b"RIFF....", id="x")
    assert await redis.keys(keys.upload_prefix + "*") == [keys.upload("x").encode()]
    assert await redis.get(keys.upload("x")) == b"RIFF...."


async def test_bytes_are_uploaded_as_they_are(client: Client, redis: Redis, keys: Keys) -> None:
    await client.submit_file(b"RIFF....", id="x")
    assert await redis.get(keys.upload("x")) == b"RIFF...."


async def test_the_same_id_again_leaves_the_first_bytes_and_no_others(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await client.submit_file(b"first", id="x")
    assert (await client.submit_file(b"second", id="x")).duplicate
    assert await redis.get(keys.upload("x")) == b"first"
    assert await redis.keys(keys.upload_prefix + "*") == [keys.upload("x").encode()]


async def test_an_upload_after_a_failure_replaces_the_bytes_kept_for_a_replay(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await client.submit_file(b"first", id="x")
    [(entry, request)] = await requests(redis, keys)
    await answer(redis, keys, entry, request, error=ErrorCode.AUDIO_UNREADABLE)
    await redis.expire(keys.upload("x"), 100)
    await client.submit_file(b"second", id="x")
    assert await redis.get(keys.upload("x")) == b"second"
    assert await redis.ttl(keys.upload("x")) == -1


async def test_a_refused_upload_leaves_nothing_behind(redis_url: str, redis: Redis) -> None:
    async with Client(redis_url, max_backlog=1) as client:
        await client.submit("file:///data/a.wav", id="x")
        before = sorted(await redis.keys("*"))
        with pytest.raises(BacklogFull):
            await client.submit_file(b"RIFF")
    assert sorted(await redis.keys("*")) == before


async def test_what_is_too_large_is_refused_before_it_is_read(
    redis_url: str, redis: Redis, tmp_path: Path
) -> None:
    path = tmp_path / "large.wav"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # reading this would outlast the test
    async with Client(redis_url, max_upload_bytes=1000) as client:
        for source in (path, b"." * 1001):
            with pytest.raises(RequestError, match="--max-upload-bytes") as raised:
                await client.submit_file(source)
            assert raised.value.code is ErrorCode.AUDIO_TOO_LARGE
        await client.submit_file(b"." * 1000, id="x")
    assert len(await redis.keys("*upload*")) == 1


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda _: None, ErrorCode.AUDIO_NOT_FOUND),
        (lambda path: path.mkdir(), ErrorCode.AUDIO_FORBIDDEN),
        (os.mkfifo, ErrorCode.AUDIO_FORBIDDEN),
        (lambda path: path.touch(), ErrorCode.AUDIO_EMPTY),
    ],
    ids=["missing", "directory", "pipe", "empty"],
)
async def test_what_is_no_file_to_upload_is_named(
    client: Client,
    redis: Redis,
    tmp_path: Path,
    make: Callable[[Path], None],
    code: ErrorCode,
) -> None:
    path = tmp_path / "a.wav"
    make(path)
    with pytest.raises(RequestError, match=r"a\.wav") as raised:
        await client.submit_file(path)
    assert raised.value.code is code
    assert await redis.keys("*") == []


async def test_bytes_staged_before_a_restart_without_data_are_staged_again(
    own_redis: Callable[..., EmbeddedRedis], keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_redis()
    async with Client(server.url, retry_timeout=30) as client:
        stage = client._uploads.stage  # the moment between staging and submitting, held open

        async def stage_and_lose(read: Callable[[], Any]) -> object:
            monkeypatch.setattr(client._uploads, "stage", stage)
            staged = await stage(read)
            server.kill()
            server.restart()
            return staged

        monkeypatch.setattr(client._uploads, "stage", stage_and_lose)
        await client.submit_file(b"RIFF", id="x")
    redis = connect(server.url, name="test")
    assert await redis.get(keys.upload("x")) == b"RIFF"
    assert await redis.xlen(keys.requests) == 1
    await redis.aclose()


async def test_what_an_outage_left_staged_goes_with_the_next_upload_or_the_end(
    own_redis: Callable[..., EmbeddedRedis], keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_redis(appendonly=True, appendfsync="always")
    async with Client(server.url, retry_timeout=0.1) as client:
        stage = client._uploads.stage

        async def stage_and_go(read: Callable[[], Any]) -> object:
            staged = await stage(read)
            server.kill()
            return staged

        async def uploads() -> list[Any]:
            async with connect(server.url, name="test") as redis:
                return list(await redis.keys(keys.upload_prefix + "*"))

        async def lose(request_id: str) -> None:
            monkeypatch.setattr(client._uploads, "stage", stage_and_go)
            with pytest.raises(RedisUnavailable):
                await client.submit_file(b"RIFF", id=request_id)
            monkeypatch.setattr(client._uploads, "stage", stage)
            server.restart()
            assert len(await uploads()) == 1 + (request_id == "y")

        await lose("x")
        await client.submit_file(b"RIFF", id="taken")
        assert await uploads() == [keys.upload("taken").encode()]
        await lose("y")
    assert await uploads() == [keys.upload("taken").encode()]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="a file of Linux's")
async def test_a_file_that_is_longer_than_it_says_is_refused_while_it_is_read(
    redis_url: str,
) -> None:
    async with Client(redis_url, max_upload_bytes=100) as client:
        with pytest.raises(RequestError, match="--max-upload-bytes"):
            await client.submit_file("/proc/self/smaps")
