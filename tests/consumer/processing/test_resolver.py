"""The resolver: where an answer comes from, and what its commit writes to the cache."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sensestream_common.contract.alias import AudioWarning, read_alias
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.identity import checksum
from sensestream_common.contract.outcome import CacheUse
from sensestream_common.contract.transcript import Transcript
from sensestream_consumer.audio import (
    AudioPolicy,
    Decoded,
    Fetched,
    decode_with_warnings,
)
from sensestream_consumer.processing import transcribing
from sensestream_consumer.processing.resolver import Resolution
from sensestream_consumer.processing.slots import TooManyWaiters

from tests.consumer.conftest import KEYS, REVISION
from tests.consumer.processing.conftest import NOW, Way, digest_of
from tests.support.clips import write_clip
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

MISS, HIT, COALESCED = CacheUse.MISS, CacheUse.HIT, CacheUse.COALESCED
GONE = "file:///gone.wav"


async def transcribed(way: Way, clip: str) -> Resolution:
    """A clip that a worker has transcribed, and whose result is stored."""
    await way.handle(clip)
    assert await way.parts.redis.exists(KEYS.audio(digest_of(clip), REVISION))
    return await way.resolve(clip)


async def in_the_engine(way: Way, clip: str, **fields: Any) -> asyncio.Task[Resolution]:
    """A request whose transcription is under way."""
    way.engine.hold()
    task = asyncio.create_task(way.resolve(clip, **fields))
    await way.engine.entered.wait()
    return task


async def waiting_for_it(way: Way, clip: str, **fields: Any) -> asyncio.Task[Resolution]:
    """A request that waits for another's transcription."""
    before = way.waiters.in_use
    task = asyncio.create_task(way.resolve(clip, **fields))
    await wait_until(lambda: way.waiters.in_use == before + 1 or task.done())
    return task


async def test_a_new_recording_is_a_miss_with_all_that_the_cache_keeps_of_it(way: Way) -> None:
    clip = way.clip(1)
    resolution = await way.resolve(clip)
    write = resolution.cache_write
    assert (resolution.cache, resolution.digest) == (MISS, digest_of(clip))
    assert resolution.lease is not None
    assert (write.transcript, write.alias) == (resolution.transcript.dumps(), digest_of(clip))
    assert write.result == way.parts.cache.identity(write.alias_value, "auto", True)
    assert (write.ttl_ms, write.expected_sha1) == (60_000, "")


async def test_bytes_that_were_transcribed_before_are_a_hit_that_prolongs_the_result(
    way: Way,
) -> None:
    clip = way.clip(1)
    hit = await transcribed(way, clip)
    assert (hit.cache, hit.transcript.text, hit.lease) == (HIT, "transcript 1", None)
    assert (hit.cache_write.transcript, hit.cache_write.ttl_ms) == ("", 60_000)
    assert way.engine.calls == 1


async def test_a_digest_that_is_named_is_a_hit_without_a_look_at_the_bytes(way: Way) -> None:
    clip = way.clip(1)
    await transcribed(way, clip)
    hit = await way.resolve(GONE, digest=digest_of(clip))
    assert (hit.cache, hit.transcript.text) == (HIT, "transcript 1")


async def test_where_digests_are_not_trusted_the_bytes_are_read(way: Way) -> None:
    clip = way.clip(1)
    await transcribed(way, clip)
    way.resolver._trust_digest = False
    with pytest.raises(RequestError) as refused:
        await way.resolve(GONE, digest=digest_of(clip))
    assert refused.value.code is not ErrorCode.DIGEST_MISMATCH
    _, request = await way.request(GONE, digest=digest_of(clip))
    assert way.resolver.resolve_locally(request) is None


async def test_another_language_or_itn_is_another_result(way: Way) -> None:
    clip = way.clip(1)
    await transcribed(way, clip)
    for fields in ({"language": "en"}, {"itn": "0"}):
        assert (await way.resolve(clip, **fields)).cache is MISS


async def test_a_hit_that_the_worker_remembers_is_left_to_the_commit_to_check(way: Way) -> None:
    clip = way.clip(1)
    await transcribed(way, clip)
    _, request = await way.request(GONE, digest=digest_of(clip))
    hit = way.resolver.resolve_locally(request)
    assert hit is not None
    assert (hit.cache, hit.transcript.text) == (HIT, "transcript 1")
    assert hit.cache_write.expected_sha1 == checksum(hit.transcript.dumps().encode())


@pytest.mark.parametrize(
    "fields", [{}, {"digest": "sha256:" + "0" * 64}, {"deadline": NOW - 1}, {"language": "en"}]
)
async def test_nothing_else_is_answered_from_memory(way: Way, fields: dict[str, str]) -> None:
    clip = way.clip(1)
    await transcribed(way, clip)
    if "digest" not in fields and fields:
        fields = fields | {"digest": digest_of(clip)}
    _, request = await way.request(clip, **fields)
    assert way.resolver.resolve_locally(request) is None


async def test_identical_requests_share_the_transcription_of_the_first(way: Way) -> None:
    clip = way.clip(1)
    leader = await in_the_engine(way, clip)
    followers = [await waiting_for_it(way, clip) for _ in range(3)]
    assert (way.slots.in_use, way.waiters.in_use) == (1, 3)
    way.engine.go.set()
    assert (await leader).cache is MISS
    for resolution in await asyncio.gather(*followers):
        assert (resolution.cache, resolution.transcript.text) == (COALESCED, "transcript 1")
        assert (resolution.lease, resolution.cache_write.transcript) == (None, "")
        assert resolution.cache_write.alias_value == (await leader).cache_write.alias_value
    assert (way.engine.calls, way.waiters.in_use) == (1, 0)


async def test_a_follower_cancels_the_slot_that_was_reserved_for_it(way: Way) -> None:
    clip = way.clip(1)
    leader = await in_the_engine(way, clip)
    delivery, request = await way.request(clip)
    way.slots.reserve(delivery)
    assert way.slots.available == 2
    follower = asyncio.create_task(way.resolver.resolve(delivery, request))
    await wait_until(lambda: way.waiters.in_use == 1)
    assert way.slots.available == 3
    way.engine.go.set()
    await asyncio.gather(leader, follower)


async def test_followers_of_a_leader_that_fails_by_itself_transcribe_for_themselves(
    way: Way,
) -> None:
    clip = way.clip(1)
    way.engine.errors = [RuntimeError("of the leader's own")]
    leader = await in_the_engine(way, clip)
    follower = await waiting_for_it(way, clip)
    way.engine.go.set()
    with pytest.raises(RuntimeError):
        await leader
    assert (await follower).cache is MISS
    assert way.engine.calls == 2


async def test_a_request_that_stores_nothing_neither_leads_nor_follows(way: Way) -> None:
    clip = way.clip(1)
    first = await in_the_engine(way, clip, ttl="0")
    way.engine.entered.clear()
    second = await in_the_engine(way, clip)
    way.engine.entered.clear()
    third = await in_the_engine(way, clip, ttl="0")
    way.engine.go.set()
    resolutions = await asyncio.gather(first, second, third)
    assert [each.cache for each in resolutions] == [MISS] * 3
    assert [each.lease is not None for each in resolutions] == [False, True, False]
    assert [each.cache_write.ttl_ms for each in resolutions] == [0, 60_000, 0]


async def test_a_result_that_is_not_stored_is_not_cached_locally_either(way: Way) -> None:
    clip = way.clip(1)
    write = (await way.resolve(clip, ttl="0")).cache_write
    assert write.result not in way.parts.cache._local


async def test_a_request_waits_for_the_worker_that_holds_the_lease(
    way: Way, other_way: Way
) -> None:
    clip = way.clip(1)
    leader = await in_the_engine(other_way, clip)
    waiting = await waiting_for_it(way, clip)
    assert (way.slots.in_use, way.engine.calls) == (0, 0)
    other_way.engine.go.set()
    resolution = await leader
    await other_way.parts.redis.hset(
        KEYS.result(resolution.cache_write.result), "transcript", resolution.transcript.dumps()
    )
    answer = await waiting
    assert (answer.cache, answer.transcript) == (COALESCED, resolution.transcript)
    assert answer.cache_write.alias_value == resolution.cache_write.alias_value


async def test_a_request_takes_over_from_a_leaseholder_that_gives_up(
    way: Way, other_way: Way
) -> None:
    clip = way.clip(1)
    other_way.engine.errors = [RuntimeError("a fault of the other worker's")]
    leader = await in_the_engine(other_way, clip)
    waiting = await waiting_for_it(way, clip)
    other_way.engine.go.set()
    with pytest.raises(RuntimeError):
        await leader
    resolution = await waiting
    assert (resolution.cache, way.engine.calls) == (MISS, 1)
    assert resolution.lease is not None


async def test_a_request_that_waits_is_cut_short_at_its_deadline(way: Way, other_way: Way) -> None:
    clip = way.clip(1)
    leader = await in_the_engine(other_way, clip)
    with pytest.raises(RequestError) as refused:
        await way.resolve(clip, deadline=NOW + 50)
    assert refused.value.code is ErrorCode.EXPIRED
    other_way.engine.go.set()
    await leader


async def test_one_follower_too_many_goes_back_and_its_bytes_are_not_read_again(
    way: Way, tmp_path: Path
) -> None:
    clip = way.clip(1)
    leader = await in_the_engine(way, clip)
    followers = [await waiting_for_it(way, clip) for _ in range(4)]
    (tmp_path / "clip-1.wav").unlink()
    with pytest.raises(TooManyWaiters):
        await way.resolve(clip)
    way.engine.go.set()
    await asyncio.gather(leader, *followers)
    with pytest.raises(RequestError):  # the reference is free again, and is read
        await way.resolve(clip)


async def test_a_request_that_comes_after_its_deadline_is_refused_before_anything_else(
    way: Way,
) -> None:
    with pytest.raises(RequestError) as refused:
        await way.resolve(GONE, deadline=NOW - 1)
    assert refused.value.code is ErrorCode.EXPIRED


async def test_the_transcript_is_the_one_that_redis_keeps_now(way: Way) -> None:
    clip = way.clip(1)
    hit = await transcribed(way, clip)
    replaced = Transcript("replaced").dumps()
    await way.parts.redis.hset(KEYS.result(hit.cache_write.result), "transcript", replaced)
    assert (await way.resolve(clip)).transcript.text == "replaced"


LOST = AudioWarning("audio_truncated", "its last 0.4 s are missing")


@pytest.fixture
def damaged(way: Way, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recording that has lost something, of the same samples as `way.clip(1)`."""

    def decode(fetched: Fetched, policy: AudioPolicy) -> Decoded:
        warned = fetched.digest == digest_of(clip)
        warnings = (LOST,) if warned else ()
        return Decoded(decode_with_warnings(fetched, policy).samples, warnings)

    clip = write_clip(way.folder, 1, name="damaged.wav")
    path = way.folder / "damaged.wav"
    path.write_bytes(path.read_bytes() + b"junk")
    monkeypatch.setattr(transcribing, "decode_with_warnings", decode)
    return clip


@pytest.mark.parametrize("damaged_first", [True, False])
async def test_warnings_are_those_about_the_bytes_of_each_request(
    way: Way, damaged: str, damaged_first: bool
) -> None:
    clean = way.clip(1)
    clips = (damaged, clean) if damaged_first else (clean, damaged)
    for clip in clips * 2:
        outcome = await way.handle(clip)
        assert ("warnings" in outcome) == (clip == damaged)
    for clip in clips:
        by_digest = await way.resolve(GONE, digest=digest_of(clip))
        _, request = await way.request(GONE, digest=digest_of(clip))
        remembered = way.resolver.resolve_locally(request)
        assert remembered is not None
        for resolution in (by_digest, remembered):
            assert resolution.warnings == ((LOST,) if clip == damaged else ())
    assert way.engine.calls == 1


async def test_followers_of_a_damaged_recording_are_warned_too(way: Way, damaged: str) -> None:
    leader = await in_the_engine(way, damaged)
    follower = await waiting_for_it(way, damaged)
    way.engine.go.set()
    for resolution in (await leader, await follower):
        assert resolution.warnings == (LOST,)
        alias = read_alias(resolution.cache_write.alias_value.encode())
        assert alias is not None
        assert alias.warnings == (LOST,)
