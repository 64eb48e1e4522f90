"""Uploads: where they wait, that they go with their outcome, and what bounds them."""

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

from tests.gateway.conftest import CLIPS, StartGateway
from tests.support.background import complete
from tests.support.clips import encoded, tone
from tests.support.gateways import GatewayProcess
from tests.support.pipeline import answer
from tests.support.waiting import wait_until_sync
from tests.support.workers import WorkerProcess

KEYS = Keys("sensestream")
JOBS = "/v1/transcriptions"
MOTO = os.environ.get("SENSESTREAM_MOTO", "")  # the folder that tools/try_s3.py installs it into


def hand_in(gateway: GatewayProcess, content: bytes, wait: float = 30) -> dict[str, Any]:
    files = {"file": ("a.wav", content)}
    answer = httpx.post(f"{gateway.url}{JOBS}?wait={wait}", files=files, timeout=60)
    assert answer.is_success, answer.text
    return dict(answer.json())


def test_a_large_upload_goes_through_redis_whole_and_is_gone_with_its_outcome(
    gateway: GatewayProcess, redis: Any
) -> None:
    content = encoded(tone(301, seconds=300))  # 9.6 MB: on disk on its way, in several pieces
    job = hand_in(gateway, content)
    assert job["status"] == "completed"
    assert job["outcome"]["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert not redis.exists(KEYS.upload(job["id"]))


def test_what_was_handed_in_twice_is_stored_once(
    own_redis: Any, start_gateway: StartGateway
) -> None:
    server: EmbeddedRedis = own_redis()
    gateway = start_gateway(server.url)

    def send() -> httpx.Response:
        files = {"file": ("a.wav", encoded(tone(302)))}
        return httpx.post(gateway.url + JOBS, files=files, data={"id": "twice"}, timeout=30)

    first, second = send(), send()
    assert (first.status_code, second.status_code) == (202, 202)
    assert second.json()["duplicate"] is True
    with server.client() as redis:
        assert redis.keys(KEYS.upload("*")) == [KEYS.upload("twice").encode()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def sharing(
    redis_executable: str, folder: Path, start_gateway: StartGateway, tmp_path_factory: Any
) -> Iterator[tuple[GatewayProcess, EmbeddedRedis]]:
    """A gateway and a worker that share a folder; and a Redis of theirs."""
    with EmbeddedRedis(executable=redis_executable) as server:
        worker = WorkerProcess(server.url, folder, tmp_path_factory.mktemp("log") / "w.log")
        gateway = start_gateway(server.url, uploads=folder)
        worker.wait_ready()
        yield gateway, server
        worker.kill()


def test_uploads_in_a_shared_folder_are_read_there_and_removed(
    sharing: tuple[GatewayProcess, EmbeddedRedis], folder: Path
) -> None:
    gateway, server = sharing
    clip = (CLIPS / "en-wideband.flac").read_bytes()
    job = hand_in(gateway, clip)
    assert (job["status"], job["outcome"]["text"]) == ("completed", "314159")
    assert job["outcome"]["audio"] == "upload:"
    assert str(folder) not in str(job)
    wait_until_sync(lambda: not list(folder.iterdir()), what="the upload removed")

    # One that nobody can read is kept, to be replayed; and its message names no path.
    failed = hand_in(gateway, b"not audio")
    assert failed["outcome"]["error"] == "audio_unreadable"
    assert str(folder) not in str(failed)
    assert len(list(folder.iterdir())) == 1
    with server.client() as redis:
        assert redis.xlen(KEYS.dead) == 1


def test_what_a_gateway_left_behind_is_removed_by_the_next(
    sharing: tuple[GatewayProcess, EmbeddedRedis], folder: Path, start_gateway: StartGateway
) -> None:
    _, server = sharing
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
def test_uploads_in_an_object_store_are_read_there_and_removed(
    own_redis: Any, start_gateway: StartGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import botocore.session

    from tests.support.stores import use_store

    server: EmbeddedRedis = own_redis()
    program = Path(__file__).parents[1] / "support" / "s3_server.py"
    with subprocess.Popen(
        [sys.executable, str(program)], env={**os.environ, "PYTHONPATH": MOTO}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as store:  # fmt: skip
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
        job = hand_in(gateway, clip)
        assert (job["status"], job["outcome"]["text"]) == ("completed", "314159")
        assert job["outcome"]["audio"] == "upload:"
        wait_until_sync(
            lambda: "Contents" not in s3.list_objects_v2(Bucket="calls"), what="removed"
        )
        worker.kill()
        gateway.terminate()
        store.stdin.close()


def test_a_recording_of_too_many_seconds_is_a_413(
    own_redis: Any, start_gateway: StartGateway
) -> None:
    """The worker's word, written by hand: a recording of hours would take them."""
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


def test_a_body_that_stops_coming_is_a_408(
    heard_redis: EmbeddedRedis, hasty: GatewayProcess
) -> None:
    head = (
        f"POST {JOBS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=20) as connection:
        connection.sendall(head.encode())
        said = b"".join(iter(lambda: connection.recv(65_536), b"")).decode()  # until it is closed
    assert said.startswith("HTTP/1.1 408")
    assert "nothing came for 0.3 seconds" in said


def test_a_head_that_stops_coming_is_cut_off(hasty: GatewayProcess) -> None:
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: local")
        assert connection.recv(1024) == b""


@pytest.fixture(scope="module")
def hasty(heard_redis: EmbeddedRedis, start_gateway: StartGateway) -> GatewayProcess:
    return start_gateway(heard_redis.url, receive_timeout=0.3)


def test_a_folder_that_is_none_is_refused_at_the_start(redis_url: str, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("sensestream")), "--redis-url", redis_url]
    for uploads, said in (
        (tmp_path / "none", "is no folder that this gateway may write to"),
        ("here", "must be redis, an absolute folder or s3://BUCKET/FOLDER"),
    ):
        done = subprocess.run(
            [*command, "gateway", "--http-port", "0", "--uploads", uploads],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 1
        assert said in done.stderr


@contextmanager
def answered_with(url: str, error: ErrorCode) -> Iterator[None]:
    """The next request is answered with this error, by nobody in particular."""

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
