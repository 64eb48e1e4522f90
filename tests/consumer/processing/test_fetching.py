"""Fetching: retried while a source is away, within the deadline, and held to a named digest."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError, ResponseError
from sensestream_common.connections.connection import connect
from sensestream_common.contract.errors import ErrorCode, RequestError, TransientError
from sensestream_consumer.audio import AudioPolicy, Fetched, Fetcher, Reference, Spool
from sensestream_consumer.processing.deadlines import Deadlines
from sensestream_consumer.processing.fetching import Fetching

from tests.consumer.conftest import KEYS
from tests.consumer.processing.conftest import NOW, request

pytestmark = pytest.mark.anyio

AWAY = TransientError(ErrorCode.AUDIO_UNAVAILABLE, "away for the moment")
CONTENT = b"some bytes"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
SITE, KEY = "https://example.org/a.wav", f"redis:{KEYS.upload('a')}"


class Source:
    """Stands behind every reference: raises the next of `errors`, else gives the same bytes.

    References of the schemes in `hanging` are not answered.
    """

    def __init__(self, redis: Redis, folder: Path) -> None:
        self.opened = 0
        self.errors: list[Exception] = []
        self.hanging: set[str] = set()
        self.go = asyncio.Event()
        self.given: list[Fetched] = []
        self.now = NOW
        schemes = ("file", "https", "redis")
        openers = dict.fromkeys(schemes, self.open)
        fetcher = Fetcher(AudioPolicy(roots=(folder,)), redis, KEYS.upload_prefix, openers)
        self.fetching = Fetching(fetcher, Deadlines(lambda: self.now))

    async def open(self, reference: Reference) -> Fetched:
        self.opened += 1
        if self.errors:
            raise self.errors.pop(0)
        if reference.scheme in self.hanging:
            await self.go.wait()
        with Spool(reference.display, 100) as spool:
            spool.write(CONTENT)
            self.given.append(spool.finish())
        return self.given[-1]


@pytest.fixture
async def source(redis_url: str, tmp_path: Path) -> AsyncIterator[Source]:
    redis = connect(redis_url, name="test")
    yield Source(redis, tmp_path)
    await redis.aclose()


async def test_the_bytes_come_with_their_digest(source: Source) -> None:
    with await source.fetching.fetch(request(digest=DIGEST)) as fetched:
        assert fetched.digest == DIGEST
        assert fetched.file.read() == CONTENT


async def test_bytes_with_another_digest_than_promised_are_refused_and_closed(
    source: Source,
) -> None:
    with pytest.raises(RequestError, match="was promised") as refused:
        await source.fetching.fetch(request(digest="sha256:" + "0" * 64))
    assert refused.value.code is ErrorCode.DIGEST_MISMATCH
    assert source.given[0].file.closed


async def test_a_source_that_is_away_for_a_moment_is_tried_again(
    source: Source, waits: list[float]
) -> None:
    source.errors = [AWAY] * 3
    await source.fetching.fetch(request(audio=SITE))
    assert source.opened == 4
    assert len(waits) == 3


async def test_a_source_that_stays_away_fails_the_request_after_four_tries(
    source: Source, waits: list[float]
) -> None:
    source.errors = [AWAY] * 4
    with pytest.raises(TransientError, match="away for the moment"):
        await source.fetching.fetch(request(audio=SITE))
    assert (source.opened, len(waits)) == (4, 3)


async def test_a_reference_that_no_try_can_open_is_tried_once(source: Source) -> None:
    source.errors = [RequestError(ErrorCode.AUDIO_TOO_LARGE, "too large")]
    with pytest.raises(RequestError, match="too large"):
        await source.fetching.fetch(request(audio=SITE))
    assert source.opened == 1


async def test_audio_in_redis_is_tried_for_as_long_as_redis_is_away(
    source: Source, waits: list[float]
) -> None:
    source.errors = [RedisConnectionError("away") for _ in range(20)]
    await source.fetching.fetch(request(audio=KEY))
    assert (source.opened, len(waits)) == (21, 20)


async def test_an_error_of_redis_that_is_no_outage_is_not_tried_again(source: Source) -> None:
    source.errors = [ResponseError("unknown command")]
    with pytest.raises(ResponseError):
        await source.fetching.fetch(request(audio=KEY))
    assert source.opened == 1


@pytest.mark.parametrize("audio", [SITE, KEY])
async def test_no_try_begins_after_the_deadline(
    source: Source, audio: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(_: Any) -> None:
        source.now += 1000

    monkeypatch.setattr("sensestream_common.connections.retry.Backoff.wait", wait)
    source.errors = [AWAY, AWAY]
    with pytest.raises(RequestError) as refused:
        await source.fetching.fetch(request(audio=audio, deadline=NOW + 500))
    assert refused.value.code is ErrorCode.EXPIRED
    assert source.opened == 1


async def test_a_fetch_from_a_site_is_cut_short_at_the_deadline(source: Source) -> None:
    source.hanging = {"https"}
    with pytest.raises(RequestError) as refused:
        await source.fetching.fetch(request(audio=SITE, deadline=NOW + 10))
    assert refused.value.code is ErrorCode.EXPIRED


async def test_a_fetch_from_redis_is_not_cut_short(source: Source) -> None:
    source.hanging = {"redis"}
    fetching = asyncio.create_task(source.fetching.fetch(request(audio=KEY, deadline=NOW - 1)))
    await until(lambda: source.opened == 1)
    source.go.set()
    assert (await fetching).digest == DIGEST


async def test_sites_that_hang_hold_up_no_file(source: Source) -> None:
    source.hanging = {"https"}
    hanging = [asyncio.create_task(source.fetching.fetch(request(audio=SITE))) for _ in range(20)]
    await until(lambda: source.opened == 16)
    assert (await source.fetching.fetch(request())).digest == DIGEST
    source.go.set()
    await asyncio.gather(*hanging)
    assert source.opened == 21


async def until(condition: Callable[[], bool]) -> None:
    """Let all tasks run until each of them waits."""
    for _ in range(100):
        await asyncio.sleep(0)
    assert condition()
