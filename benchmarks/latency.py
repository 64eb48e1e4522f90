"""How long one request takes on an idle pipeline: from XADD to a subscriber's hands.

    make bench-latency          or: python benchmarks/latency.py [--count 300]

One worker with the embedded model; one request at a time, by a plain XADD, and a subscriber that
blocks in XREAD. A hit whose sender names the digest, a hit whose file is read and hashed, and a
miss: a second of noise that nobody has heard. The floor beside them is an XADD that comes back by
XREAD, with no worker between.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from machine import ROOT, environment, keep
from redis.asyncio import Redis
from sensestream_common.contract.keys import Keys
from sensestream_producer.local.redis_server import EmbeddedRedis

KEYS = Keys("sensestream")
READY = 60.0  # seconds
HIT_BAR = 0.002  # seconds, of the median


class Subscriber:
    """Sends by XADD, and waits for the next entry of a stream."""

    def __init__(self, redis: Any, reader: Any, stream: str) -> None:
        self._redis, self._reader, self._stream = redis, reader, stream
        self._position = b"0"

    async def skip(self) -> None:
        last = await self._redis.xrevrange(self._stream, count=1)
        self._position = last[0][0] if last else b"0"

    async def take(self, lane: str, fields: dict[str, str]) -> tuple[float, dict[bytes, bytes]]:
        """Seconds, and what came."""
        coming = asyncio.ensure_future(self._next())
        await asyncio.sleep(0.002)  # the reader blocks by then
        sent = time.perf_counter()
        await self._redis.xadd(lane, fields)
        came, entry = await coming
        return came - sent, entry

    async def _next(self) -> tuple[float, dict[bytes, bytes]]:
        while True:
            reply = await self._reader.xread({self._stream: self._position}, block=5000)
            came = time.perf_counter()
            for _, entries in reply or ():
                self._position = entries[-1][0]
                return came, entries[-1][1]


def noise(path: Path, seed: int) -> Path:
    """A second of it at 16 kHz."""
    samples = np.random.default_rng(seed).normal(0, 3000, 16_000).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return path


@asynccontextmanager
async def pipeline(folder: Path) -> AsyncIterator[tuple[Redis, Redis]]:
    with EmbeddedRedis(appendonly=True, appendfsync="everysec", tcp=True) as server:
        command = [
            Path(sys.executable).with_name("sensestream-worker"), "--model", "demo", "--redis-url",
            server.url, "--audio-roots", folder, "--log-level", "warning",
        ]  # fmt: skip
        worker = subprocess.Popen(list(map(str, command)))  # noqa: ASYNC220  (returns at once)
        redis, reader = Redis.from_url(server.url), Redis.from_url(server.url, socket_timeout=30)
        try:
            deadline = time.monotonic() + READY
            while not await redis.exists(KEYS.recogniser):
                if worker.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the worker did not start")
                await asyncio.sleep(0.05)
            yield redis, reader
        finally:
            await redis.aclose()
            await reader.aclose()
            worker.terminate()
            worker.wait()


async def run(count: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"floor": [], "hit, digest named": [], "hit": [], "miss": []}
    with tempfile.TemporaryDirectory(prefix="sensestream-latency-") as scratch:
        folder = Path(scratch)
        async with pipeline(folder) as (redis, reader):
            known = noise(folder / "known.wav", 0)
            digest = f"sha256:{hashlib.sha256(known.read_bytes()).hexdigest()}"
            outcomes = Subscriber(redis, reader, KEYS.transcripts)
            echo = Subscriber(redis, reader, "bench:echo")
            fields = {"audio": known.as_uri()}
            await outcomes.take(KEYS.requests, fields)
            for number in range(1, count + 1):  # in turns, so that all see the same machine
                other = noise(folder / "new.wav", number)
                cases = {
                    "floor": (echo, "bench:echo", {"n": str(number)}, b""),
                    "hit, digest named": (
                        outcomes, KEYS.requests, {**fields, "digest": digest}, b"hit",
                    ),
                    "hit": (outcomes, KEYS.requests, fields, b"hit"),
                    "miss": (outcomes, KEYS.requests, {"audio": other.as_uri()}, b"miss"),
                }  # fmt: skip
                for name, (subscriber, lane, request, cache) in cases.items():
                    await subscriber.skip()
                    seconds, entry = await subscriber.take(lane, request)
                    if entry.get(b"cache", b"") != cache:
                        sys.exit(f"{name}: {entry}")
                    found[name].append(seconds)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=300, help="requests of each kind")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    found = asyncio.run(run(options.count))
    facts = environment(sorted(os.sched_getaffinity(0)))
    print("| | p50 ms | p99 ms | × the floor |\n|---|---|---|---|")
    floor = float(np.median(found["floor"]))
    for name, values in found.items():
        half, most = (float(np.quantile(values, share)) for share in (0.5, 0.99))
        print(f"| {name} | {half * 1e3:.2f} | {most * 1e3:.2f} | {half / floor:.1f} |")
    half = float(np.median(found["hit, digest named"]))
    print(
        f"\n{facts['processor']}, {facts['cores']} cores, Python {facts['python']}, append-only "
        f"file every second, {options.count} of each in turns; load {load:.1f} before.\n"
        f"a single hit: p50 {half * 1e3:.2f} ms, bar {HIT_BAR * 1e3:g} ms: "
        f"{'met' if half <= HIT_BAR else 'MISSED'}"
    )
    kept = keep("latency", {"environment": facts, "load": load, "seconds": found})
    print(f"every request: {kept.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
