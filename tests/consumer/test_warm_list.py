"""The warm list: its file, and its queueing once for each recogniser."""

from __future__ import annotations

from pathlib import Path

import pytest
from sensestream_common.contract.errors import SettingsError
from sensestream_common.settings import load_settings
from sensestream_consumer.cache.warm_up import warm_up
from sensestream_consumer.settings import WorkerSettings
from sensestream_consumer.warm_list import WarmUp, read_warm_list

from tests.consumer.conftest import KEYS, MakeParts

pytestmark = pytest.mark.anyio


def test_a_line_names_a_recording_and_how_it_will_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(
        "# the greetings\n\n"
        "hello.wav en\n"
        "/srv/other.wav\n"
        "https://example.org/a.mp3?x=1 no-itn zh\n"
        "redis:prompt auto itn\n"
    )
    assert read_warm_list(path) == (
        WarmUp(f"file://{tmp_path}/hello.wav", "en", "1"),
        WarmUp("file:///srv/other.wav", "auto", "1"),
        WarmUp("https://example.org/a.mp3?x=1", "zh", "0"),
        WarmUp("redis:prompt", "auto", "1"),
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a.wav en\nb.wav english\n", "line 2: 'english' is neither a language"),
        (b"\xff\xfe", "cannot be read as text"),
        (b"a.wav\n" * 10_001, "more than 10000"),
    ],
)
def test_a_bad_list_is_refused_at_the_start(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=told) as caught:
        load_settings(WorkerSettings, warm_list=str(path))
    assert "SENSESTREAM_WARM_LIST" in str(caught.value)


def test_a_list_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.txt cannot be read"):
        load_settings(WorkerSettings, warm_list=str(tmp_path / "none.txt"))


async def test_a_list_is_queued_once_for_each_recogniser(make_parts: MakeParts) -> None:
    parts = make_parts("one")
    wanted = (WarmUp("file:///a.wav", "en"), WarmUp("file:///b.wav"))
    for fingerprint in ("first", "first", "second"):
        await warm_up(parts.broker, fingerprint, wanted, 60)
    entries = [fields for _, fields in await parts.redis.xrange(KEYS.requests)]
    assert [fields[b"audio"] for fields in entries] == [b"file:///a.wav", b"file:///b.wav"] * 2
    assert (entries[0][b"language"], entries[0][b"itn"]) == (b"en", b"1")
    assert entries[0][b"metadata"] == b'{"warm": true}'
    for key in await parts.redis.keys(KEYS.warmed("*")):
        assert 0 < await parts.redis.ttl(key) <= 60
