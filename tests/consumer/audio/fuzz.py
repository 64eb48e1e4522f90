"""Decode damaged recordings of every format by the thousand, and count what comes of it.

    python -m tests.consumer.audio.fuzz 100000 [--first SEED] [--jobs 2]

Each input is made by its number alone: `--first 4711` and a count of 1 repeat one. Whatever comes
in must give samples or a refusal of a known code; anything else is a crash and is printed.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import queue
import random
import resource
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import numpy as np
import structlog
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_consumer.audio import AudioPolicy, decode_with_warnings

from .recordings import Track, as_fetched, at_rate, clip, encoded, every_format, film, surround

__all__ = ["REFUSALS", "recordings"]

POLICY = AudioPolicy(roots=(), max_seconds=30)
REFUSALS = {ErrorCode.AUDIO_UNREADABLE, ErrorCode.AUDIO_EMPTY, ErrorCode.AUDIO_TOO_LONG}


@cache
def recordings() -> dict[str, bytes]:
    """One recording of each format and oddity, by name."""
    speech = clip()[:16_000]
    wide = at_rate(speech, 48_000)
    stereo = np.column_stack([speech, -speech])
    wav, flac = encoded(speech), encoded(speech, form="FLAC")
    ogg = encoded(speech, form="OGG", subtype="VORBIS")
    unclosed = wav[:4] + bytes(4) + wav[8:40] + bytes(4) + wav[44:]
    chunk = b"LIST" + struct.pack("<I", 4) + b"INFO"
    return every_format() | {
        "aiff": encoded(speech, form="AIFF"),
        "au": encoded(speech, form="AU", subtype="ULAW"),
        "caf": encoded(speech, form="CAF"),
        "w64": encoded(speech, form="W64"),
        "sphere": encoded(speech, form="NIST", subtype="PCM_16"),
        "bw64": b"BW64" + encoded(speech, form="RF64")[4:],
        "g722": film("wav", Track(speech, "g722")),
        "adpcm": encoded(speech, form="WAV", subtype="IMA_ADPCM"),
        "wma": film("asf", Track(speech, "wmav2", options={"b": "64000"})),
        "avi": film("avi", Track(speech, "libmp3lame"), seconds=1),
        "ts": film("mpegts", Track(speech), seconds=1, codec="mpeg2video"),
        "flv": film("flv", Track(at_rate(speech, 44_100), "aac", 44_100), seconds=1, codec="flv"),
        "mkv": film("matroska", Track(speech), Track(wide, "ac3", 48_000), seconds=1),
        "film": film("mp4", Track(speech, delay=1, pauses=((0.5, 1.0),)), seconds=3),
        "eac3": film("eac3", Track(wide, "eac3", 48_000)),
        "unclosed wav": unclosed,
        "unclosed wav with a chunk": unclosed + chunk,
        "joined wav": wav + encoded(at_rate(speech, 8_000), 8_000) + wav,
        "joined flac": flac * 2,
        "joined ogg": ogg + encoded(wide, 48_000, "OGG", "OPUS") + ogg,
        "channels that cancel": encoded(stereo, 16_000, "FLAC"),
        "floats of another scale": encoded(stereo.astype(np.float32), subtype="FLOAT"),
        "surround of eight": surround("7.1", "aac", "mp4")[:30_000],
        "surround of sixteen": surround("hexadecagonal", "wavpack")[:100_000],
        "mp3 behind zeros": bytes(3000) + every_format()["mp3"],
    }


def cut(draw: random.Random, data: bytes) -> bytes:
    """Some of the beginning."""
    return data[: draw.randrange(len(data))]


def overwritten(draw: random.Random, data: bytes) -> bytes:
    """Random bytes, zeros or ones over some places."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        at, size = draw.randrange(len(data)), draw.choice((1, 4, 64, 1000))
        new = draw.choice((draw.randbytes(size), bytes(size), b"\xff" * size))
        changed[at : at + size] = new
    return bytes(changed)


def lying(draw: random.Random, data: bytes) -> bytes:
    """Wrong values in the header, extreme ones among them."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(min(400, len(data)))
        size = draw.choice((1, 1, 2, 4, 8))
        value = draw.choice(
            (0, 1, (1 << 8 * size) - 1, 1 << 8 * size - 1, draw.getrandbits(8 * size))
        )
        changed[at : at + size] = value.to_bytes(size, draw.choice(("little", "big")))
    return bytes(changed)


def spliced(draw: random.Random, data: bytes) -> bytes:
    """The head of one on the body of another."""
    other = draw.choice(list(recordings().values()))
    return cut(draw, data) + other[draw.randrange(len(other)) :]


def torn(draw: random.Random, data: bytes) -> bytes:
    """A piece out of the middle, doubled, moved or taken away."""
    first, last = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    middle = data[first:last]
    return draw.choice(
        (
            data[:first] + data[last:],
            data[:last] + middle + data[last:],
            data[last:] + data[:last],
            middle,
        )
    )


def joined(draw: random.Random, data: bytes) -> bytes:
    """Several behind each other, each of them damaged or not, and junk before them."""
    parts = [data, *draw.choices(list(recordings().values()), k=draw.randint(1, 2))]
    harms: list[Callable[[random.Random, bytes], bytes]] = [cut, overwritten, lying]
    parts = [draw.choice(harms)(draw, part) if draw.random() < 0.4 else part for part in parts]
    return draw.randbytes(draw.choice((0, 0, 1, 100, 5000))) + b"".join(parts)


def headed(draw: random.Random, data: bytes) -> bytes:
    """A known beginning and then anything."""
    return data[: draw.randrange(min(len(data), 64))] + draw.randbytes(draw.randrange(4000))


HARMS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    cut, overwritten, lying, spliced, torn, joined, headed,
)  # fmt: skip


def made(seed: int) -> bytes:
    """The input of a number."""
    draw = random.Random(seed)
    name = draw.choice(sorted(recordings()))
    return draw.choice(HARMS)(draw, recordings()[name])


@dataclass
class Count:
    """What came of some inputs."""

    outcomes: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, 0)
    memory: int = 0  # KiB at most, of one process

    def add(self, other: Count) -> None:
        self.outcomes += other.outcomes
        self.warnings += other.warnings
        self.crashes += other.crashes
        self.slowest = max(self.slowest, other.slowest)
        self.memory = max(self.memory, other.memory)


def tried(seeds: Iterable[int], current: Any = None) -> Count:
    """Decode the inputs of some numbers; `current` is told of each."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    count = Count()
    for seed in seeds:
        if current is not None:
            current.value = seed
        begun = time.process_time()
        count.outcomes[_outcome(seed, count)] += 1
        count.slowest = max(count.slowest, (time.process_time() - begun, seed))
    count.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return count


def _outcome(seed: int, count: Count) -> str:
    try:
        with as_fetched(made(seed)) as fetched:
            result = decode_with_warnings(fetched, POLICY)
    except RequestError as error:
        if error.code not in REFUSALS:
            count.crashes.append(f"{seed}: {error.code} {error.message}")
        return str(error.code)
    except Exception as error:
        count.crashes.append(f"{seed}: {error!r}")
        return "crash"
    count.warnings.update({warning.code for warning in result.warnings})
    if not 0 < len(result.samples) <= 31 * 16_000:
        count.crashes.append(f"{seed}: {len(result.samples)} samples")
    return "samples with warnings" if result.warnings else "samples"


def tried_apart(seeds: range) -> Count:
    """Decode the inputs of some numbers in a process of its own, which may die of one."""
    count = Count()
    while seeds:
        current = multiprocessing.Value("q", -1)
        results: Any = multiprocessing.Queue()
        process = multiprocessing.Process(
            target=lambda part=seeds, at=current, out=results: out.put(tried(part, at))
        )
        process.start()
        result = _result(process, results)
        process.join()
        if result:
            count.add(result)
            return count
        fatal = int(current.value)
        count.crashes.append(f"{fatal}: the process died ({process.exitcode})")
        count.add(tried_apart(range(seeds.start, fatal)))
        seeds = range(fatal + 1, seeds.stop)
    return count


def _result(process: Any, results: Any) -> Count | None:
    while process.is_alive():
        with suppress(queue.Empty):
            return cast("Count", results.get(timeout=0.2))
    with suppress(queue.Empty):
        return cast("Count", results.get(timeout=0.2))
    return None


def main() -> int:
    """Count, and print a table; 1 if anything crashed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.count)
    parts = [numbers[start : start + 500] for start in range(0, len(numbers), 500)]
    total = Count()
    recordings()  # made once, and then in the memory of every process
    with ThreadPoolExecutor(options.jobs) as pool:
        for done, part in enumerate(pool.map(tried_apart, parts), 1):
            total.add(part)
            sys.stderr.write(f"\r{min(done * 500, options.count)} inputs")
    counted = [*total.outcomes.most_common(), *total.warnings.most_common()]
    lines = [
        "",
        *(f"{number:8} {name}" for name, number in counted),
        f"slowest {total.slowest[0]:.2f} s of processor time (number {total.slowest[1]})",
        f"memory of a process at most {total.memory // 1024} MiB",
        f"{len(total.crashes)} crashes",
        *total.crashes[:20],
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if total.crashes else 0


if __name__ == "__main__":
    sys.exit(main())
