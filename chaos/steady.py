"""A steady load of every kind of request: hits, misses, uploads, failures, repeated ids."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from sensestream_common.contract.errors import SensestreamError
from sensestream_common.contract.keys import Lane
from sensestream_producer import Client, Submission

from chaos.ledger import Ledger
from tests.support.clips import encoded, tone, write_clip

__all__ = ["SteadyLoad"]

_KNOWN_CLIPS = 200  # transcribed once each, and hits ever after
_TICK = 0.25  # seconds between batches
_SECONDS = 0.3  # of audio in each clip
# Of a hundred requests; the rest asks for a known clip, most of the time a hit.
_SHARES = {"new": 12, "unkept": 4, "missing": 2, "unreadable": 2, "late": 1, "again": 2}


class SteadyLoad:
    """Submits `rate` requests a second until told to stop; notes them in the ledger."""

    def __init__(self, folder: Path, ledger: Ledger, *, rate: float, seed: int) -> None:
        self.refused: int = 0
        self._rate = rate
        self._ledger = ledger
        self._draw = random.Random(seed)
        self._numbers = itertools.count()
        self._known = [write_clip(folder, number, _SECONDS) for number in range(_KNOWN_CLIPS)]
        self._missing = (folder / "missing.wav").as_uri()
        (folder / "unreadable.wav").write_bytes(b"no recording at all")
        self._unreadable = (folder / "unreadable.wav").as_uri()

    async def run(self, client: Client, ended: asyncio.Event) -> None:
        began, sent = time.monotonic(), 0
        while not ended.is_set():
            due = int((time.monotonic() - began) * self._rate)
            await self._submit(client, [self._request() for _ in range(due - sent)])
            sent = due
            try:
                await asyncio.wait_for(ended.wait(), _TICK)
            except TimeoutError:
                continue

    async def _submit(self, client: Client, batch: list[Submission]) -> None:
        for answer in await client.submit_many(batch):
            if isinstance(answer, SensestreamError):
                self.refused += 1
            elif not answer.duplicate:
                self._ledger.add(answer.id)

    def _request(self) -> Submission:
        number = next(self._numbers)
        priority = Lane.HIGH if self._draw.random() < 0.2 else Lane.NORMAL
        kinds = {**_SHARES, "known": 100 - sum(_SHARES.values())}
        [kind] = self._draw.choices(list(kinds), list(kinds.values()))
        fields = {"id": f"soak-{number}", "priority": priority, **self._particulars(kind, number)}
        return Submission(**fields)

    def _particulars(self, kind: str, number: int) -> dict[str, Any]:
        known = self._draw.choice(self._known)
        match kind:
            case "new":  # a recording that nobody has sent before, uploaded
                return {"audio": encoded(tone(_KNOWN_CLIPS + number, _SECONDS))}
            case "unkept":
                return {"audio": known, "ttl": 0}
            case "missing":
                return {"audio": self._missing}
            case "unreadable":
                return {"audio": self._unreadable}
            case "late":
                return {"audio": known, "deadline": timedelta(milliseconds=1)}
            case "again":  # an id of a moment ago: accepted again only if that one has failed
                return {"audio": known, "id": f"soak-{max(0, number - 50)}"}
            case _:
                return {"audio": known}
