"""Results that a cache holds before anything is measured: as many as wanted, all different."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from redis import Redis
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.transcript import Segment, Transcript, Word
from sensestream_consumer.audio import decode_revision

__all__ = ["digest_of", "remember", "spoken", "write_digests"]

_TALK = "so what we saw is that most of the calls after six are about late deliveries".split()  # noqa: SIM905
_CHUNK = 1000


def spoken(seconds: float) -> Transcript:
    """English as it is spoken: 28 words, with their times, in ten seconds."""
    said = [_TALK[n % len(_TALK)] for n in range(round(2.8 * seconds))]
    words = tuple(
        Word(round(n * 0.36, 2), round(n * 0.36 + 0.3, 2), word) for n, word in enumerate(said)
    )
    text = " ".join(said)
    return Transcript(
        text=text,
        language="en",
        emotion="NEUTRAL",
        events=("Speech",),
        segments=(Segment(words[0].start, words[-1].end, text, words),),
        confidence=0.9731,
        duration=seconds,
    )


def digest_of(number: int) -> str:
    return "sha256:" + sha256(f"bytes {number}".encode()).hexdigest()


def remember(redis: Redis, keys: Keys, fingerprint: str, count: int, *, first: int = 0) -> None:
    """Put results `first` to `first + count` and their aliases there, as a worker's commit does."""
    transcript, revision = spoken(10).dumps(), decode_revision()
    for chunk in _chunks(first, first + count):
        pipe = redis.pipeline(transaction=False)
        for number in chunk:
            audio = sha256(f"samples {number}".encode()).hexdigest()
            parts = f"{audio}\n{fingerprint}\nauto\n1"
            result = keys.result(sha256(parts.encode()).hexdigest())
            pipe.hset(result, mapping={"transcript": transcript, "model": "demo"})
            pipe.pexpire(result, 604_800_000)
            pipe.set(keys.audio(digest_of(number), revision), audio, px=604_800_000)
        pipe.execute()


def write_digests(path: Path, count: int) -> Path:
    path.write_text("\n".join(digest_of(number) for number in range(count)))
    return path


def _chunks(first: int, last: int) -> Iterator[range]:
    for start in range(first, last, _CHUNK):
        yield range(start, min(last, start + _CHUNK))
