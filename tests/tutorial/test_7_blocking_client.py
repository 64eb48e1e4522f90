"""Code without an event loop uses `blocking.Client`: the same verbs, arguments and errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from sensestream_producer import FollowedOutcome, blocking


def test_a_recording_becomes_text(url: str, recordings: Path) -> None:
    with blocking.Client(url) as client:
        outcome = client.transcribe(recordings / "en-telephone.wav", language="en")
    assert outcome.text == "7305826"


def test_threads_share_one_client(url: str, recordings: Path) -> None:
    names = ["zh-stereo.mp3", "yue-cd.flac", "ja-small.mp3"]
    languages = ["zh", "yue", "ja"]
    with blocking.Client(url) as client, ThreadPoolExecutor() as pool:
        outcomes = pool.map(
            lambda name, language: client.transcribe(recordings / name, language=language),
            names,
            languages,
        )
        assert [each.text for each in outcomes] == ["20481357", "4196350", "3685412"]


def test_outcomes_are_followed_in_a_for_loop(url: str, recordings: Path) -> None:
    with blocking.Client(url) as client:
        start = client.position()
        client.transcribe(recordings / "en-telephone.wav", id="blocking", language="en")
        with closing(client.follow(start)) as events:
            event = next(events)
    assert isinstance(event, FollowedOutcome)
    assert event.outcome.id == "blocking"
