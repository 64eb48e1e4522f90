"""The time that the gateway adds to a cache hit: HTTP and the client, in turns.

    make bench-gateway          or: python benchmarks/gateway.py [--rounds 5]

One worker with the embedded model, one gateway, a cached recording of ten seconds. HTTP calls send
it as an upload, which the gateway hashes and answers from the cache, and as a reference with its
digest, which takes the way of the client's request. Connections stay open.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from machine import ROOT, environment, free_port, keep, listens
from redis import Redis
from sensestream_common.contract.keys import Keys
from sensestream_producer import Client
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.support.clips import encoded, tone

KEYS = Keys("sensestream")
BAR = 0.005  # seconds that the gateway may add to the median of a hit, one in flight
DEPTHS = (1, 8, 64)
READY = 60.0
Call = Callable[[], Awaitable[None]]


class HttpClient:
    """Calls of the gateway on connections that stay open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, request: bytes) -> Any:
        stream = self._idle.pop() if self._idle else None
        reader, writer = stream or await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        if b" 20" not in head[:13]:
            sys.exit(f"the gateway said {head!r} {body!r}")
        self._idle.append((reader, writer))
        return json.loads(body)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


def upload(recording: bytes) -> bytes:
    part = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + recording
    body = b"--x\r\n" + part + b"\r\n--x--\r\n"
    return _post("/v1/audio/transcriptions", "multipart/form-data; boundary=x", body)


def reference(audio: str, digest: str) -> bytes:
    body = json.dumps({"audio": audio, "digest": digest}).encode()
    return _post("/v1/transcriptions?wait=30", "application/json", body)


def _post(path: str, content: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def start(command: list[Any], **settings: str) -> subprocess.Popen[bytes]:
    own = {f"SENSESTREAM_{name.upper()}": value for name, value in settings.items()}
    program, *rest = map(str, command)
    path = str(Path(sys.executable).with_name(program))
    return subprocess.Popen([path, *rest], env=os.environ | own, stderr=subprocess.DEVNULL)


@asynccontextmanager
async def services(folder: Path) -> AsyncIterator[tuple[str, int]]:
    """The URL of Redis, and the gateway's port."""
    port = free_port()
    with EmbeddedRedis(appendonly=True, appendfsync="everysec", tcp=True) as server:
        flags = ["--model", "demo", "--audio-roots", folder]
        worker = start(["sensestream-worker", *flags], redis_url=server.url)
        settings = {"redis_url": server.url, "http_port": str(port), "references": "file"}
        gateway = start(["sensestream", "gateway"], **settings)
        try:
            deadline = time.monotonic() + READY
            with Redis.from_url(server.url) as redis:
                while not (redis.exists(KEYS.recogniser) and await listens(port)):
                    if time.monotonic() > deadline or gateway.poll() or worker.poll():
                        sys.exit("worker and gateway did not start")
                    await asyncio.sleep(0.1)
            yield server.url, port
        finally:
            for process in (gateway, worker):
                process.terminate()
                process.wait()


async def measure(call: Call, depth: int, seconds: float) -> tuple[float, list[float]]:
    """Requests a second, and how long each took."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while (sent := time.perf_counter()) < end:
            await call()
            took.append(time.perf_counter() - sent)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(depth)))
    return len(took) / (time.perf_counter() - began), took


async def run(options: argparse.Namespace) -> dict[tuple[str, int], list[tuple[float, float]]]:
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="sensestream-gateway-") as name:
        clip = Path(name) / "known.wav"
        clip.write_bytes(encoded(tone(1, seconds=10)))
        digest = f"sha256:{hashlib.sha256(clip.read_bytes()).hexdigest()}"
        upload_call = upload(clip.read_bytes())
        reference_call = reference(clip.as_uri(), digest)
        async with services(Path(name)) as (url, port), Client(url) as client:
            http = HttpClient(port)

            async def by_client() -> None:
                await client.transcribe(clip.as_uri(), digest=digest)

            async def by_upload() -> None:
                await http.send(upload_call)

            async def by_reference() -> None:
                await http.send(reference_call)

            calls = {
                "client": by_client,
                "HTTP, reference": by_reference,
                "HTTP, upload": by_upload,
            }
            for call in calls.values():
                await call()
            for _, depth, (name, call) in itertools.product(
                range(options.rounds), DEPTHS, calls.items()
            ):
                rate, took = await measure(call, depth, options.seconds)
                found.setdefault((name, depth), []).append((rate, statistics.median(took)))
            http.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    options = parser.parse_args()
    loads = [os.getloadavg()[0]]
    found = asyncio.run(run(options))
    loads.append(os.getloadavg()[0])
    facts = {**environment(sorted(os.sched_getaffinity(0))), "loads": loads}
    print("| a hit by | " + " | ".join(f"{depth} in flight" for depth in DEPTHS) + " |")
    print("|---" * (len(DEPTHS) + 1) + "|")
    for name in dict.fromkeys(name for name, _ in found):
        cells = []
        for depth in DEPTHS:
            rates, medians = zip(*found[name, depth], strict=True)
            p50 = statistics.median(medians) * 1e3
            cells.append(f"{statistics.median(rates):,.0f}/s, p50 {p50:.1f} ms")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(
        f"\n{facts['processor']}, {facts['cores']} cores, Python {facts['python']}; append-only "
        f"file every second; medians of {options.rounds} rounds of {options.seconds:g} s; load "
        f"{min(loads):.1f} to {max(loads):.1f}.\n"
    )
    for name in ("HTTP, reference", "HTTP, upload"):
        pairs = zip(found[name, 1], found["client", 1], strict=True)
        added = statistics.median(ours[1] - client[1] for ours, client in pairs)
        met = "met" if added < BAR else "MISSED"
        print(f"{name}: {added * 1e3:.1f} ms more than by the client, bar {BAR * 1e3:g} ms: {met}")
    result = {
        "environment": facts,
        "rounds": {f"{name}, {depth}": rounds for (name, depth), rounds in found.items()},
    }
    print(f"every round: {keep('gateway', result).relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
