"""A whole pipeline in memory, under a test's control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from sensestream_common.contract.alias import AudioWarning
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
        """An asyncio client.

        Takes the arguments of the class `Client`, so that it can replace the class in a test;
        `url`, `pipeline` and `retry_timeout` have no effect.
        """
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
        """A blocking client; takes the arguments of the class `blocking.Client`."""

        def make() -> Client:
            return self.client(
                url,
                pipeline,
                max_backlog=max_backlog,
                max_upload_bytes=max_upload_bytes,
                retry_timeout=retry_timeout,
            )

        return BlockingClient(make)

    # -- answers ------------------------------------------------------------------------------

    def answer(
        self,
        audio: str | Path | bytes,
        answer: Answer,
        *,
        warnings: Sequence[AudioWarning] = (),
    ) -> None:
        """Script the answer to a reference, to a `sha256:…` digest, or to a file or its bytes.

        `warnings` are those about the recording: every completed outcome for it has them.
        """
        with self._store.lock:
            self._script.answer(audio, answer, warnings)

    @property
    def default(self) -> Answer:
        """The answer to every recording that has none of its own."""
        return self._script.default

    @default.setter
    def default(self, answer: Answer) -> None:
        with self._store.lock:
            self._script.default = answer

    def contain(self, reference: str, content: Path | bytes) -> None:
        """Set the bytes behind a reference: their digest counts for cache and mismatch."""
        with self._store.lock:
            self._script.contain(reference, content)

    # -- timing -------------------------------------------------------------------------------

    @contextmanager
    def workers_away(self) -> Iterator[None]:
        """While inside, requests wait in their lanes."""
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
        """While inside, requests are picked up and not finished; equal ones are coalesced.

        Requests that need no recogniser (cache hits, missing audio) are answered all the same.
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
        """Answer the next `count` waiting requests; returns how many were answered."""
        with self._store.lock:
            return self._worker.let_through(count, self._store.now())

    def advance(self, time: timedelta) -> None:
        """Move the pipeline's clock: deadlines, times to live, ages."""
        with self._store.lock:
            self._store.offset += time
            self._store.expire(self._store.now())

    def forget_outcomes(self) -> None:
        """Drop all outcomes, as the janitor does after their retention: a `Gap` for followers."""
        with self._store.lock:
            self._store.trim((self._store.last[0], self._store.last[1] + 1))

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        """While inside, every call raises `RedisUnavailable` at once; earlier waits go on."""
        with self._store.lock:
            self._store.reachable = False
        try:
            yield
        finally:
            with self._store.lock:
                self._store.reachable = True

    # -- records ------------------------------------------------------------------------------

    @property
    def waiting(self) -> list[Request]:
        """The requests not yet answered, oldest first."""
        with self._store.lock:
            return [queued.request for queued in self._store.queued.values()]

    @property
    def transcribed(self) -> list[Request]:
        """The requests that were transcribed: neither cache hits nor coalesced ones."""
        with self._store.lock:
            return list(self._worker.transcribed)

    @property
    def outcomes(self) -> list[Outcome]:
        """All outcomes that are kept, oldest first."""
        with self._store.lock:
            return list(self._store.outcomes.values())
