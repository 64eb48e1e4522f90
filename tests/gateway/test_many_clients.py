"""A thousand clients at once, beside others that hold connections and send nothing."""

from __future__ import annotations

import asyncio
import json
import resource

import httpx
import pytest

from tests.gateway.conftest import TRANSCRIBE
from tests.support.clips import encoded, tone
from tests.support.gateways import GatewayProcess

CLIENTS = 1000
IDLE_CLIENTS = 50


@pytest.mark.long
def test_thousand_clients_are_answered_beside_idle_connections(
    gateway: GatewayProcess, worker: object
) -> None:
    """Each client has a connection of its own, and sends a recording that is cached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4 * CLIENTS:
        pytest.skip(f"this machine lets a process open {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4 * CLIENTS), hard))
    recording = encoded(tone(901))
    expected = httpx.post(gateway.url + TRANSCRIBE, files={"file": recording}, timeout=60).json()
    answers = asyncio.run(send_all(gateway.port, encode_upload(recording)))
    assert [head.split(b" ")[1] for head, _ in answers] == [b"200"] * CLIENTS
    assert all(json.loads(body) == expected for _, body in answers)
    assert gateway.process.poll() is None
    assert not gateway.logged("request_internal_error")


def encode_upload(recording: bytes) -> bytes:
    part = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + recording
    body = b"--x\r\n" + part + b"\r\n--x--\r\n"
    head = (
        f"POST {TRANSCRIBE} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def send_all(port: int, request: bytes) -> list[tuple[bytes, bytes]]:
    """Head and body of every response; the idle clients are connected all the time."""
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(IDLE_CLIENTS)]
    for _, writer in idle:
        writer.write(b"POST / HTTP/1.1\r\nHost: loc")

    async def send() -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return head, body

    answers = await asyncio.gather(*(send() for _ in range(CLIENTS)))
    for _, writer in idle:
        writer.close()
    return answers
