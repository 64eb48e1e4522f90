"""Whole services as repeats grow: a cache before a model as a tutorial has it, and this pipeline.

    make bench-repeats          or: python benchmarks/repeats.py [--model DIR] [--rounds 3]

The same int8 model of full size, the same recordings of ten seconds, 8 requests in flight, of which
none, half, four fifths or all were heard before. The tutorial's service runs as it is printed (one
process, the model's four threads) and tuned (a process a core, a thread each). Recordings differ,
and one in eight begins with a tenth of a second of silence.
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
import wave
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import (
    ROOT,
    environment,
    free_port,
    full_size_model,
    keep,
    listens,
    make_clips,
    peers_python,
)
from redis import Redis
from sensestream_common.contract.keys import Keys
from sensestream_producer import Client
from sensestream_producer.local.redis_server import EmbeddedRedis

from training.full_size import default_folder

IN_FLIGHT = 8
SHARES = (0.0, 0.5, 0.8)
DISTINCT = {0.0: 24, 0.5: 24, 0.8: 16}  # recordings; requests follow from the share of repeats
SILENT_FIRST = 8  # every so manieth begins with silence
ALL_SECONDS = 3.0  # of nothing but repeats
READY = 300.0  # seconds: a model may be converted first
KEYS = Keys("sensestream")
Hear = Callable[[Path], Awaitable[tuple[str, bool]]]  # the text, and whether it was remembered


@dataclass
class Round:
    """One contender's requests with one share of repeats."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    heard: list[tuple[Path, str, bool]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def right(self) -> float:
        """Right answers a second: a wrong one costs its service no transcription."""
        return self.rate * (1 - self.wrong())

    def quantile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def wrong(self) -> float:
        """The share of answers that no transcription of this very recording gave."""
        own: dict[Path, set[str]] = defaultdict(set)
        for clip, text, remembered in self.heard:
            if not remembered:
                own[clip].add(text)
        known = [(clip, text) for clip, text, _ in self.heard if own[clip]]
        strange = sum(1 for clip, text, _ in self.heard if text not in own[clip])
        return strange / len(self.heard) if known else float("nan")


def order(clips: list[Path], share: float) -> list[Path]:
    """So many first requests and repeats, mixed the same way for everybody."""
    import random

    repeats = round(len(clips) * share / (1 - share))
    chance = random.Random(7)
    wanted = [*clips, *(chance.choice(clips) for _ in range(repeats))]
    chance.shuffle(wanted)
    return wanted


async def measure(hear: Hear, wanted: list[Path], in_flight: int) -> Round:
    found = Round(0.0)
    waiting = iter(wanted)

    async def caller() -> None:
        for clip in waiting:
            sent = time.perf_counter()
            text, remembered = await hear(clip)
            found.latencies.append(time.perf_counter() - sent)
            found.heard.append((clip, text, remembered))

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    found.seconds = time.perf_counter() - began
    return found


def endless(clips: list[Path], seconds: float) -> Iterator[Path]:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        yield from clips


class Tutorial:
    """The printed service; so many `processes` of uvicorn, so many `threads` in each one's model.

    Each process has a port of its own, and calls take turns. Behind one port of uvicorn's --workers
    the answers' bodies would wait for their heads to be acknowledged, 40 ms.
    """

    def __init__(self, name: str, model: Path, processes: int, threads: int) -> None:
        self.name = name
        self._server = EmbeddedRedis(appendonly=True, appendfsync="everysec", tcp=True)
        self._server.start()
        self._ports = [free_port() for _ in range(processes)]
        self._environment = {
            "TUTORIAL_REDIS": self._server.url,
            "TUTORIAL_MODEL": str(model),
            "TUTORIAL_THREADS": str(threads),
        }
        self._services: list[subprocess.Popen[bytes]] = []
        self._bodies: dict[Path, bytes] = {}
        self._idle: dict[int, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {}

    def start(self) -> None:
        for port in self._ports:
            command = [sys.executable, "-m", "uvicorn", "tutorial:app", "--port", str(port),
                       "--log-level", "warning"]  # fmt: skip
            folder = ROOT / "benchmarks" / "loops"
            service = subprocess.Popen(command, cwd=folder, env=os.environ | self._environment)
            self._services.append(service)
            deadline = time.monotonic() + READY
            while not asyncio.run(listens(port)):
                if service.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the tutorial's service did not start")
                time.sleep(0.2)

    def forget(self) -> None:
        with Redis.from_url(self._server.url) as redis:
            redis.flushdb()

    def run(self, wanted: list[Path], in_flight: int) -> Round:
        async def all_of_them() -> Round:
            self._idle = {port: [] for port in self._ports}
            try:
                return await measure(self._hear, wanted, in_flight)
            finally:
                for _, writer in itertools.chain(*self._idle.values()):
                    writer.close()

        return asyncio.run(all_of_them())

    async def _hear(self, clip: Path) -> tuple[str, bool]:
        """By hand, on connections that stay: an HTTP library would cost more than the service."""
        if clip not in self._bodies:
            self._bodies[clip] = _upload(clip)
        self._ports.append(port := self._ports.pop(0))
        stream = self._idle[port].pop() if self._idle[port] else None
        reader, writer = stream or await asyncio.open_connection("127.0.0.1", port)
        writer.write(self._bodies[clip])
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        answer = json.loads(await reader.readexactly(length))
        self._idle[port].append((reader, writer))
        if answer.get("status") != "success":
            sys.exit(f"the tutorial's service said {answer}")
        return str(answer["data"]), bool(answer["from_cache"])

    def close(self) -> None:
        for service in self._services:
            service.terminate()
            service.wait()
        self._server.stop()


class Ours:
    """The pipeline: a file's reference and digest in, the outcome from the stream."""

    name = "sensestream"

    def __init__(self, model: Path, roots: Path) -> None:
        self._server = EmbeddedRedis(appendonly=True, appendfsync="everysec", tcp=True)
        self._server.start()
        self._digests: dict[Path, str] = {}
        self._command = [
            Path(sys.executable).with_name("sensestream-worker"), "--model", model, "--redis-url",
            self._server.url, "--audio-roots", roots, "--device", "cpu", "--log-level", "warning",
        ]  # fmt: skip

    def start(self) -> None:
        self._worker = subprocess.Popen(list(map(str, self._command)))
        deadline = time.monotonic() + READY
        with Redis.from_url(self._server.url) as redis:
            while not redis.exists(KEYS.recogniser):
                if self._worker.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the worker did not start")
                time.sleep(0.2)

    def forget(self) -> None:
        with Redis.from_url(self._server.url) as redis:
            for pattern in (KEYS.result("*"), KEYS.audio("*", "*")):
                for key in redis.scan_iter(pattern.replace("[", "\\["), count=1000):
                    redis.delete(key)

    def run(self, wanted: list[Path], in_flight: int) -> Round:
        async def all_of_them() -> Round:
            async with Client(self._server.url) as client:

                async def hear(clip: Path) -> tuple[str, bool]:
                    # Once for each recording, as the body that the other services are sent.
                    if clip not in self._digests:
                        self._digests[clip] = _digest(clip)
                    outcome = await client.transcribe(
                        clip.as_uri(), digest=self._digests[clip], timeout=READY
                    )
                    if not outcome.completed:
                        sys.exit(f"{clip}: {outcome.message}")
                    return outcome.text, outcome.cache == "hit"

                return await measure(hear, wanted, in_flight)

        return asyncio.run(all_of_them())

    def close(self) -> None:
        self._worker.terminate()
        self._worker.wait()
        self._server.stop()


def _digest(clip: Path) -> str:
    return f"sha256:{hashlib.sha256(clip.read_bytes()).hexdigest()}"


def _upload(clip: Path) -> bytes:
    content = clip.read_bytes()
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="clip.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n" + content + b"\r\n--x--\r\n"
    )
    head = (
        "POST /api/transcribe HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _begin_with_silence(clip: Path) -> None:
    """A tenth of a second of digital silence before what is said."""
    with wave.open(str(clip)) as file:
        shape, frames = file.getparams(), file.readframes(file.getnframes())
    with wave.open(str(clip), "wb") as file:
        file.setparams(shape)
        file.writeframes(bytes(shape.framerate // 10 * shape.sampwidth * shape.nchannels) + frames)


@contextmanager
def contenders(options: argparse.Namespace, folder: Path) -> Iterator[list[Any]]:
    cores = len(os.sched_getaffinity(0))
    found: list[Any] = [
        Tutorial("tutorial, as printed", options.model, 1, 4),
        Tutorial("tutorial, tuned", options.model, cores, 1),
        Ours(options.model, folder),
    ]
    try:
        for one in found:
            one.start()
        yield found
    finally:
        for one in found:
            one.close()


def run(options: argparse.Namespace) -> dict[str, Any]:
    rounds: dict[tuple[str, str], list[Round]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="sensestream-repeats-") as scratch:
        folder = Path(scratch)
        what = make_clips(folder, max(DISTINCT.values()), 10.0, peers_python())
        clips = sorted(folder.glob("*.wav"))
        for clip in clips[::SILENT_FIRST]:
            _begin_with_silence(clip)
        loads = [os.getloadavg()[0]]
        with contenders(options, folder) as all_of_them:
            for number in range(options.rounds):
                for share in SHARES:
                    for one in all_of_them:
                        print(f"round {number + 1}, {share:.0%} repeats, {one.name}", flush=True)
                        one.forget()
                        wanted = order(clips[: DISTINCT[share]], share)
                        rounds[one.name, f"{share:.0%}"].append(one.run(wanted, IN_FLIGHT))
                for one in all_of_them:  # what is left of the last share is heard before
                    kept = clips[: DISTINCT[SHARES[-1]]]
                    for depth in (IN_FLIGHT, 256):
                        repeats: Any = endless(kept, ALL_SECONDS)
                        rounds[one.name, f"100%, {depth} in flight"].append(one.run(repeats, depth))
                loads.append(os.getloadavg()[0])
    facts = {**environment(sorted(os.sched_getaffinity(0))), "clips": what, "loads": loads}
    print("\n".join([*table(rounds), "", told(facts, options), "", *judge(rounds)]))
    return {
        "environment": facts,
        "rounds": {
            f"{name}, {share}": [
                {"rate": one.rate, "p50": one.quantile(0.5), "p95": one.quantile(0.95),
                 "wrong": one.wrong()} for one in several
            ]
            for (name, share), several in rounds.items()
        },
    }  # fmt: skip


def table(rounds: dict[tuple[str, str], list[Round]]) -> list[str]:
    lines = ["| repeats | service | requests a second | p50 / p95 ms | wrong answers |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name, share in sorted(rounds, key=lambda key: (key[1].startswith("1"), key[1])):
        several = rounds[name, share]
        rates = [one.rate for one in several]
        p50, p95 = (statistics.median(one.quantile(q) for one in several) for q in (0.5, 0.95))
        wrong = statistics.median(one.wrong() for one in several)
        shown = "not looked at" if wrong != wrong else f"{wrong:.0%}"
        lines.append(
            f"| {share} | {name} | {statistics.median(rates):,.2f} ({min(rates):,.2f}-"
            f"{max(rates):,.2f}) | {p50 * 1e3:,.1f} / {p95 * 1e3:,.1f} | {shown} |"
        )
    return lines


def told(facts: dict[str, Any], options: argparse.Namespace) -> str:
    return (
        f"{facts['processor']} ({'VNNI' if facts['vnni'] else 'no VNNI'}), {facts['cores']} cores, "
        f"ONNX Runtime {facts['onnxruntime']}, Python {facts['python']}; clips: {facts['clips']}; "
        f"a Redis each, append-only file every second; {IN_FLIGHT} in flight unless said; medians "
        f"of {options.rounds} rounds, slowest and fastest in brackets; load "
        f"{min(facts['loads']):.1f} to {max(facts['loads']):.1f}."
    )


def judge(rounds: dict[tuple[str, str], list[Round]]) -> list[str]:
    lines = []
    bars = {
        "tutorial, as printed": dict.fromkeys((f"{share:.0%}" for share in SHARES), 5.0),
        "tutorial, tuned": {"0%": 2.0, "50%": 2.5, "80%": 2.5, "100%, 8 in flight": 3.0,
                            "100%, 256 in flight": 6.0},
    }  # fmt: skip
    for peer, by_share in bars.items():
        for share, bar in by_share.items():
            pairs = list(zip(rounds[Ours.name, share], rounds[peer, share], strict=True))
            times = statistics.median(mine.rate / theirs.rate for mine, theirs in pairs)
            met = "met" if times >= bar else "MISSED"
            lines.append(f"{share} repeats: {times:.1f} times {peer}, bar {bar:g}: {met}")
            if not share.startswith("100"):
                right = statistics.median(mine.right / theirs.right for mine, theirs in pairs)
                lines[-1] += f"; of right answers {right:.2f} times as many"
    wrong = max(one.wrong() for (name, share), several in rounds.items() for one in several
                if name == Ours.name and not share.startswith("100"))  # fmt: skip
    lines.append(f"wrong answers of ours: {wrong:.0%}: {'met' if not wrong else 'MISSED'}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=default_folder())
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    options.model = full_size_model(options.model.expanduser()).resolve()
    print(f"every round: {keep('repeats', run(options)).relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
