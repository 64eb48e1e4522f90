"""The double against Redis, step by step: the same calls at random, the same answers.

The other tests ask for what somebody thought of; this one walks through what nobody did.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from sensestream_common.contract.keys import Keys
from sensestream_producer import (
    Client,
    DeadLetter,
    ErrorCode,
    FollowedOutcome,
    Lane,
    Outcome,
    Receipt,
    SensestreamError,
    SubmitOptions,
)
from sensestream_producer.outcomes.stream_ids import parse_id

from tests.producer.worlds import InMemory, OnRedis, World
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

IDS = ("a", "b", "c", "d")
ERRORS = (None, None, ErrorCode.AUDIO_NOT_FOUND, ErrorCode.AUDIO_EMPTY)
BACKLOG = 3
STEPS = 40


class Walker:
    """Makes one walk, and writes down what a caller sees; stream ids by order of appearance."""

    def __init__(self, world: World, client: Client, seed: int) -> None:
        self._world = world
        self._client = client
        self._random = random.Random(seed)
        self._names: dict[str, str] = {}
        self._recordings = 0

    async def walk(self) -> list[Any]:
        steps: list[Callable[[], Any]] = [
            self.submit,
            self.submit,
            self.upload,
            self.answer,
            self.status,
            self.replay,
            self.purge,
            self.forget,
        ]
        seen = []
        for _ in range(STEPS):
            step = self._random.choice(steps)
            try:
                seen.append((step.__name__, await step(), await self.pipeline()))
            except SensestreamError as error:
                seen.append((step.__name__, type(error).__name__, await self.pipeline()))
        return [*seen, await self.letters(), await self.outcomes()]

    async def submit(self) -> Any:
        options: SubmitOptions = {
            "id": self._random.choice(IDS),
            "priority": self._random.choice(("normal", "high")),
        }
        if self._random.random() < 0.2:
            options["deadline"] = timedelta(hours=1)
        audio = f"file:///data/{self.another()}.wav"
        return self.receipt(await self._client.submit(audio, **options))

    async def upload(self) -> Any:
        content = f"recording {self.another()}".encode()
        receipt = await self._client.submit_file(content, id=self._random.choice(IDS))
        return self.receipt(receipt)

    async def answer(self) -> None:
        """Everything that waits, in one go: which of it comes first is the workers' business."""

        async def nothing_waits() -> bool:
            status = await self._client.pipeline_status()
            return status.backlog + status.backlog_high == 0

        async with self._world.answering(text="hello", error=self._random.choice(ERRORS)):
            await wait_until(nothing_waits)

    async def status(self) -> Any:
        status = await self._client.status(self._random.choice(IDS))
        if status is None:
            return None
        outcome = self.outcome(status.outcome) if status.outcome else None
        return (
            status.state,
            self.name(status.entry, status.lane),
            status.lane,
            status.status,
            outcome,
        )

    async def replay(self) -> Any:
        letters = await self.standing_letters()
        if not letters:
            return None
        letter = self._random.choice(letters)
        return letter.id, (await self._client.dead.replay(letter)).result

    async def purge(self) -> Any:
        letters = await self.standing_letters()
        return [await self._client.dead.purge(letter) for letter in letters[:1]]

    async def forget(self) -> None:
        if await self._client.position() != "0-0":
            await self._world.forget_outcomes()

    async def pipeline(self) -> Any:
        status = await self._client.pipeline_status()
        counts = (status.backlog, status.backlog_high, status.transcripts, status.dead)
        return *counts, status.counters

    async def letters(self) -> Any:
        found = await self.standing_letters()
        return [(letter.id, letter.error, letter.lane, letter.audio) for letter in found]

    async def standing_letters(self) -> list[DeadLetter]:
        """By request, oldest first: one id has one request at a time."""
        letters = [letter async for letter in self._client.dead.select()]
        return sorted(letters, key=lambda letter: (letter.id, parse_id(letter.letter)))

    async def outcomes(self) -> Any:
        kept = (await self._client.pipeline_status()).transcripts
        found: list[Any] = []
        async with aclosing(self._client.follow("0")) as events:
            while len(found) < kept:
                event = await anext(events)
                assert isinstance(event, FollowedOutcome)
                found.append(self.outcome(event.outcome))
        return sorted(found)

    def receipt(self, receipt: Receipt) -> Any:
        about = (receipt.id, receipt.lane, receipt.duplicate, receipt.state, receipt.status)
        return self.name(receipt.entry, receipt.lane), bool(receipt.outcome), *about

    def outcome(self, outcome: Outcome) -> Any:
        error = outcome.error.value if outcome.error else ""
        return outcome.id, outcome.status.value, outcome.text, error, outcome.audio

    def another(self) -> int:
        """Never the same recording: the answers on Redis come without a cache."""
        self._recordings += 1
        return self._recordings

    def name(self, entry: str, lane: Lane) -> str:
        """Two lanes may give one stream id in the same millisecond."""
        return self._names.setdefault(f"{lane} {entry}", f"entry {len(self._names)}")


@pytest.mark.parametrize("seed", range(12))
async def test_both_pipelines_answer_the_same_calls_alike(
    redis: Redis, redis_url: str, seed: int
) -> None:
    worlds: tuple[World, World] = (
        OnRedis(redis_url, redis, Keys("sensestream"), Client),
        InMemory(blocking_client=False),
    )
    walks = []
    for world in worlds:
        async with world.client(max_backlog=BACKLOG) as client:
            walks.append(await Walker(world, client, seed).walk())
    on_redis, in_memory = walks
    for number, (real, double) in enumerate(zip(on_redis, in_memory, strict=True)):
        assert double == real, f"step {number} of the walk {seed}"
