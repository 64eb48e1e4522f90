"""`s3://`: what may be read, how much of it, and what each failure of a store becomes.

The store here is a site on loopback whose answers are written byte by byte: a real one does not
throttle or break off when a test asks it to. `test_s3_server` asks a whole S3 server.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sensestream_common.contract.errors import (
    ErrorCode,
    RequestError,
    SettingsError,
    TransientError,
)
from sensestream_common.settings import load_settings
from sensestream_consumer.audio import AudioPolicy, Fetched, parse_reference
from sensestream_consumer.audio.sources.s3 import S3
from sensestream_consumer.settings import WorkerSettings

from tests.support.stores import use_store
from tests.support.waiting import wait_until

from .site import Site, answer

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """An endpoint whose objects are the pages `/bucket/key`."""
    use_store(monkeypatch, site.url(""))
    return site


@contextmanager
def opened(*buckets: str, **limits: Any) -> Iterator[S3]:
    s3 = S3(AudioPolicy(roots=(), s3_buckets=buckets, **limits))
    try:
        yield s3
    finally:
        s3.close()


async def fetch(uri: str, *buckets: str, **limits: Any) -> Fetched:
    with opened(*(buckets or ("calls",)), **limits) as s3:
        return await s3.open(parse_reference(uri))


async def refused(s3: S3, uri: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        (await s3.open(parse_reference(uri))).close()
    return caught.value


async def refusal(uri: str, *buckets: str, **limits: Any) -> RequestError:
    with opened(*(buckets or ("calls",)), **limits) as s3:
        return await refused(s3, uri)


def no(code: str, status: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>x</Message></Error>"
    return answer(body.encode(), status, Content_Type="application/xml")


async def test_an_object_is_copied_and_hashed_with_the_workers_own_credentials(store: Site) -> None:
    data = bytes(range(256)) * 1024
    store.pages["/calls/2026/a%20b.wav"] = answer(data, Content_Type="Audio/WAV; charset=x")
    with await fetch("s3://calls/2026/a b.wav") as fetched:
        assert fetched.digest == "sha256:" + hashlib.sha256(data).hexdigest()
        assert (fetched.size, fetched.media_type) == (len(data), "audio/wav")
        assert fetched.file.read() == data
    assert "Credential=worker/" in store.requests[0]


ANSWERS = [
    ("NoSuchKey", "404 Not Found", ErrorCode.AUDIO_NOT_FOUND, False),
    ("NoSuchBucket", "404 Not Found", ErrorCode.AUDIO_NOT_FOUND, False),
    ("AccessDenied", "403 Forbidden", ErrorCode.AUDIO_FORBIDDEN, False),
    ("InvalidAccessKeyId", "403 Forbidden", ErrorCode.AUDIO_FORBIDDEN, False),
    ("SlowDown", "503 Slow Down", ErrorCode.AUDIO_UNAVAILABLE, True),
    ("InternalError", "500 Internal Server Error", ErrorCode.AUDIO_UNAVAILABLE, True),
    ("TooManyRequests", "429 Too Many Requests", ErrorCode.AUDIO_UNAVAILABLE, True),
    ("RequestTimeout", "400 Bad Request", ErrorCode.AUDIO_UNAVAILABLE, True),
    ("ExpiredToken", "400 Bad Request", ErrorCode.AUDIO_UNAVAILABLE, True),
    ("InvalidRequest", "400 Bad Request", ErrorCode.AUDIO_UNAVAILABLE, False),
    ("PermanentRedirect", "301 Moved Permanently", ErrorCode.AUDIO_UNAVAILABLE, False),
]


async def test_what_a_store_answers_instead_becomes_a_code_of_the_contract(store: Site) -> None:
    with opened("calls") as s3:
        for code, status, expected, transient in ANSWERS:
            store.pages["/calls/a.wav"] = no(code, status)
            error = await refused(s3, "s3://calls/a.wav")
            assert (error.code, isinstance(error, TransientError)) == (expected, transient), code
            assert f"s3://calls/a.wav: the store answered {status[:3]} ({code})" in error.message
    gets = [request for request in store.requests if request.startswith("GET /calls/a.wav")]
    assert len(gets) == len(ANSWERS), "it tries again by itself, and multiplies the worker's tries"


async def test_an_object_beyond_the_limit_is_refused_by_its_length_or_on_the_way(
    store: Site,
) -> None:
    store.pages["/calls/told"] = answer(b"x", length=101)
    store.pages["/calls/untold"] = answer(b"x" * 101, length=-1)
    store.pages["/calls/just"] = answer(b"x" * 100)
    with opened("calls", max_bytes=100) as s3:
        for key in ("told", "untold"):
            error = await refused(s3, f"s3://calls/{key}")
            assert error.code is ErrorCode.AUDIO_TOO_LARGE
        with await s3.open(parse_reference("s3://calls/just")) as fetched:
            assert fetched.size == 100


async def test_a_store_that_breaks_off_or_is_away_may_be_tried_again(
    store: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.pages["/calls/a.wav"] = answer(b"x" * 10, length=20)
    broken = await refusal("s3://calls/a.wav")
    use_store(monkeypatch, "http://127.0.0.1:1")
    away = await refusal("s3://calls/a.wav")
    for error in (broken, away):
        assert isinstance(error, TransientError)
        assert error.code is ErrorCode.AUDIO_UNAVAILABLE


async def test_a_fetch_as_a_whole_has_its_time_and_leaves_no_thread_behind(store: Site) -> None:
    stalled = asyncio.Event()

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"", length=1 << 28))
        while not stalled.is_set():  # never a pause as long as the limit
            writer.write(b"x" * 16_384)
            await writer.drain()
            await asyncio.sleep(0.01)

    store.pages["/calls/a.wav"] = drip
    error = await refusal("s3://calls/a.wav", fetch_timeout=1.5)
    assert isinstance(error, TransientError)
    assert "within 1.5 seconds" in error.message
    await wait_until(lambda: not any(t.name.startswith("s3_") for t in threading.enumerate()))
    stalled.set()


@pytest.mark.parametrize(
    ("uri", "buckets"),
    [
        ("s3://calls/a.wav", ()),
        ("s3://other/a.wav", ("calls",)),
        ("s3://calls-2/a.wav", ("calls",)),
        ("s3://calls/b/a.wav", ("calls/a", "other")),
        ("s3://calls/ab/c.wav", ("calls/a",)),
        ("s3://calls/a", ("calls/a/",)),
        ("s3://calls/a/../b.wav", ("calls/a",)),
        ("s3://calls/../other/b.wav", ("*",)),
    ],
)
async def test_only_the_buckets_named_may_be_read(
    store: Site, uri: str, buckets: tuple[str, ...]
) -> None:
    with opened(*buckets) as s3:
        error = await refused(s3, uri)
    assert error.code is ErrorCode.AUDIO_FORBIDDEN
    assert "SENSESTREAM_S3_BUCKETS is" in error.message
    assert store.requests == []


@pytest.mark.parametrize("entry", ["*", "calls/", "calls/a", "calls/a/b/"])
async def test_a_bucket_a_folder_or_everything_may_be_opened(store: Site, entry: str) -> None:
    store.pages["/calls/a/b/c.wav"] = answer(b"sound")
    with await fetch("s3://calls/a/b/c.wav", "other", entry) as fetched:
        assert fetched.size == 5


@pytest.mark.parametrize(
    "uri",
    [
        "s3:calls/a",
        "s3://calls",
        "s3://calls/",
        "s3:///a",
        "s3://key:secret@calls/a.wav",
        "s3://127.0.0.1:9000/calls/a.wav",
    ],
)
async def test_a_reference_that_names_no_object_is_a_bad_request(store: Site, uri: str) -> None:
    error = await refusal(uri, "*")
    assert error.code is ErrorCode.BAD_REQUEST
    assert "s3://bucket/" in error.message
    assert "secret" not in error.message


async def test_a_bucket_that_cannot_be_one_is_a_bad_request(store: Site) -> None:
    assert (await refusal("s3://no bucket/a.wav", "*")).code is ErrorCode.BAD_REQUEST


async def test_a_worker_without_the_extra_says_which(
    store: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)  # as if it were not installed
    error = await refusal("s3://calls/a.wav")
    assert error.code is ErrorCode.BAD_REQUEST
    assert "consumer[s3]" in error.message


async def test_a_worker_without_credentials_or_with_a_wrong_endpoint_says_so(
    store: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    error = await refusal("s3://calls/a.wav")
    assert error.code is ErrorCode.AUDIO_UNAVAILABLE
    assert "AWS_ENDPOINT_URL" in error.message
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url(""))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    error = await refusal("s3://calls/a.wav")
    assert error.code is ErrorCode.AUDIO_FORBIDDEN
    assert "no credentials" in error.message


def test_the_setting_takes_buckets_folders_and_everything_and_nothing_else() -> None:
    settings = load_settings(WorkerSettings, s3_buckets=" calls, s3://old/2026/ ,*")
    assert settings.s3_buckets == ("calls", "old/2026/", "*")
    for wrong in ("/calls", "https://calls", "*/a", "a"):
        with pytest.raises(SettingsError, match=r"SENSESTREAM_S3_BUCKETS=.*is not a bucket"):
            load_settings(WorkerSettings, s3_buckets=wrong)


KEYS = {"AccessKeyId": "role", "SecretAccessKey": "s", "Token": "t"}
ROLE = json.dumps({"Code": "Success", "Expiration": "2100-01-01T00:00:00Z", **KEYS}).encode()


async def test_credentials_come_from_the_usual_places(
    store: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile in ~/.aws, with the endpoint; a container's role; a machine's role."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    profile = "[profile calls]\naws_access_key_id = file\naws_secret_access_key = s\n"
    (tmp_path / "config").write_text(f"{profile}endpoint_url = {store.url('')}\n")
    store.pages["/calls/a.wav"] = answer(b"sound")
    store.pages["/container"] = answer(ROLE)
    store.pages["/latest/api/token"] = answer(b"token", X_Aws_Ec2_Metadata_Token_Ttl_Seconds="60")
    roles = "/latest/meta-data/iam/security-credentials/"
    store.pages |= {roles: answer(b"worker"), f"{roles}worker": answer(ROLE)}
    for environment, key in (
        ({"AWS_CONFIG_FILE": f"{tmp_path}/config", "AWS_PROFILE": "calls"}, "file"),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": store.url("/container")}, "role"),
        (
            {
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": store.url("/"),
                "AWS_EC2_METADATA_DISABLED": "false",
            },
            "role",
        ),
    ):
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", "" if key == "file" else store.url(""))
            for name, value in environment.items():
                patch.setenv(name, value)
            with await fetch("s3://calls/a.wav") as fetched:
                assert fetched.size == 5
        assert f"Credential={key}/" in store.requests[-1]
    assert any(f"GET {roles}worker" in request for request in store.requests)
