"""What a service may write against the clients: `make lint` checks it with mypy --strict.

A line with an `ignore` must be refused for that very reason: mypy is told to complain of ignores
that are not needed. The rest is run as well, by test_user_code.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import assert_type

from sensestream_producer import (
    CacheUse,
    Client,
    DeadLetter,
    DeadLetterFilter,
    ErrorCode,
    FollowedOutcome,
    Gap,
    Outcome,
    PipelineStatus,
    ProducerSettings,
    Receipt,
    ReplayResult,
    RequestStatus,
    Segment,
    SensestreamError,
    Status,
    Submission,
    SubmitOptions,
    blocking,
    load_settings,
    testing,
)
from sensestream_producer.testing import BlockingClient, Request, ScriptedPipeline, Transcript

__all__ = ["as_the_real_ones", "asynchronous", "blockingly", "for_tests", "mistakes", "settings"]

AUDIO = "file:///data/a.wav"
URGENT: SubmitOptions = {"priority": "high", "deadline": timedelta(minutes=5), "metadata": [1]}


async def asynchronous(client: Client) -> str:
    receipt = await client.submit(AUDIO, **URGENT)
    assert_type(receipt, Receipt)
    await client.submit_file(b"RIFF", deadline=datetime(2050, 1, 1, tzinfo=UTC), itn=False)
    outcome = await client.transcribe(Path(__file__), timeout=None, id="a", language="en", ttl=60)
    assert_type(outcome, Outcome)
    assert_type(await client.wait(receipt.id, timeout=30), Outcome)
    for result in await client.submit_many([AUDIO, Submission(audio=AUDIO)]):
        assert_type(result, Receipt | SensestreamError)
    assert_type(client.follow("0"), AsyncGenerator[FollowedOutcome | Gap])
    assert_type(client.listen(), AsyncGenerator[Outcome])
    async for event in client.follow("0"):
        if isinstance(event, Gap):
            continue
        assert_type(event, FollowedOutcome)
        break
    async for letter in client.dead.select(
        DeadLetterFilter(errors=frozenset({ErrorCode.INTERNAL}))
    ):
        assert_type(await client.dead.replay(letter), ReplayResult)
    assert_type(await client.status("a"), RequestStatus | None)
    assert_type(await client.pipeline_status(), PipelineStatus)
    return text_of(outcome)


def blockingly(client: blocking.Client) -> str:
    receipt = client.submit(AUDIO, **URGENT)
    assert_type(receipt, Receipt)
    client.submit_file(b"RIFF", deadline=datetime(2050, 1, 1, tzinfo=UTC), itn=False)
    outcome = client.transcribe(Path(__file__), timeout=None, id="a", language="en", ttl=60)
    assert_type(outcome, Outcome)
    assert_type(client.wait(receipt.id, timeout=30), Outcome)
    for result in client.submit_many([AUDIO, Submission(audio=AUDIO)]):
        assert_type(result, Receipt | SensestreamError)
    assert_type(client.follow("0"), Generator[FollowedOutcome | Gap])
    assert_type(client.listen(), Generator[Outcome])
    for event in client.follow("0"):
        if isinstance(event, Gap):
            continue
        assert_type(event, FollowedOutcome)
        break
    for letter in client.dead.select(DeadLetterFilter(older_than=timedelta(hours=1))):
        assert_type(letter, DeadLetter)
        assert_type(client.dead.find(letter.letter), DeadLetter | None)
        assert_type(client.dead.purge(letter), bool)
    assert_type(client.status("b"), RequestStatus | None)
    assert_type(client.pipeline_status(), PipelineStatus)
    return text_of(outcome)


def text_of(outcome: Outcome) -> str:
    assert_type(outcome.status, Status)
    assert_type(outcome.cache, CacheUse | None)
    assert_type(outcome.confidence, float | None)
    return outcome.text if outcome.completed else f"{outcome.error}: {outcome.message}"


def for_tests(texts: Iterable[str]) -> ScriptedPipeline:
    pipeline = ScriptedPipeline(default=ErrorCode.AUDIO_NOT_FOUND)
    for text in texts:
        pipeline.answer(text.encode(), text)
        pipeline.answer(f"file:///{text}.wav", lambda request: request.language)
        pipeline.answer(f"file:///{text}.mp3", transcript_of)
    assert_type(pipeline.blocking_client(), BlockingClient)
    assert_type(pipeline.client(), testing.Client)
    return pipeline


def transcript_of(request: Request) -> Transcript:
    return Transcript(request.id, language="en", segments=(Segment(0.0, 1.5, request.id),))


def as_the_real_ones(pipeline: ScriptedPipeline) -> list[str]:
    """The double's clients go where the real ones go."""

    async def alone() -> str:
        async with pipeline.client() as client:
            return await asynchronous(client)

    with pipeline.blocking_client() as client:
        return [asyncio.run(alone()), blockingly(client)]


def settings() -> blocking.Client:
    return blocking.Client.from_settings(load_settings(ProducerSettings), retry_timeout=5)


async def mistakes(client: Client, other: blocking.Client, pipeline: ScriptedPipeline) -> None:
    """Never run: each would be an error at run time as well."""
    await client.submit(AUDIO, langauge="en")  # type: ignore[call-arg]
    await client.submit(AUDIO, ttl="60")  # type: ignore[arg-type]
    await client.transcribe(7)  # type: ignore[arg-type]
    other.transcribe(AUDIO, timeout="soon")  # type: ignore[arg-type]
    other.submit(AUDIO, speaker="me")  # type: ignore[call-arg]
    other.wait("a").text = "other"  # type: ignore[misc]
    await other.ping()  # type: ignore[func-returns-value, misc]
    pipeline.answer(AUDIO, 7)  # type: ignore[arg-type]
    for _ in client.follow():  # type: ignore[attr-defined]
        pass
