"""The pipeline as the gateway's routes use it: submit recordings, read jobs and outcomes.

It is made of the asyncio client's components. Unlike the client, it hashes an upload before it
submits it, so a known recording is answered without being stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace

from sensestream_common.contract.errors import ErrorCode, WaitTimeout
from sensestream_common.contract.outcome import Outcome, outcome_from_entry

from sensestream_producer.client import identified
from sensestream_producer.gateway.errors import ApiError
from sensestream_producer.gateway.settings import GatewaySettings
from sensestream_producer.gateway.uploads.multipart import File
from sensestream_producer.gateway.uploads.stores import Store, present
from sensestream_producer.operations.dead_letters import DeadLetters
from sensestream_producer.operations.result_cache import Results
from sensestream_producer.operations.status import (
    PipelineStatus,
    RequestStatus,
    pipeline_status,
    request_status,
)
from sensestream_producer.outcomes.stream_ids import entries
from sensestream_producer.outcomes.waiter import OutcomeWaiter
from sensestream_producer.submit.cached_answers import CachedAnswers
from sensestream_producer.submit.pending import PendingSubmit
from sensestream_producer.submit.submission import Receipt, RequestState, Submission
from sensestream_producer.submit.submitter import Submitter
from sensestream_producer.submit.tracing import traced
from sensestream_producer.submit.uploads import Staged, Uploads
from sensestream_producer.transport import RedisTransport

__all__ = ["Backend"]

_RETRY_TIMEOUT = 5.0  # seconds that a call waits for Redis before it gets a 503


class Backend:
    """One pipeline, for all calls of a gateway, in one event loop.

    Uploads are kept in `store` until a worker reads them, or in Redis if it is `None`.
    """

    def __init__(self, settings: GatewaySettings, store: Store | None = None) -> None:
        self.keys = settings.keys
        self.link = RedisTransport(settings.redis_url, retry_timeout=_RETRY_TIMEOUT)
        self.dead = DeadLetters(self.link, self.keys, max_backlog=settings.max_backlog)
        self.results = Results(self.link, self.keys)
        cached = CachedAnswers(self.link, self.keys, role="gateway")
        self._submitter = Submitter(
            self.link,
            self.keys,
            max_backlog=settings.max_backlog,
            cached=cached if settings.answer_cache_hits else None,
        )
        self._uploads = Uploads(self.link, self.keys, max_bytes=settings.max_upload_bytes)
        self._outcomes = OutcomeWaiter(self.link, self.keys)
        self.store = store

    async def close(self) -> None:
        """Finish what is being sent, and disconnect."""
        await self._submitter.close()
        await self._uploads.close()
        await self._outcomes.close()
        await self.link.close()

    async def ping(self) -> None:
        """Return when Redis answers; `RedisUnavailable` if it does not."""
        await self.link.run(self.link.redis.ping)

    async def submit(self, submission: Submission, file: File | None = None) -> Receipt:
        """Submit a reference, or a file. The receipt has the outcome if the result is cached.

        Raises what `Client.submit` raises, and `ApiError` for an empty file.
        """
        named = identified(submission, {})
        receipt = await traced(lambda one: self._submit(one, file), named, self.keys)
        if not submission.id:  # a made-up id stands already only when a lost reply was sent twice
            return replace(receipt, duplicate=False)
        return receipt

    async def outcome(self, receipt: Receipt, *, timeout: float) -> Outcome | None:
        """Wait for the outcome of a submitted request.

        Returns `None` after `timeout` seconds, or when the outcome is no longer kept.
        """
        if receipt.answer is not None:
            return self.present(receipt.answer)
        if receipt.state == RequestState.DONE:
            return await self.read_outcome(receipt.outcome)
        return await self.wait(receipt.id, timeout=timeout)

    async def wait(self, request_id: str, *, timeout: float) -> Outcome | None:
        """Wait for the outcome of the request with this id; `None` after `timeout` seconds."""
        if timeout <= 0:
            return None
        with suppress(WaitTimeout, TimeoutError):
            async with asyncio.timeout(timeout):
                return self.present(await self._outcomes.wait_for_known_id(request_id))
        return None

    async def read_outcome(self, stream_id: str) -> Outcome | None:
        """The outcome with this stream id, as callers may see it; `None` if no longer kept."""
        stream = self.keys.transcripts
        found = await self.link.run(lambda: entries(self.link.redis, stream, stream_id, stream_id))
        return self.present(outcome_from_entry(found[0][1])) if found else None

    def present(self, outcome: Outcome) -> Outcome:
        """The outcome as callers may see it."""
        return present(outcome, self.store)

    async def status(self, request_id: str) -> RequestStatus | None:
        """The status of a request, with its outcome as callers may see it; `None` if unknown."""
        found = await self.link.run(lambda: request_status(self.link.redis, self.keys, request_id))
        if found is None or found.outcome is None:
            return found
        return replace(found, outcome=self.present(found.outcome))

    async def pipeline_status(self) -> PipelineStatus:
        """Backlog, living workers and counters of the pipeline."""
        return await self.link.run(lambda: pipeline_status(self.link.redis, self.keys))

    async def _submit(self, submission: Submission, file: File | None) -> Receipt:
        request = submission.request(submission.id, self.keys)
        submit = PendingSubmit(request, submission.lane, submission.time_left)
        if file is None:
            return await self._submitter.send(submit)
        if file.spool.size == 0:
            message = "the file is empty: send a recording"
            raise ApiError(400, ErrorCode.AUDIO_EMPTY.value, message, param=file.field)
        submit = replace(submit, request=replace(request, digest=file.digest), hashed=True)
        if receipt := await self._submitter.send_cached(submit):
            return receipt
        if self.store is None:
            return await self._stage(submit, file)
        return await self._put(self.store, submit, file)

    async def _put(self, store: Store, submit: PendingSubmit, file: File) -> Receipt:
        """Store the bytes outside Redis, and submit a reference to them."""
        reference = await asyncio.to_thread(store.put, file.spool)
        receipt = None
        try:
            request = replace(submit.request, audio=reference)
            receipt = await self._submitter.send(replace(submit, request=request))
        finally:
            if receipt is None or not await self._awaits(receipt, reference):
                await asyncio.to_thread(store.remove, reference)
        return receipt

    async def _awaits(self, receipt: Receipt, reference: str) -> bool:
        """Whether a worker will read `reference`: not for an answered request, or a known id.

        After a lost reply the request is its own duplicate, so its entry is compared.
        """
        if not receipt.duplicate:
            return receipt.answer is None
        if not receipt.entry:
            return False
        lane = self.keys.lane(receipt.lane)
        found = await self.link.run(
            lambda: entries(self.link.redis, lane, receipt.entry, receipt.entry)
        )
        return bool(found) and found[0][1].get(b"audio") == reference.encode()

    async def _stage(self, submit: PendingSubmit, file: File) -> Receipt:
        def send(staged: Staged) -> Awaitable[Receipt]:
            return self._submitter.send(replace(submit, staged=staged.key))

        return await self._uploads.send_chunks(file.spool.chunks, send)
