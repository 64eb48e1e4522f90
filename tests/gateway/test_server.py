"""The server: where it listens, how long it waits for a head, and how it stops."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from sensestream_common.contract.keys import Keys
from sensestream_producer.gateway.server import open_socket
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.gateway.conftest import StartGateway
from tests.support.background import answered
from tests.support.clips import encoded, tone
from tests.support.waiting import wait_until_sync

KEYS = Keys("sensestream")
COMMAND = str(Path(sys.executable).with_name("sensestream"))


def test_gateway_refuses_to_listen_beyond_loopback_without_a_key(redis_url: str) -> None:
    def start(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [COMMAND, "--redis-url", redis_url, "gateway", "--http-host", "0.0.0.0", *flags]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    refused = start()
    assert refused.returncode == 1
    assert "SENSESTREAM_HTTP_HOST='0.0.0.0' is not loopback, and no key is set" in refused.stderr
    invalid = start("--api-keys", "ci:submit:abc")
    assert invalid.returncode == 1
    assert "a key is NAME:SCOPES:SHA256" in invalid.stderr


def test_accepted_connections_get_tcp_nodelay() -> None:
    with open_socket("127.0.0.1", 0) as server, socket.create_connection(server.getsockname()):
        accepted, _ = server.accept()
        with accepted:
            # asyncio sets TCP_NODELAY on accepted sockets with this protocol number only.
            assert accepted.proto == socket.IPPROTO_TCP


def test_connection_with_an_unfinished_head_is_closed(
    shared_redis: EmbeddedRedis, start_gateway: StartGateway
) -> None:
    gateway = start_gateway(shared_redis.url, receive_timeout=0.3)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: local")
        assert connection.recv(1024) == b""


def test_sigterm_finishes_calls_under_way(own_redis: Any, start_gateway: StartGateway) -> None:
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
        # A stopped gateway refuses connections at once.
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{gateway.url}/health")
