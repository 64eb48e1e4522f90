"""Equal recordings are transcribed once; later requests are cache hits.

A result is found by the bytes of the recording, the language asked for and `itn`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from sensestream_producer import CacheUse, Client

from tests.support.clips import write_clip

pytestmark = pytest.mark.anyio


async def test_the_second_request_is_a_cache_hit(url: str, recordings: Path) -> None:
    original = write_clip(recordings, 9001)
    copy = write_clip(recordings, 9001, name="copy.wav")
    async with Client(url) as client:
        first = await client.transcribe(original)
        again = await client.transcribe(copy)
        other = await client.transcribe(original, language="en")
    assert first.cache is CacheUse.MISS
    assert again.cache is CacheUse.HIT
    assert again.text == first.text
    assert other.cache is CacheUse.MISS


async def test_a_digest_saves_the_worker(url: str, recordings: Path) -> None:
    """A submit that names the digest of known bytes carries the outcome in its receipt."""
    audio = write_clip(recordings, 9002)
    async with Client(url) as client:
        first = await client.transcribe(audio)
        receipt = await client.submit("https://example.org/a.wav", digest=first.digest)
    assert receipt.answer is not None
    assert receipt.answer.cache is CacheUse.HIT
    assert receipt.answer.text == first.text


async def test_a_ttl_of_zero_stores_nothing(url: str, recordings: Path) -> None:
    audio = write_clip(recordings, 9003)
    async with Client(url) as client:
        uses = [(await client.transcribe(audio, ttl=0)).cache for _ in range(2)]
    assert uses == [CacheUse.MISS, CacheUse.MISS]
