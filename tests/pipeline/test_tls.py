"""A Redis that speaks TLS: worker and client reach it by `rediss://`, and check its certificate."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from sensestream_common.contract.errors import RedisUnavailable, SensestreamError
from sensestream_producer import Client
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.pipeline.conftest import StartWorker
from tests.support.certificate import CERTIFICATE
from tests.support.clips import write_clip

pytestmark = pytest.mark.anyio


def no_tls(executable: str) -> None:
    reason = f"{executable} is built without TLS; tools/try_servers.py brings a Redis that has it"
    if os.environ.get("SENSESTREAM_TESTS_NEED_TLS"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def tls_url(redis_executable: str, own_redis: Callable[..., EmbeddedRedis]) -> str:
    # A port that is none: a server that knows TLS complains of the value, others of the name.
    asked = subprocess.run([redis_executable, "--tls-port", "none"], capture_output=True, text=True)
    if "Bad directive" in asked.stdout + asked.stderr:
        no_tls(redis_executable)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        own_redis(
            tcp=True,
            password="s3cret",
            config={
                "tls-port": str(port),
                "tls-cert-file": str(CERTIFICATE),
                "tls-key-file": str(CERTIFICATE),
                "tls-ca-cert-file": str(CERTIFICATE),
                "tls-auth-clients": "no",
            },
        )
    except SensestreamError as error:
        if "Failed finding TLS support" not in str(error):  # a Valkey that lacks its TLS module
            raise
        no_tls(redis_executable)
    return f"rediss://:s3cret@localhost:{port}/0"


async def test_a_request_is_answered_over_tls(
    tls_url: str, start_worker: StartWorker, clips: Path
) -> None:
    trusting = f"{tls_url}?ssl_ca_certs={CERTIFICATE}"
    start_worker(url=trusting)
    async with Client(trusting) as client:
        outcome = await client.transcribe(write_clip(clips, 1))
    assert outcome.completed


async def test_an_untrusted_certificate_is_refused_with_its_reason(
    tls_url: str,
) -> None:
    async with Client(tls_url, retry_timeout=0) as client:
        with pytest.raises(RedisUnavailable, match=r"(?i)certificate verify failed") as refused:
            await client.submit("file:///data/a.wav")
    assert "s3cret" not in str(refused.value)
