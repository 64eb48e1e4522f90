"""The blocking client: the verbs of the asyncio one, for code without an event loop.

    with Client("redis://127.0.0.1:6379/0") as client:
        outcome = client.transcribe("file:///data/a.wav")

The asyncio client does the work, on an event loop in a thread that starts with the first call. So
any number of threads share one client, its connections and its pipelines.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from sensestream_common.contract.errors import SensestreamError
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.outcome import Outcome

from sensestream_producer import client as asynchronous
from sensestream_producer.loop_thread import LoopThread, ThreadClosed
from sensestream_producer.operations.dead_letters import DeadLetter, DeadLetterFilter, ReplayResult
from sensestream_producer.operations.status import PipelineStatus, RequestStatus
from sensestream_producer.outcomes.follower import FollowedOutcome, Gap
from sensestream_producer.settings import MAX_UPLOAD_BYTES, ProducerSettings
from sensestream_producer.submit.submission import Receipt, Submission, SubmitOptions

__all__ = ["Client", "DeadLetters"]

T = TypeVar("T")


class Client:
    """A client of the pipeline called `pipeline` in the Redis at `url`, for any thread.

    Arguments and errors are those of the asyncio `Client`. Use it as `with Client(url) as
    client:`, or keep one for as long as the process lives. After `os.fork` (Celery, gunicorn
    with preload) the child's first call opens connections of its own. Ctrl-C ends a wait at once.
    In an event loop use the asyncio client: this one would block the loop.
    """

    def __init__(
        self,
        url: str,
        pipeline: str = "sensestream",
        *,
        max_backlog: int = 1_000_000,
        max_upload_bytes: int = MAX_UPLOAD_BYTES,
        retry_timeout: float = asynchronous.RETRY_TIMEOUT,
        answer_cache_hits: bool = True,
    ) -> None:
        def make() -> asynchronous.Client:
            return asynchronous.Client(
                url,
                pipeline,
                max_backlog=max_backlog,
                max_upload_bytes=max_upload_bytes,
                retry_timeout=retry_timeout,
                answer_cache_hits=answer_cache_hits,
            )

        self._set_up(make)

    def _set_up(self, make: Callable[[], asynchronous.Client]) -> None:
        self._make = make
        self._begin()
        self.keys: Keys = self._engine.client.keys
        self.dead = DeadLetters(self)
        _clients.add(self)

    def _begin(self) -> None:
        """Make the engine; again in a fork's child, which must not touch or close its parent's."""
        self._engine = _Engine(self._make())
        weakref.finalize(self, self._engine.close)  # closes a client that is dropped

    @classmethod
    def from_settings(
        cls, settings: ProducerSettings, *, retry_timeout: float = asynchronous.RETRY_TIMEOUT
    ) -> Self:
        """A client with these settings; an outage is retried for `retry_timeout` seconds."""
        return cls(
            settings.redis_url,
            settings.pipeline,
            max_backlog=settings.max_backlog,
            max_upload_bytes=settings.max_upload_bytes,
            retry_timeout=retry_timeout,
            answer_cache_hits=settings.answer_cache_hits,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish what is being sent, end waits and iterators, and disconnect."""
        self._engine.close()

    def ping(self) -> None:
        """Return when Redis answers; raise `RedisUnavailable` if it does not."""
        self._engine.run(lambda client: client.ping())

    def submit(
        self, audio: str | Path | bytes | Submission, **options: Unpack[SubmitOptions]
    ) -> Receipt:
        """Submit one recording; `options` are the fields of `Submission`.

        Returns when Redis holds the request. Raises `RequestError` for an invalid value (before
        anything is sent), `BacklogFull` or another `SubmitRefused` when Redis refuses the
        request, and `PipelineError` when a key has a foreign type.
        """
        return self._engine.run(lambda client: client.submit(audio, **options))

    def submit_file(self, file: str | Path | bytes, **options: Unpack[SubmitOptions]) -> Receipt:
        """Upload a file or bytes, and submit it: for files that workers cannot open.

        Raises what `submit` does, and `RequestError` for a file that is missing, empty or larger
        than `max_upload_bytes`.
        """
        return self._engine.run(lambda client: client.submit_file(file, **options))

    def submit_many(
        self, submissions: Iterable[Submission | str]
    ) -> list[Receipt | SensestreamError]:
        """Submit many, pipelined; returns a receipt or an error for each, in the order given."""
        given = list(submissions)  # a generator of the caller's may block: not on the loop
        return self._engine.run(lambda client: client.submit_many(given))

    def transcribe(
        self,
        audio: str | Path | bytes | Submission,
        *,
        timeout: float | None = 60.0,
        **options: Unpack[SubmitOptions],
    ) -> Outcome:
        """Submit one recording and wait for its outcome, which may be a failed one.

        Raises what `submit` does, and `WaitTimeout` after `timeout` seconds (`None`: never); the
        request stays in the queue then.
        """
        return self._engine.run(lambda client: client.transcribe(audio, timeout=timeout, **options))

    def wait(self, request_id: str, *, timeout: float | None = 60.0) -> Outcome:
        """Wait for the outcome of a submitted request; `WaitTimeout` after `timeout` seconds."""
        return self._engine.run(lambda client: client.wait(request_id, timeout=timeout))

    def follow(self, position: str = "$") -> Generator[FollowedOutcome | Gap]:
        """Yield all outcomes behind `position` from the stream, until the client is closed.

        `"0"` begins with the oldest that is kept, `"$"` with the next. Keep the `position` of
        the last outcome that you have handled and pass it to go on there: nothing is lost across
        reconnects and restarts, and outcomes that were trimmed are reported as a `Gap`. `close()`
        of the iterator gives its connection back, as does the end of a `for` loop over it.
        """
        yield from self._engine.iterate(lambda client: client.follow(position))

    def position(self) -> str:
        """The current end of the stream, from which to follow later outcomes."""
        return self._engine.run(lambda client: client.position())

    def listen(self) -> Generator[Outcome]:
        """Yield outcomes as they are announced: live, and lost while it is not connected."""
        yield from self._engine.iterate(lambda client: client.listen())

    def status(self, request_id: str) -> RequestStatus | None:
        """The state of a request; `None` for an unknown or expired id."""
        return self._engine.run(lambda client: client.status(request_id))

    def pipeline_status(self) -> PipelineStatus:
        """The backlog, the workers and the counters."""
        return self._engine.run(lambda client: client.pipeline_status())


class DeadLetters:
    """The dead letters of one pipeline."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def select(self, selection: DeadLetterFilter | None = None) -> Generator[DeadLetter]:
        """Yield the selected letters, oldest first."""
        yield from self._client._engine.iterate(lambda client: client.dead.select(selection))

    def find(self, letter: str) -> DeadLetter | None:
        """The letter with this stream id, or `None`."""
        return self._client._engine.run(lambda client: client.dead.find(letter))

    def replay(self, letter: DeadLetter, *, ignore_deadline: bool = False) -> ReplayResult:
        """Queue the request again as it was sent, and remove the letter, in one step."""
        return self._client._engine.run(
            lambda client: client.dead.replay(letter, ignore_deadline=ignore_deadline)
        )

    def purge(self, letter: DeadLetter) -> bool:
        """Remove a letter and its uploaded bytes; returns whether it still existed."""
        return self._client._engine.run(lambda client: client.dead.purge(letter))


class _Engine:
    """One process's asyncio client, and its thread, which starts with the first call."""

    def __init__(self, client: asynchronous.Client) -> None:
        self.client = client
        self._thread: LoopThread | None = None
        self._starting = threading.RLock()  # a signal's handler may close the client
        self.closed = False

    def run(self, verb: Callable[[asynchronous.Client], Coroutine[Any, Any, T]]) -> T:
        return self._running().run(verb(self.client))

    def iterate(self, verb: Callable[[asynchronous.Client], AsyncGenerator[T]]) -> Generator[T]:
        return self._running().iterate(lambda: verb(self.client))

    def close(self) -> None:
        with self._starting:
            self.closed = True
        if self._thread:
            self._thread.close()

    def _running(self) -> LoopThread:
        with self._starting:
            if self.closed:
                raise ThreadClosed
            if self._thread is None:
                self._thread = LoopThread(self.client, "sensestream-client")
            return self._thread


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        if not client._engine.closed:
            client._begin()


if hasattr(os, "register_at_fork"):  # where a process can fork
    os.register_at_fork(after_in_child=_after_fork)
