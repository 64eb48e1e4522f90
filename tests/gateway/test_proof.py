"""The gateway as a whole: every door says the same, and neither a crowd, nor somebody who holds its
connections, nor its own end costs anybody an answer.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import resource
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from redis import Redis
from sensestream_common.contract.keys import Keys
from sensestream_producer.gateway.server import Gateway
from sensestream_producer.gateway.settings import GatewaySettings
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.gateway.conftest import CLIPS, StartGateway
from tests.support.background import answered
from tests.support.clips import encoded, tone
from tests.support.gateways import GatewayProcess
from tests.support.waiting import wait_until_sync

KEYS = Keys("sensestream")
CROWD = 1000
SLOW = 50


def by_sdk(gateway: GatewayProcess, clip: Path) -> str:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused") as client:
        return client.audio.transcriptions.create(model="whisper-1", file=clip, language="en").text


def by_curl(gateway: GatewayProcess, clip: Path) -> str:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl on this machine")
    url = f"{gateway.url}/v1/audio/transcriptions"
    form = ["-F", f"file=@{clip}", "-F", "language=en"]
    done = subprocess.run([curl, "-sS", *form, url], capture_output=True, check=True)
    return str(json.loads(done.stdout)["text"])


def by_job(gateway: GatewayProcess, clip: Path) -> str:
    files, data = {"file": clip.read_bytes()}, {"language": "en"}
    url = f"{gateway.url}/v1/transcriptions?wait=30"
    return str(httpx.post(url, files=files, data=data, timeout=60).json()["outcome"]["text"])


def by_the_tutorials_route(gateway: GatewayProcess, clip: Path) -> str:
    files, data = {"file": clip.read_bytes()}, {"language": "en", "use_itn": "true"}
    answer = httpx.post(f"{gateway.url}/api/transcribe", files=files, data=data, timeout=60).json()
    return re.sub(r"<\|[^|]*\|>", "", answer["data"])


def by_xadd(redis: Redis, clip: Path) -> str:
    audio = f"data:audio/flac;base64,{base64.b64encode(clip.read_bytes()).decode()}"
    entry = redis.xadd(KEYS.requests, {"audio": audio, "language": "en"})
    assert isinstance(entry, bytes)

    def mine() -> dict[bytes, bytes]:
        outcomes: Any = redis.xrevrange(KEYS.transcripts, count=50)
        return next((fields for _, fields in outcomes if fields[b"entry"] == entry), {})

    return wait_until_sync(mine)[b"text"].decode()


def test_the_same_recording_says_the_same_by_every_door(
    gateway: GatewayProcess, redis: Redis
) -> None:
    clip = next(iter(sorted(CLIPS.glob("*en*.flac"))))
    doors = [by_sdk, by_curl, by_job, by_the_tutorials_route]
    texts = [door(gateway, clip) for door in doors] + [by_xadd(redis, clip)]
    assert texts[0]
    assert texts == [texts[0]] * len(texts)


def test_an_answer_does_not_wait_for_its_head_to_be_acknowledged() -> None:
    gateway = Gateway(GatewaySettings(http_port=0))
    gateway.listen()
    listening = gateway._socket
    assert listening is not None
    with listening, socket.create_connection(listening.getsockname()[:2]):
        accepted, _ = listening.accept()
        with accepted:
            # What asyncio looks for before it sets TCP_NODELAY on what a server has accepted.
            assert accepted.proto == socket.IPPROTO_TCP


def test_sigterm_finishes_what_is_under_way(
    own_redis: Any, start_gateway: StartGateway, tmp_path: Path
) -> None:
    server: EmbeddedRedis = own_redis()
    gateway = start_gateway(server.url)
    sdk = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0)
    with server.client() as redis, ThreadPoolExecutor() as pool:
        call = sdk.audio.transcriptions.create
        waiting = pool.submit(call, model="whisper-1", file=("a.wav", encoded(tone(1))))
        wait_until_sync(lambda: redis.xlen(KEYS.requests))
        gateway.process.send_signal(signal.SIGTERM)
        wait_until_sync(lambda: gateway.logged("stopping"))
        with answered(server.url, KEYS, text="in time"):
            assert waiting.result(30).text == "in time"
        assert gateway.process.wait(20) == 0
        # Nobody new is let in meanwhile, and is told so at once.
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{gateway.url}/health")


@pytest.mark.long
def test_a_crowd_is_served_beside_those_who_hold_connections_and_send_nothing(
    gateway: GatewayProcess, worker: object
) -> None:
    """A thousand at once, each on a connection of its own, all with what was heard before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4 * CROWD:
        pytest.skip(f"this machine lets a process open {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4 * CROWD), hard))
    recording = encoded(tone(901))
    expected = httpx.post(
        f"{gateway.url}/v1/audio/transcriptions", files={"file": recording}, timeout=60
    ).json()
    answers = asyncio.run(crowd(gateway.port, request(recording)))
    assert [head.split(b" ")[1] for head, _ in answers] == [b"200"] * CROWD
    assert all(json.loads(body) == expected for _, body in answers)
    assert gateway.process.poll() is None
    assert not gateway.logged("request_failed")


def request(recording: bytes) -> bytes:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        + recording + b"\r\n--x--\r\n"
    )  # fmt: skip
    head = (
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def crowd(port: int, whole: bytes) -> list[tuple[bytes, bytes]]:
    """Head and body of every answer, with the slow ones there from before to after."""
    slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(SLOW)]
    for _, writer in slow:
        writer.write(b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: loc")

    async def one() -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(whole)
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return head, body

    answers = await asyncio.gather(*(one() for _ in range(CROWD)))
    for _, writer in slow:
        writer.close()
    return answers
