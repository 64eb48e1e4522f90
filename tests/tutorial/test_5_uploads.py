"""Files that no worker can open are uploaded; the commit of the outcome deletes their bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from sensestream_producer import Client, ErrorCode, RequestError

pytestmark = pytest.mark.anyio


async def test_a_file_is_uploaded(url: str, recordings: Path) -> None:
    async with Client(url) as client:
        outcome = await client.transcribe(recordings / "ja-small.mp3", language="ja")  # a Path
    assert outcome.text == "3685412"


async def test_bytes_are_uploaded(url: str, recordings: Path) -> None:
    content = (recordings / "yue-cd.flac").read_bytes()
    async with Client(url) as client:
        receipt = await client.submit_file(content, language="yue")
        outcome = await client.wait(receipt.id)
    assert outcome.text == "4196350"


async def test_a_file_above_the_limit_is_refused(url: str, recordings: Path) -> None:
    async with Client(url, max_upload_bytes=1000) as client:
        with pytest.raises(RequestError) as refused:
            await client.submit_file(recordings / "yue-cd.flac")
    assert refused.value.code is ErrorCode.AUDIO_TOO_LARGE
