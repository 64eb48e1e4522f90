"""Producers of a run: submit through the client, in batches, and note what Redis has taken."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.request import url2pathname

from sensestream_common.contract.errors import RequestError, SensestreamError
from sensestream_common.contract.keys import Lane
from sensestream_producer import Client, Submission

from chaos.ledger import Ledger

__all__ = ["Mix", "producing"]

_HIGH = 0.2  # of the requests, in the high lane
_MAX_BACKLOG = 3000  # requests: producers are refused where the workers do not keep up
_UPLOADED = 0.05  # of the requests, with their bytes
_NAMED = 0.3  # of the others, with their digest: the client answers them once they are known


@dataclass(frozen=True)
class Mix:
    """What the producers send: `misses` is the share that asks for a result not to be kept."""

    clips: list[str]
    producers: int
    batch: int
    misses: float


@contextmanager
def producing(url: str, ledger: Ledger, mix: Mix, seed: str) -> Iterator[None]:
    """Producers at work, each in a thread and with a client of its own."""
    producers = [Producer(url, ledger, mix, f"{seed}-{number}") for number in range(mix.producers)]
    for producer in producers:
        producer.start()
    try:
        yield
    finally:
        for producer in producers:
            producer.ended.set()
        for producer in producers:
            producer.join()


class Producer(threading.Thread):
    """Submits in batches; what Redis does not take now it submits again, under the same ids."""

    def __init__(self, url: str, ledger: Ledger, mix: Mix, seed: str) -> None:
        super().__init__(name=f"producer {seed}", daemon=True)
        self.ended = threading.Event()
        self._url = url
        self._ledger = ledger
        self._mix = mix
        self._draw = random.Random(seed)
        self._seed = seed

    def run(self) -> None:
        asyncio.run(self._submit_all())

    async def _submit_all(self) -> None:
        number = 0
        async with Client(self._url, retry_timeout=1.0, max_backlog=_MAX_BACKLOG) as client:
            while not self.ended.is_set():
                batch = [self._request(number + offset) for offset in range(self._mix.batch)]
                number += self._mix.batch
                await self._submit(client, batch)
                await asyncio.sleep(self._draw.uniform(0, 0.05))

    async def _submit(self, client: Client, batch: list[Submission]) -> None:
        while batch:
            try:
                answers = await client.submit_many(batch)
            except SensestreamError:
                continue
            left = []
            for submission, answer in zip(batch, answers, strict=True):
                if isinstance(answer, RequestError):
                    raise answer
                if isinstance(answer, Exception):
                    left.append(submission)
                else:
                    self._ledger.add(answer.id)
            batch = left
            if batch:
                await asyncio.sleep(0.05)

    def _request(self, number: int) -> Submission:
        clip = self._draw.choice(self._mix.clips)
        file = Path(url2pathname(clip.removeprefix("file://")))
        uploaded = self._draw.random() < _UPLOADED
        named = not uploaded and self._draw.random() < _NAMED
        return Submission(
            audio=file if uploaded else clip,
            id=f"{self._seed}-{number}",
            digest=_digest(file) if named else "",
            priority=Lane.HIGH if self._draw.random() < _HIGH else Lane.NORMAL,
            # A result that is not kept is a miss the next time.
            ttl=0 if self._draw.random() < self._mix.misses else None,
        )


@cache
def _digest(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
