"""A request that cannot be answered has a failed outcome; one that a person can fix, a dead letter.

The letter keeps the request whole. A replay queues it again, and removes the letter, in one step.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from sensestream_producer import Client, DeadLetterFilter, ErrorCode, Replay, Status, WaitTimeout

from tests.support.clips import encoded, tone

pytestmark = pytest.mark.anyio


async def test_a_missing_file_is_put_right_and_replayed(url: str, recordings: Path) -> None:
    late = recordings / "late.wav"
    async with Client(url) as client:
        failed = await client.transcribe(late.as_uri(), id="late")
        assert failed.status is Status.FAILED
        assert failed.error is ErrorCode.AUDIO_NOT_FOUND
        assert failed.message  # names the file, for people

        selection = DeadLetterFilter(ids=frozenset({"late"}))
        [letter] = [letter async for letter in client.dead.select(selection)]
        assert letter.audio == late.as_uri()

        late.write_bytes(encoded(tone(9004)))
        replayed = await client.dead.replay(letter)
        assert replayed.result is Replay.QUEUED
        assert (await client.wait("late")).status is Status.COMPLETED
        assert (await client.dead.replay(letter)).result is Replay.NOT_FOUND


async def test_an_error_without_a_fix_leaves_no_letter(url: str, recordings: Path) -> None:
    empty = recordings / "empty.wav"
    empty.touch()
    async with Client(url) as client:
        outcome = await client.transcribe(empty.as_uri(), id="empty")
        assert outcome.error is ErrorCode.AUDIO_EMPTY
        selection = DeadLetterFilter(ids=frozenset({"empty"}))
        assert [letter async for letter in client.dead.select(selection)] == []


async def test_a_wait_that_ends_too_soon_can_be_repeated(url: str, recordings: Path) -> None:
    async with Client(url) as client:
        with pytest.raises(WaitTimeout):
            await client.wait("not-submitted-yet", timeout=0.05)
        await client.submit((recordings / "ko-opus.ogg").as_uri(), id="not-submitted-yet")
        assert (await client.wait("not-submitted-yet", timeout=30)).completed
