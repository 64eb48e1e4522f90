"""`ScriptedPipeline` is a pipeline in memory: a service's tests need no Redis, worker or model."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sensestream_producer import CacheUse, ErrorCode, Segment, WaitTimeout, blocking
from sensestream_producer.testing import ScriptedPipeline, Transcript


def subject_of(client: blocking.Client, audio: str) -> str:
    """A function of the service under test, which takes a client."""
    outcome = client.transcribe(audio, language="en")
    return outcome.text.partition(",")[0] if outcome.completed else "unknown"


def test_answers_are_scripted_by_recording() -> None:
    pipeline = ScriptedPipeline(default="hello, world")
    pipeline.answer("file:///calls/7.wav", "invoice, of march")
    pipeline.answer("file:///calls/8.wav", ErrorCode.AUDIO_NOT_FOUND)
    with pipeline.blocking_client() as client:
        assert subject_of(client, "file:///calls/1.wav") == "hello"
        assert subject_of(client, "file:///calls/7.wav") == "invoice"
        assert subject_of(client, "file:///calls/8.wav") == "unknown"
    assert [request.audio for request in pipeline.transcribed][:1] == ["file:///calls/1.wav"]


def test_an_answer_may_be_a_whole_transcript() -> None:
    pipeline = ScriptedPipeline()
    segments = (Segment(0.0, 0.8, "good"), Segment(1.0, 1.9, "morning"))
    pipeline.answer(b"RIFF", Transcript("good morning", language="en", segments=segments))
    with pipeline.blocking_client() as client:
        outcome = client.transcribe(b"RIFF")
    assert outcome.segments == segments


def test_it_caches_waits_and_lets_time_pass_as_the_real_one() -> None:
    pipeline = ScriptedPipeline(default="hello")
    with pipeline.blocking_client() as client:
        assert client.transcribe("file:///a.wav", ttl=60).cache is CacheUse.MISS
        assert client.transcribe("file:///a.wav").cache is CacheUse.HIT
        with pipeline.recogniser_busy(), pytest.raises(WaitTimeout):
            client.transcribe("file:///b.wav", id="slow", timeout=0.01)
        assert client.wait("slow").text == "hello"
        with pipeline.workers_away():
            client.submit("file:///c.wav", id="late", deadline=timedelta(minutes=1))
            pipeline.advance(timedelta(hours=1))
        assert client.wait("late").error is ErrorCode.EXPIRED
