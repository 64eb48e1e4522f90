"""`redis:` and `data:`."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_consumer.audio import AudioPolicy, Fetched, Fetcher

from .conftest import UPLOADS

pytestmark = pytest.mark.anyio


async def fetch(uri: str, redis: Redis, policy: AudioPolicy | None = None) -> Fetched:
    fetcher = Fetcher(policy or AudioPolicy(roots=()), redis, UPLOADS)
    try:
        return await fetcher.fetch(uri)
    finally:
        await fetcher.aclose()


async def refusal(uri: str, redis: Redis, policy: AudioPolicy | None = None) -> RequestError:
    with pytest.raises(RequestError) as caught:
        (await fetch(uri, redis, policy)).close()
    return caught.value


@pytest.mark.parametrize("size", [0, 1, 4 * 1024 * 1024, 9 * 1024 * 1024 + 1])
async def test_an_upload_is_read_whole(redis: Redis, size: int) -> None:
    data = os.urandom(size)
    await redis.set(UPLOADS + "1", data)
    with await fetch(f"redis:{UPLOADS}1", redis) as fetched:
        assert fetched.digest == "sha256:" + hashlib.sha256(data).hexdigest()
        assert fetched.file.read() == data


async def test_a_client_that_decodes_its_replies_reads_bytes_all_the_same(redis_url: str) -> None:
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        await client.set(UPLOADS + "1", b"\xff\xfe")
        with await fetch(f"redis:{UPLOADS}1", client) as fetched:
            assert fetched.file.read() == b"\xff\xfe"


async def test_a_further_prefix_can_be_allowed(redis: Redis) -> None:
    await redis.set("calls:1", b"sound")
    assert (await refusal("redis:calls:1", redis)).code is ErrorCode.AUDIO_FORBIDDEN
    policy = AudioPolicy(roots=(), redis_prefixes=("calls:",))
    with await fetch("redis:calls:1", redis, policy) as fetched:
        assert fetched.size == 5


@pytest.mark.parametrize(
    "key", ["", "secret", "{sensestream}:result:1", UPLOADS, "{sensestream}:uploads"]
)
async def test_other_keys_are_forbidden_and_the_prefixes_named(redis: Redis, key: str) -> None:
    await redis.set("secret", b"secret")
    # An empty prefix, as an empty setting gives, must not open everything.
    error = await refusal(f"redis:{key}", redis, AudioPolicy(roots=(), redis_prefixes=("",)))
    assert error.code is ErrorCode.AUDIO_FORBIDDEN
    assert UPLOADS in error.message


async def test_a_missing_key_is_not_found(redis: Redis) -> None:
    error = await refusal(f"redis:{UPLOADS}gone", redis)
    assert error.code is ErrorCode.AUDIO_NOT_FOUND


async def test_a_key_of_another_type_is_unreadable_in_a_sentence(redis: Redis) -> None:
    await redis.rpush(UPLOADS + "list", "a")
    error = await refusal(f"redis:{UPLOADS}list", redis)
    assert error.code is ErrorCode.AUDIO_UNREADABLE
    assert "not a string" in error.message


async def test_a_large_key_is_refused_by_its_length(redis: Redis) -> None:
    await redis.set(UPLOADS + "1", b"x" * 101)
    error = await refusal(f"redis:{UPLOADS}1", redis, AudioPolicy(roots=(), max_bytes=100))
    assert error.code is ErrorCode.AUDIO_TOO_LARGE
    assert "SENSESTREAM_MAX_AUDIO_BYTES" in error.message


async def test_a_redis_that_is_away_is_the_callers_business(nowhere: Redis) -> None:
    with pytest.raises(RedisConnectionError):
        await fetch(f"redis:{UPLOADS}1", nowhere)


@pytest.mark.parametrize(
    ("uri", "data", "media_type"),
    [
        ("data:audio/wav;base64,c291bmQ=", b"sound", "audio/wav"),
        ("data:audio/WAV;base64,c291%62mQ%3D", b"sound", "audio/wav"),
        ("data:audio/x;a=b;BASE64,AA==", b"\0", "audio/x"),
        ("data:audio/wav,a%00%ffb,c", b"a\0\xffb,c", "audio/wav"),
        ("DATA:,", b"", ""),
        ("data:;base64,", b"", ""),
    ],
)
async def test_a_data_url_is_taken_in_both_forms(
    nowhere: Redis, uri: str, data: bytes, media_type: str
) -> None:
    with await fetch(uri, nowhere) as fetched:
        assert (fetched.file.read(), fetched.media_type) == (data, media_type)
        assert fetched.digest == "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "uri",
    [
        "data:audio/wav;base64",
        "data:audio/wav;base64,c291bmQ",
        "data:audio/wav;base64,c2 91bmQ=",
        "data:;base64,ünïcode",
        "data:audio/wav,100%",
        "data:audio/wav,%zz",
    ],
)
async def test_a_malformed_data_url_is_a_bad_request(nowhere: Redis, uri: str) -> None:
    error = await refusal(uri, nowhere)
    assert error.code is ErrorCode.BAD_REQUEST
    assert "RFC 2397" in error.message


async def test_a_data_url_holds_at_most_256_kib(nowhere: Redis) -> None:
    most = bytes(256 * 1024)
    for data in (base64.b64encode(most), b"%00" * len(most)):
        form = ";base64" if data[0:1] != b"%" else ""
        with await fetch(f"data:audio/wav{form},{data.decode()}", nowhere) as fetched:
            assert fetched.size == len(most)
    for over in (base64.b64encode(most + b"\0"), b"A" * 2_000_000):
        error = await refusal(f"data:audio/wav;base64,{over.decode()}", nowhere)
        assert error.code is ErrorCode.AUDIO_TOO_LARGE
        assert "262144 bytes" in error.message


async def test_an_extra_adds_a_scheme(nowhere: Redis, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"sound")
    fetcher = Fetcher(AudioPolicy(roots=(tmp_path,)), nowhere, UPLOADS)
    await fetcher.aclose()

    async def open_bucket(reference: object) -> Fetched:
        return await fetcher.fetch(f"file://{tmp_path}/{str(reference).rpartition('/')[2]}")

    extended = Fetcher(AudioPolicy(roots=()), nowhere, UPLOADS, {"gs": open_bucket})
    try:
        with await extended.fetch("gs://bucket/a.wav") as fetched:
            assert fetched.size == 5
        with pytest.raises(RequestError, match="gs://…") as caught:
            await extended.fetch("ftp://bucket/a.wav")
        assert caught.value.code is ErrorCode.BAD_REQUEST
    finally:
        await extended.aclose()
