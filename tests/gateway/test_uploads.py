"""Uploads: their stores, their removal with the outcome, and their limits."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from sensestream_common.connections.connection import connect
from sensestream_common.contract.errors import ErrorCode
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.request import Request, decode_request
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.gateway.conftest import CLIPS, JOBS, StartGateway, submit, upload
from tests.support.background import complete
from tests.support.clips import encoded, tone
from tests.support.gateways import GatewayProcess
from tests.support.pipeline import answer
from tests.support.waiting import wait_until_sync
from tests.support.workers import WorkerProcess

KEYS = Keys("sensestream")
MOTO = os.environ.get("SENSESTREAM_MOTO", "")  # the folder that tools/try_s3.py installs it into


def test_large_upload_passes_through_redis_and_is_deleted_with_its_outcome(
    gateway: GatewayProcess, redis: Any
) -> None:
    content = encoded(tone(301, seconds=300))  # 9.6 MB: on disk on its way, in several pieces
    job = submit(gateway, content)
    assert job["status"] == "completed"
    assert job["outcome"]["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert not redis.exists(KEYS.upload(job["id"]))


def test_upload_with_the_same_id_is_stored_once(
    own_redis: Any, start_gateway: StartGateway
) -> None:
    server: EmbeddedRedis = own_redis()
    gateway = start_gateway(server.url)

    def send() -> httpx.Response:
        data = {"id": "twice"}
        return httpx.post(gateway.url + JOBS, files=upload(302), data=data, timeout=30)

    first, second = send(), send()
    assert (first.status_code, second.status_code) == (202, 202)
    assert second.json()["duplicate"] is True
    with server.client() as redis:
        assert redis.keys(KEYS.upload("*")) == [KEYS.upload("twice").encode()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def folder_gateway(
    redis_executable: str, folder: Path, start_gateway: StartGateway, tmp_path_factory: Any
) -> Iterator[tuple[GatewayProcess, EmbeddedRedis]]:
    """A gateway and a worker that share a folder, and their Redis."""
    with EmbeddedRedis(executable=redis_executable) as server:
        worker = WorkerProcess(server.url, folder, tmp_path_factory.mktemp("log") / "w.log")
        gateway = start_gateway(server.url, uploads=folder)
        worker.wait_ready()
        yield gateway, server
        worker.kill()


def test_upload_in_a_shared_folder_is_read_and_removed(
    folder_gateway: tuple[GatewayProcess, EmbeddedRedis], folder: Path
) -> None:
    gateway, server = folder_gateway
    clip = (CLIPS / "en-wideband.flac").read_bytes()
    job = submit(gateway, clip)
    assert (job["status"], job["outcome"]["text"]) == ("completed", "314159")
    assert job["outcome"]["audio"] == "upload:"
    assert str(folder) not in str(job)
    wait_until_sync(lambda: not list(folder.iterdir()), what="the upload removed")

    # The upload of a dead letter is kept for a replay, and its message names no path.
    failed = submit(gateway, b"not audio")
    assert failed["outcome"]["error"] == "audio_unreadable"
    assert str(folder) not in str(failed)
    assert len(list(folder.iterdir())) == 1
    with server.client() as redis:
        assert redis.xlen(KEYS.dead) == 1


def test_next_gateway_removes_the_uploads_that_a_dead_one_left(
    folder_gateway: tuple[GatewayProcess, EmbeddedRedis], folder: Path, start_gateway: StartGateway
) -> None:
    _, server = folder_gateway
    left = folder / f"upload-{'0' * 32}"
    left.write_bytes(b"answered while no gateway lived")
    old = folder / f"upload-{'1' * 32}"
    old.write_bytes(b"answered never")
    os.utime(old, (0, 0))
    others = folder / "somebody-elses.wav"
    others.write_bytes(b"not ours")
    os.utime(others, (0, 0))
    with server.client() as redis:
        outcome: Any = {"id": "x", "entry": "1-1", "status": "completed", "audio": left.as_uri()}
        redis.xadd(KEYS.transcripts, outcome)
    start_gateway(server.url, uploads=folder)
    wait_until_sync(lambda: not left.exists() and not old.exists(), what="both removed")
    assert others.exists()


@pytest.mark.skipif(
    not MOTO, reason="moto is not installed: .venv/bin/python tools/try_s3.py installs and runs"
)
def test_upload_in_an_object_store_is_read_and_removed(
    own_redis: Any, start_gateway: StartGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import botocore.session

    from tests.support.stores import use_store

    server: EmbeddedRedis = own_redis()
    program = Path(__file__).parents[1] / "support" / "s3_server.py"
    with subprocess.Popen(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": MOTO},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as store:
        assert store.stdin
        assert store.stdout
        use_store(
            monkeypatch, next(line.strip() for line in store.stdout if line.startswith("http"))
        )
        s3: Any = botocore.session.get_session().create_client("s3")
        s3.create_bucket(Bucket="calls")
        worker = WorkerProcess(server.url, tmp_path, tmp_path / "w.log", s3_buckets="calls/in")
        gateway = start_gateway(server.url, uploads="s3://calls/in")
        worker.wait_ready()
        clip = (CLIPS / "en-wideband.flac").read_bytes()
        job = submit(gateway, clip)
        assert (job["status"], job["outcome"]["text"]) == ("completed", "314159")
        assert job["outcome"]["audio"] == "upload:"
        wait_until_sync(
            lambda: "Contents" not in s3.list_objects_v2(Bucket="calls"), what="removed"
        )
        worker.kill()
        gateway.terminate()
        store.stdin.close()


def test_recording_of_too_many_seconds_is_a_413(
    own_redis: Any, start_gateway: StartGateway
) -> None:
    """The test answers in the worker's place: a recording of hours would take too long."""
    server: EmbeddedRedis = own_redis()
    gateway = start_gateway(server.url, wait_timeout=20)
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="-", max_retries=0) as sdk,
        answered_with(server.url, ErrorCode.AUDIO_TOO_LONG),
        pytest.raises(openai.APIStatusError) as caught,
    ):
        sdk.audio.transcriptions.create(model="x", file=("a.wav", encoded(tone(303))))
    assert caught.value.status_code == 413
    assert caught.value.code == "audio_too_long"


def test_body_that_stops_coming_is_a_408(
    shared_redis: EmbeddedRedis, start_gateway: StartGateway
) -> None:
    gateway = start_gateway(shared_redis.url, receive_timeout=0.3)
    head = (
        f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(head.encode())
        response = b"".join(
            iter(lambda: connection.recv(65_536), b"")
        ).decode()  # until it is closed
    assert response.startswith("HTTP/1.1 408")
    assert "nothing came for 0.3 seconds" in response


def test_gateway_refuses_to_start_with_an_invalid_store(redis_url: str, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("sensestream")), "--redis-url", redis_url]
    for uploads, message in (
        (tmp_path / "none", "is no folder that this gateway may write to"),
        ("here", "must be redis, an absolute folder or s3://BUCKET/FOLDER"),
    ):
        flags = ["gateway", "--http-port", "0", "--uploads", uploads]
        done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert message in done.stderr


@contextmanager
def answered_with(url: str, error: ErrorCode) -> Iterator[None]:
    """Answer the next request with this error."""

    async def answer_next() -> None:
        connection = connect(url, name="test")
        news: Any = await connection.xread({KEYS.requests: "0"}, block=9_000)
        [(entry, raw)] = news[0][1]
        request = decode_request(entry.decode(), raw)
        assert isinstance(request, Request)
        await answer(connection, KEYS, entry.decode(), request, error=error)
        await connection.aclose()

    thread = threading.Thread(target=lambda: complete(answer_next()))
    thread.start()
    yield
    thread.join()
