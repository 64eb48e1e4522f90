"""Many recordings share one client, its connections and its pipelines."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from sensestream_producer import Client, Lane, Receipt, RequestError, Submission
from sensestream_producer.cli.demo_session import bundled_clips

pytestmark = pytest.mark.anyio


async def test_coroutines_wait_side_by_side(url: str, recordings: Path) -> None:
    clips = bundled_clips()
    async with Client(url) as client:
        outcomes = await asyncio.gather(
            *(
                client.transcribe(
                    (recordings / clip.path.name).as_uri(), language=clip.language, itn=clip.itn
                )
                for clip in clips
            )
        )
    assert [outcome.text for outcome in outcomes] == [clip.text for clip in clips]


async def test_submit_many_answers_each_in_the_order_given(url: str, recordings: Path) -> None:
    audio = (recordings / "en-telephone.wav").as_uri()
    async with Client(url) as client:
        plain, urgent, wrong = await client.submit_many(
            [
                audio,
                Submission(audio=audio, priority="high", deadline=timedelta(minutes=5)),
                Submission(audio="talk.wav"),  # a reference needs its scheme
            ]
        )
        assert isinstance(plain, Receipt)
        assert isinstance(urgent, Receipt)
        assert isinstance(wrong, RequestError)
        assert (plain.lane, urgent.lane) == (Lane.NORMAL, Lane.HIGH)
        for receipt in (plain, urgent):
            assert (await client.wait(receipt.id)).completed


async def test_the_status_of_the_pipeline_counts_them(url: str, recordings: Path) -> None:
    async with Client(url) as client:
        await client.transcribe((recordings / "en-telephone.wav").as_uri(), language="en")
        status = await client.pipeline_status()
    assert status.counters["completed"] >= 1
    assert [worker.device for worker in status.workers] == ["cpu"]
