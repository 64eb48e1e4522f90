"""A whole pipeline in memory, under a test's control."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from sensestream_common.contract.keys import Keys
from sensestream_common.contract.outcome import Outcome
from sensestream_common.contract.request import Request

from sensestream_producer.client import RETRY_TIMEOUT
from sensestream_producer.settings import MAX_UPLOAD_BYTES
from sensestream_producer.testing.client import BlockingClient, Client
from sensestream_producer.testing.script import Answer, Script
from sensestream_producer.testing.store import Store
from sensestream_producer.testing.worker import ScriptedWorker

__all__ = ["ScriptedPipeline"]


class ScriptedPipeline:
    """Answers every request at once with what was scripted for its audio, or with `default`.

    An answer is a text, a `Transcript`, an `ErrorCode` or `RequestError` (the outcome is then a
    failed one), or a function from the `Request` to a text or transcript, which may raise a
    `RequestError` and must not use a client. Results are cached and requests are idempotent as
    the contract says. Safe to use from any number of threads and event loops at once.
    """

    def __init__(self, default: Answer = "", *, pipeline: str = "sensestream") -> None:
        self._store = Store(Keys(pipeline))
        self._script = Script(default)
        self._worker = ScriptedWorker(self._store, self._script)

    def client(
        self,
        url: str = "",
        pipeline: str = "",
        *,
        max_backlog: int = 1_000_000,
        max_upload_bytes: int = MAX_UPLOAD_BYTES,
        retry_timeout: float = RETRY_TIMEOUT,
    ) -> Client:
        """An asyncio client. It may stand for the class: url, name and patience do nothing."""
        del url, pipeline, retry_timeout
        return Client(
            self._store, self._worker, max_backlog=max_backlog, max_upload_bytes=max_upload_bytes
        )

    def blocking_client(
        self,
        url: str = "",
        pipeline: str = "",
        *,
        max_backlog: int = 1_000_000,
        max_upload_bytes: int = MAX_UPLOAD_BYTES,
        retry_timeout: float = RETRY_TIMEOUT,
    ) -> BlockingClient:
        """A blocking client, which may stand for its class as well."""

        def make() -> Client:
            return self.client(
                url,
                pipeline,
                max_backlog=max_backlog,
                max_upload_bytes=max_upload_bytes,
                retry_timeout=retry_timeout,
            )

        return BlockingClient(make)

    # -- what is heard ------------------------------------------------------------------------

    def answer(self, audio: str | Path | bytes, answer: Answer) -> None:
        """Script the answer to a reference, to a `sha256:…` digest, or to a file or its bytes."""
        with self._store.lock:
            self._script.answer(audio, answer)

    @property
    def default(self) -> Answer:
        """The answer to whatever has none of its own."""
        return self._script.default

    @default.setter
    def default(self, answer: Answer) -> None:
        with self._store.lock:
            self._script.default = answer

    def contain(self, reference: str, content: Path | bytes) -> None:
        """Say which bytes are behind a reference: their digest counts for cache and mismatch."""
        with self._store.lock:
            self._script.contain(reference, content)

    # -- when it is heard ---------------------------------------------------------------------

    @contextmanager
    def workers_away(self) -> Iterator[None]:
        """While inside, requests stand in their lanes and nobody takes them up."""
        with self._store.lock:
            self._worker.away += 1
        try:
            yield
        finally:
            with self._store.lock:
                self._worker.away -= 1
                self._worker.work(self._store.now())

    @contextmanager
    def recogniser_busy(self) -> Iterator[None]:
        """While inside, requests are taken up and not finished; equal ones join each other.

        What needs no recogniser (a hit, audio that is not there) is answered all the same.
        """
        with self._store.lock:
            self._worker.busy += 1
        try:
            yield
        finally:
            with self._store.lock:
                self._worker.busy -= 1
                self._worker.work(self._store.now())

    def let_through(self, count: int = 1) -> int:
        """Answer the next `count` requests that are held up; how many there were."""
        with self._store.lock:
            return self._worker.let_through(count, self._store.now())

    def advance(self, time: timedelta) -> None:
        """Let time pass on the pipeline's clock: deadlines, times to live, ages."""
        with self._store.lock:
            self._store.offset += time
            self._store.expire(self._store.now())

    def forget_outcomes(self) -> None:
        """Let go of all outcomes, as the janitor does past their retention: a gap to followers."""
        with self._store.lock:
            self._store.trim((self._store.last[0], self._store.last[1] + 1))

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        """While inside, every verb raises `RedisUnavailable` at once; waits begun before go on."""
        with self._store.lock:
            self._store.reachable = False
        try:
            yield
        finally:
            with self._store.lock:
                self._store.reachable = True

    # -- what happened ------------------------------------------------------------------------

    @property
    def waiting(self) -> list[Request]:
        """The requests not yet answered, oldest first."""
        with self._store.lock:
            return [standing.request for standing in self._store.standing.values()]

    @property
    def heard(self) -> list[Request]:
        """The requests that the recogniser was asked for: neither hits nor those that joined."""
        with self._store.lock:
            return list(self._worker.heard)

    @property
    def outcomes(self) -> list[Outcome]:
        """All outcomes that are kept, oldest first."""
        with self._store.lock:
            return list(self._store.outcomes.values())
