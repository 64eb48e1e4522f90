"""Outcomes stay in a stream: a follower reads them all from any position, of any submitter.

Keep the position of each outcome that is dealt with. Handed in again after a restart, it goes on
behind that outcome; where outcomes were trimmed meanwhile, a `Gap` comes first.
"""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest
from sensestream_producer import Client, FollowedOutcome

pytestmark = pytest.mark.anyio


async def follow(client: Client, position: str, count: int) -> list[FollowedOutcome]:
    """The next `count` outcomes behind a position."""
    followed: list[FollowedOutcome] = []
    async with aclosing(client.follow(position)) as events:
        async for event in events:
            assert isinstance(event, FollowedOutcome)  # and no Gap
            followed.append(event)
            if len(followed) == count:
                break
    return followed


async def test_a_follower_resumes_at_a_kept_position(url: str, recordings: Path) -> None:
    audio = (recordings / "ko-opus.ogg").as_uri()
    async with Client(url) as client:
        start = await client.position()
        for name in ("first", "second", "third"):
            await client.transcribe(audio, id=f"follow-{name}", language="ko")

        [first] = await follow(client, start, 1)
        assert first.outcome.id == "follow-first"
        kept = first.position  # in a file or a database

        rest = await follow(client, kept, 2)
        assert [each.outcome.id for each in rest] == ["follow-second", "follow-third"]
