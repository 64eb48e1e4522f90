"""Measure what a request, an upload, an outcome and a result take in Redis.

    python tools/sizes.py [--count 2000] [--check]

Everything is written by the code that writes it in service: the client's submit script and the
worker's commit. A size is the growth of Redis's own `used_memory` for each of `--count`, the
allocator's rounding included. Prints the table of docs/operate.md, or compares with it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from redis.asyncio import Redis
from sensestream_common.connections.connection import connect
from sensestream_common.contract.errors import ErrorCode
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.outcome import CacheUse, Outcome, Status
from sensestream_common.contract.transcript import Segment, Transcript, Word
from sensestream_common.logs import configure_logs
from sensestream_consumer.audio import decode_revision
from sensestream_consumer.broker.autopipeline import AutoPipeline
from sensestream_consumer.broker.broker import Broker
from sensestream_consumer.broker.deliveries import Delivery, InFlight
from sensestream_consumer.broker.inbox import Inbox
from sensestream_consumer.broker.outbox import CacheWrite, Outbox
from sensestream_producer import Client
from sensestream_producer.local.redis_server import EmbeddedRedis

Step = Callable[[], Awaitable[None]]
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "operate.md"
TOLERANCE, SLACK = 0.2, 120  # a share, and bytes: versions of Redis and their allocators differ
KEYS = Keys("sensestream")
CONSUMER = "transcriber-7d9f8c6b5-x2x4q-0a1b2c3d"
AUDIO = "https://recordings.example.org/2026/11/25/call-{:08d}.wav"
UPLOAD = 320_044  # bytes: ten seconds of 16-bit samples at 16 kHz, as WAV
UPLOADS = 50
WEEK = 604_800_000  # milliseconds
TALK = "so what we saw is that most of the calls after six are about late deliveries".split()  # noqa: SIM905


def transcript(words: int) -> Transcript:
    """English as it is spoken, 28 words in ten seconds, cut into segments of ten seconds."""
    said = [TALK[n % len(TALK)] for n in range(words)]
    spoken = [
        Word(round(n * 0.36, 2), round(n * 0.36 + 0.3, 2), word) for n, word in enumerate(said)
    ]
    pieces = [spoken[start : start + 28] for start in range(0, words, 28)]
    segments = tuple(
        Segment(piece[0].start, piece[-1].end, " ".join(word.text for word in piece), tuple(piece))
        for piece in pieces
    )
    return Transcript(
        text=" ".join(said),
        language="en",
        emotion="NEUTRAL",
        events=("Speech",),
        segments=segments,
        confidence=0.9731,
        duration=round(words * 0.36, 2),
    )


class Scales:
    """A Redis of its own, and the parts of a client and of a worker that write to it."""

    def __init__(self, server: EmbeddedRedis, count: int) -> None:
        self.count = count
        self._server = server
        self._redis: Redis = connect(server.url, name="sizes")
        self._client = Client(server.url)
        self._commands = AutoPipeline(self._redis)
        broker, in_flight = Broker(self._commands, KEYS, CONSUMER), InFlight()
        self._inbox = Inbox(self._redis, broker, in_flight)
        self._outbox = Outbox(
            broker, in_flight, request_ttl=86_400, decode_revision=decode_revision()
        )

    async def weigh(self, *steps: Step, count: int = 0) -> float:
        """Bytes that the steps leave behind in an empty Redis, for each of `count`."""
        await self._redis.flushall()
        await self._inbox.create_groups()
        before = await self._used()
        for step in steps:
            await step()
        return (await self._used() - before) / (count or self.count)

    async def _used(self) -> int:
        """The memory of an idle Redis without clients, whose buffers come and go."""
        await self.close()
        readings: list[int] = []
        with self._server.client() as redis:
            while len(readings) < 3 or len(set(readings[-3:])) > 1:
                await asyncio.sleep(0.05)  # clients are freed, and dictionaries grow, in the back
                readings.append(int(redis.info("memory")["used_memory"]))
        return readings[-1]

    async def close(self) -> None:
        await self._redis.aclose()
        await self._client.close()

    async def submit(self) -> None:
        await self._client.submit_many([AUDIO.format(n) for n in range(self.count)])

    async def upload(self) -> None:
        for n in range(UPLOADS):
            await self._client.submit_file(n.to_bytes(4, "big") + bytes(UPLOAD - 4))

    async def add_plain(self) -> None:
        """What a service without a client does: no id is kept."""
        adding = (
            self._commands("XADD", KEYS.requests, "*", "audio", AUDIO.format(n))
            for n in range(self.count)
        )
        await asyncio.gather(*adding)

    def answer(self, transcribed: Transcript | None, *, keep: bool = False) -> Step:
        """Commits every request with that transcript, or as a failure that leaves a letter."""

        async def step() -> None:
            held = await self._inbox.read(self.count)
            commits = (
                self._outbox.commit(
                    each, _outcome(each, transcribed), keep=_keep(n, transcribed, keep=keep)
                )
                for n, each in enumerate(held)
            )
            await asyncio.gather(*commits)

        return step


def _outcome(held: Delivery, transcribed: Transcript | None) -> Outcome:
    outline = Outcome(
        id=held.fields.get(b"id", held.entry.encode()).decode(),
        entry=held.entry,
        status=Status.COMPLETED,
        audio=held.fields[b"audio"].decode(),
        model="SenseVoiceSmall-int8",
        digest=f"sha256:{sha256(held.entry.encode()).hexdigest()}",
        submitted_at=1_764_000_000_000,
        started_at=1_764_000_000_100,
        finished_at=1_764_000_000_400,
        worker=CONSUMER,
        attempt=1,
    )
    if transcribed is not None:
        return replace(outline.with_transcript(transcribed), cache=CacheUse.MISS)
    message = f"{outline.audio} answered 404: check the address, or upload the file"
    return replace(outline, status=Status.FAILED, error=ErrorCode.AUDIO_NOT_FOUND, message=message)


def _keep(number: int, transcribed: Transcript | None, *, keep: bool) -> CacheWrite | None:
    if transcribed is None or not keep:
        return None
    name = sha256(str(number).encode()).hexdigest()
    return CacheWrite(
        result=name,
        transcript=transcribed.dumps(),
        alias=f"sha256:{name}",
        alias_value=name,
        ttl_ms=WEEK,
    )


async def measure(server: EmbeddedRedis, count: int) -> dict[str, int]:
    """Bytes by what takes them, rounded to ten."""
    scales = Scales(server, count)
    weigh, answer = scales.weigh, scales.answer
    sizes: dict[str, float] = {}
    sizes[f"an upload of {UPLOAD:,} bytes, with its request"] = await weigh(
        scales.upload, count=UPLOADS
    )
    sizes["a request that waits, with its id"] = await weigh(scales.submit)
    short = transcript(6)
    outcome = await weigh(scales.add_plain, answer(short))
    answered = await weigh(scales.submit, answer(short))
    sizes["the id of an answered request"] = answered - outcome
    for length, words in (("two", 6), ("ten", 28), ("sixty", 168)):
        transcribed = transcript(words)
        outcome = await weigh(scales.add_plain, answer(transcribed))
        kept = await weigh(scales.add_plain, answer(transcribed, keep=True))
        sizes[f"an outcome of {length} seconds of speech"] = outcome
        sizes[f"a result of {length} seconds of speech, with its alias"] = kept - outcome
    sizes["a failed outcome, with its dead letter"] = await weigh(scales.add_plain, answer(None))
    await scales.close()
    return {name: int(round(size, -1)) for name, size in sizes.items()}


def differences(sizes: dict[str, int]) -> list[str]:
    """A line for each size that the document tells otherwise."""
    rows = re.findall(r"^\| (.+?) \| ([\d,]+) \|$", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    told = {name: int(size.replace(",", "")) for name, size in rows}
    return [
        f"{name}: {size:,} bytes, and {DOCUMENT.name} says {told.get(name, 0):,}"
        for name, size in sizes.items()
        if abs(size - told.get(name, 0)) > size * TOLERANCE + SLACK
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Bytes that things take in Redis.")
    parser.add_argument("--count", type=int, default=2000, help="of each are written (2000)")
    parser.add_argument("--check", action="store_true", help="compare with docs/operate.md")
    options = parser.parse_args()
    configure_logs("error")
    with EmbeddedRedis() as server:
        sizes = asyncio.run(measure(server, options.count))
        with server.client() as redis:
            version = redis.info("server")["redis_version"]
    print(f"Redis {version}, {options.count} of each\n\n| what | bytes |\n|---|---|")
    for name, size in sizes.items():
        print(f"| {name} | {size:,} |")
    wrong = differences(sizes) if options.check else []
    print(*wrong, sep="\n", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
