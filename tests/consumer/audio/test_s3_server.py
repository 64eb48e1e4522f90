"""`s3://` and presigned addresses against a whole S3 server, which checks who may read what."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from redis.asyncio import Redis
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_consumer.audio import AudioPolicy, Fetched, Fetcher

from tests.support.stores import store_environment, use_store

from .conftest import UPLOADS

MOTO = os.environ.get("SENSESTREAM_MOTO", "")  # the folder that tools/try_s3.py installs it into
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not MOTO, reason="moto is not installed: .venv/bin/python tools/try_s3.py installs and runs"
    ),
]

SERVER = Path(__file__).parents[2] / "support" / "s3_server.py"
LARGE = bytes(range(256)) * 64 * 1024  # 16 MiB: more than is kept in memory
READ_CALLS = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::calls/*"}
    ],
}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server with two buckets, whose worker may read one of them."""
    environment = {**os.environ, "PYTHONPATH": MOTO}
    command = [sys.executable, str(SERVER)]
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdin
        assert server.stdout
        url = next(line.strip() for line in server.stdout if line.startswith("http://"))
        yield url
        server.stdin.close()


def client(endpoint: str, service: str, key: str = "admin", secret: str = "admin") -> Any:
    return botocore.session.get_session().create_client(
        service,
        region_name="us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )


def check_everybody(endpoint: str, after: str) -> None:
    """Let the server look up who asks, and what is allowed to them, after so many requests."""
    address = f"{endpoint}/moto-api/reset-auth"
    change = urllib.request.Request(address, after.encode(), {"Content-Type": "text/plain"})
    urllib.request.urlopen(change).close()


@pytest.fixture(scope="module")
def worker(endpoint: str) -> dict[str, str]:
    """The worker's key and secret. Whatever is asked for from here on is checked."""
    s3, iam = client(endpoint, "s3"), client(endpoint, "iam")
    for bucket in ("calls", "private"):
        s3.create_bucket(Bucket=bucket)
        s3.put_object(Bucket=bucket, Key="2026/a b.wav", Body=LARGE, ContentType="audio/wav")
    iam.create_user(UserName="worker")
    policy = json.dumps(READ_CALLS)
    iam.put_user_policy(UserName="worker", PolicyName="read", PolicyDocument=policy)
    key = iam.create_access_key(UserName="worker")["AccessKey"]
    check_everybody(endpoint, "0")
    return {"key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}


@pytest.fixture
def as_worker(monkeypatch: pytest.MonkeyPatch, endpoint: str, worker: dict[str, str]) -> None:
    use_store(monkeypatch, endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", worker["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", worker["secret"])


async def fetch(uri: str, redis: Redis) -> Fetched:
    policy = AudioPolicy(roots=(), s3_buckets=("calls", "private"), allow_private_hosts=True)
    fetcher = Fetcher(policy, redis, UPLOADS)
    try:
        return await fetcher.fetch(uri)
    finally:
        await fetcher.aclose()


@pytest.mark.usefixtures("as_worker")
async def test_a_large_object_is_read_whole(nowhere: Redis) -> None:
    with await fetch("s3://calls/2026/a b.wav", nowhere) as fetched:
        assert (fetched.size, fetched.media_type) == (len(LARGE), "audio/wav")
        assert fetched.digest == "sha256:" + hashlib.sha256(LARGE).hexdigest()


@pytest.mark.usefixtures("as_worker")
@pytest.mark.parametrize(
    ("uri", "code", "said"),
    [
        ("s3://private/2026/a b.wav", ErrorCode.AUDIO_FORBIDDEN, "AccessDenied"),
        ("s3://calls/none.wav", ErrorCode.AUDIO_NOT_FOUND, "NoSuchKey"),
    ],
)
async def test_what_the_server_refuses_says_why(
    nowhere: Redis, uri: str, code: ErrorCode, said: str
) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        await fetch(uri, nowhere)
    assert caught.value.code is code


async def test_a_stranger_is_refused(
    nowhere: Redis, endpoint: str, worker: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store_environment(endpoint).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RequestError) as caught:
        await fetch("s3://calls/2026/a b.wav", nowhere)
    assert caught.value.code is ErrorCode.AUDIO_FORBIDDEN


async def test_a_presigned_address_is_read_by_whoever_has_it(
    nowhere: Redis, endpoint: str, worker: dict[str, str]
) -> None:
    # This server knows users by header alone; without one it asks only for a signature in the URL.
    check_everybody(endpoint, "inf")
    signer = client(endpoint, "s3", worker["key"], worker["secret"])
    parameters = {"Bucket": "calls", "Key": "2026/a b.wav"}
    url = signer.generate_presigned_url("get_object", parameters, ExpiresIn=60)
    with await fetch(url, nowhere) as fetched:
        assert fetched.size == len(LARGE)
    plain = url.partition("?")[0]
    with pytest.raises(RequestError) as caught:
        await fetch(plain, nowhere)
    assert caught.value.code is ErrorCode.AUDIO_FORBIDDEN
    assert "Signature" not in caught.value.message
