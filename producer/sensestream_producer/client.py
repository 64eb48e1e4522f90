"""The asyncio client of a pipeline: submit recordings, wait for transcripts, follow them all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from sensestream_common.contract.errors import SensestreamError
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.outcome import Outcome

from sensestream_producer.operations.dead_letters import DeadLetters
from sensestream_producer.operations.status import (
    PipelineStatus,
    RequestStatus,
    pipeline_status,
    request_status,
)
from sensestream_producer.outcomes.follower import FollowedOutcome, Gap, follow
from sensestream_producer.outcomes.listener import listen
from sensestream_producer.outcomes.stream_ids import id_text, last_id
from sensestream_producer.outcomes.wait_limit import wait_limit
from sensestream_producer.outcomes.waiter import OutcomeWaiter
from sensestream_producer.settings import MAX_UPLOAD_BYTES, ProducerSettings
from sensestream_producer.submit.cached_answers import CachedAnswers
from sensestream_producer.submit.pending import PendingSubmit
from sensestream_producer.submit.submission import (
    Receipt,
    Submission,
    SubmitOptions,
    new_request_id,
)
from sensestream_producer.submit.submitter import Submitter
from sensestream_producer.submit.tracing import traced
from sensestream_producer.submit.uploads import Staged, Uploads
from sensestream_producer.transport import RedisTransport

__all__ = ["RETRY_TIMEOUT", "Client", "identified", "submission_of"]

_MANY = 256  # submissions of `submit_many` that are under way at once
RETRY_TIMEOUT = 15.0  # seconds


class Client:
    """A client of the pipeline called `pipeline` in the Redis at `url`.

    An outage of Redis is retried for `retry_timeout` seconds, then raises `RedisUnavailable`.
    At most `max_backlog` requests may wait in the pipeline; an upload has at most
    `max_upload_bytes`. What the workers have heard before is answered at once, by the client
    itself, as far as they allow it; without `answer_cache_hits` they answer everything. Use it as
    `async with Client(url) as client:`, in one event loop.
    """

    def __init__(
        self,
        url: str,
        pipeline: str = "sensestream",
        *,
        max_backlog: int = 1_000_000,
        max_upload_bytes: int = MAX_UPLOAD_BYTES,
        retry_timeout: float = RETRY_TIMEOUT,
        answer_cache_hits: bool = True,
    ) -> None:
        self.keys = Keys(pipeline)
        self._link = RedisTransport(url, retry_timeout=retry_timeout)
        cached = CachedAnswers(self._link, self.keys, role="client") if answer_cache_hits else None
        self._submitter = Submitter(self._link, self.keys, max_backlog=max_backlog, cached=cached)
        self._uploads = Uploads(self._link, self.keys, max_bytes=max_upload_bytes)
        self._outcomes = OutcomeWaiter(self._link, self.keys)
        self.dead = DeadLetters(self._link, self.keys, max_backlog=max_backlog)

    @classmethod
    def from_settings(
        cls, settings: ProducerSettings, *, retry_timeout: float = RETRY_TIMEOUT
    ) -> Self:
        """A client of the pipeline that `settings` name."""
        return cls(
            settings.redis_url,
            settings.pipeline,
            max_backlog=settings.max_backlog,
            max_upload_bytes=settings.max_upload_bytes,
            retry_timeout=retry_timeout,
            answer_cache_hits=settings.answer_cache_hits,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Finish what is being sent, and disconnect."""
        await self._submitter.close()
        await self._uploads.close()
        await self._outcomes.close()
        await self._link.close()

    async def ping(self) -> None:
        """Return when Redis answers; `RedisUnavailable` if it does not."""
        await self._link.run(self._link.redis.ping)

    async def submit(
        self, audio: str | Path | bytes | Submission, **options: Unpack[SubmitOptions]
    ) -> Receipt:
        """Hand in one recording; `options` are the fields of `Submission`.

        Returns when Redis holds the request. Raises `RequestError` for a value that no request
        takes (before anything is sent), `BacklogFull` and other `SubmitRefused` when it was not
        taken, `PipelineError` when a key holds something foreign.
        """
        receipt = await self._send(identified(audio, options))
        # A made-up id stands already only when a lost reply made the client send it twice.
        if receipt.duplicate and not submission_of(audio, options).id:
            return replace(receipt, duplicate=False)
        return receipt

    async def submit_file(
        self, file: str | Path | bytes, **options: Unpack[SubmitOptions]
    ) -> Receipt:
        """Upload a file, or bytes, and hand it in: for workers that cannot open it themselves."""
        return await self.submit(file if isinstance(file, bytes) else Path(file), **options)

    async def submit_many(
        self, submissions: Iterable[Submission | str]
    ) -> list[Receipt | SensestreamError]:
        """Hand in many, pipelined; each has its receipt or its own error, in the order given."""
        results: list[Receipt | SensestreamError] = []
        chunk: list[Submission | str] = []
        for submission in submissions:
            chunk.append(submission)
            if len(chunk) == _MANY:
                results += await self._submit_chunk(chunk)
                chunk = []
        return results + await self._submit_chunk(chunk)

    async def transcribe(
        self,
        audio: str | Path | bytes | Submission,
        *,
        timeout: float | None = 60.0,
        **options: Unpack[SubmitOptions],
    ) -> Outcome:
        """Hand in one recording and wait for its outcome, which may be a failed one.

        Raises what `submit` does, and `WaitTimeout` after `timeout` seconds (`None`: never); the
        request stands all the same.
        """
        submission = identified(audio, options)
        async with wait_limit(submission.id, timeout):
            if self._may_be_answered(submission):
                receipt = await self._send(submission)
                return receipt.answer or await self._outcomes.wait_from_entry(receipt)
            return await self._outcomes.wait_after_submit(
                submission.id, lambda: self._send(submission)
            )

    async def wait(self, request_id: str, *, timeout: float | None = 60.0) -> Outcome:
        """The outcome of a request that a client submitted; `WaitTimeout` after `timeout` s."""
        async with wait_limit(request_id, timeout):
            return await self._outcomes.wait_for_known_id(request_id)

    def follow(self, position: str = "$") -> AsyncGenerator[FollowedOutcome | Gap]:
        """All outcomes behind `position`, for ever, from the stream.

        `"0"` begins with the oldest that is kept, `"$"` with the next. Keep the `position` of
        what you have dealt with and hand it in again to go on there: nothing is lost across
        reconnects and restarts, and where it must be, a `Gap` says so.
        """
        return follow(self._link, self.keys, position)

    async def position(self) -> str:
        """The position of now: to follow what comes from here on, later."""
        redis = self._link.redis
        return id_text(await self._link.run(lambda: last_id(redis, self.keys.transcripts)))

    def listen(self) -> AsyncGenerator[Outcome]:
        """Outcomes as they are announced: a live hint that misses what it is not there for."""
        return listen(self._link, self.keys)

    async def status(self, request_id: str) -> RequestStatus | None:
        """Where a request stands; `None` for an id that is not known (any more)."""
        redis = self._link.redis
        return await self._link.run(lambda: request_status(redis, self.keys, request_id))

    async def pipeline_status(self) -> PipelineStatus:
        """Backlog, workers and counters."""
        return await self._link.run(lambda: pipeline_status(self._link.redis, self.keys))

    async def _submit_chunk(
        self, chunk: list[Submission | str]
    ) -> list[Receipt | SensestreamError]:
        async def one(submission: Submission | str) -> Receipt | SensestreamError:
            try:
                return await self.submit(submission)
            except SensestreamError as error:
                return error

        return list(await asyncio.gather(*map(one, chunk)))

    def _send(self, submission: Submission) -> Awaitable[Receipt]:
        return traced(self._submit, submission, self.keys)

    def _may_be_answered(self, submission: Submission) -> bool:
        """Whether the outcome may well come with the receipt, and nothing need listen."""
        by_digest = submission.digest and isinstance(submission.audio, str)
        return bool(by_digest) and self._submitter.may_answer(hashed=False)

    async def _submit(self, submission: Submission) -> Receipt:
        """Send a submission that has its id; staged bytes are never left behind."""
        request = submission.request(submission.id, self.keys)
        submit = PendingSubmit(request, submission.lane, submission.time_left)
        if isinstance(submission.audio, str):
            return await self._submitter.send(submit)
        return await self._send_cached(submission.audio, submit) or await self._upload(
            submission.audio, submit
        )

    async def _send_cached(self, audio: Path | bytes, submit: PendingSubmit) -> Receipt | None:
        """The receipt for bytes whose result is cached: they are not uploaded."""
        if not self._submitter.may_answer(hashed=True):
            return None
        request = replace(submit.request, digest=await self._uploads.digest(audio))
        return await self._submitter.send_cached(replace(submit, request=request, hashed=True))

    async def _upload(self, audio: Path | bytes, submit: PendingSubmit) -> Receipt:
        def send(staged: Staged) -> Awaitable[Receipt]:
            request = replace(submit.request, digest=staged.digest)
            return self._submitter.send(replace(submit, request=request, staged=staged.key))

        return await self._uploads.send(audio, send)


def submission_of(audio: str | Path | bytes | Submission, options: SubmitOptions) -> Submission:
    """The submission with `options` in place of its own fields; made where `audio` is none yet."""
    if not isinstance(audio, Submission):
        return Submission(audio=audio, **options)
    return replace(audio, **options) if options else audio


def identified(audio: str | Path | bytes | Submission, options: SubmitOptions) -> Submission:
    """The same with an id, which is made up where there is none."""
    if not isinstance(audio, Submission) and "id" not in options:
        options = {**options, "id": new_request_id()}
        return Submission(audio=audio, **options)
    submission = submission_of(audio, options)
    return submission if submission.id else replace(submission, id=new_request_id())
