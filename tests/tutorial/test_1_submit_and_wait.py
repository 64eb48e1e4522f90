"""A client submits a request with a reference to a recording; a worker opens it and answers.

The recording stays where it is: only its reference, such as `file:///data/a.wav`, is sent.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from sensestream_producer import Client, RequestError, Status

pytestmark = pytest.mark.anyio


async def test_a_recording_becomes_text(url: str, recordings: Path) -> None:
    audio = (recordings / "en-telephone.wav").as_uri()
    async with Client(url) as client:
        outcome = await client.transcribe(audio, language="en")
    assert outcome.status is Status.COMPLETED
    assert outcome.text == "7305826"
    assert outcome.language == "en"


async def test_words_have_times(url: str, recordings: Path) -> None:
    audio = (recordings / "en-wideband.wav").as_uri()
    async with Client(url) as client:
        outcome = await client.transcribe(audio, language="en", itn=False)  # words as spoken
    [segment] = outcome.segments
    assert segment.text == "three one four one five nine"
    assert [word.text for word in segment.words][:2] == ["three", "one"]
    assert 0 <= segment.words[0].start < segment.words[0].end <= segment.words[1].start


async def test_submit_returns_at_once_and_wait_later(url: str, recordings: Path) -> None:
    audio = (recordings / "zh-stereo.mp3").as_uri()
    async with Client(url) as client:
        receipt = await client.submit(audio, language="zh", metadata={"ticket": 7})
        outcome = await client.wait(receipt.id, timeout=30)
    assert outcome.entry == receipt.entry
    assert outcome.text == "20481357"
    assert outcome.metadata == '{"ticket":7}'


async def test_an_id_makes_a_second_submit_harmless(url: str, recordings: Path) -> None:
    audio = (recordings / "en-telephone.wav").as_uri()
    async with Client(url) as client:
        first = await client.submit(audio, id="call-1", language="en")
        again = await client.submit(audio, id="call-1", language="en")
        assert (first.duplicate, again.duplicate) == (False, True)
        assert again.entry == first.entry
        assert (await client.wait("call-1")).text == "7305826"


async def test_a_wrong_value_is_refused_before_anything_is_sent(url: str) -> None:
    async with Client(url) as client:
        with pytest.raises(RequestError, match="klingon"):
            await client.submit("file:///data/a.wav", language="klingon")
