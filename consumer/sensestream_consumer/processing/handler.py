"""One request's way through the worker, from its stream entry to its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.outcome import CacheUse, Outcome, Status, transcript_fields
from sensestream_common.contract.request import BadRequest, Request, decode_request
from sensestream_common.redaction import redacted

from sensestream_consumer.broker.deliveries import Delivery
from sensestream_consumer.broker.outbox import Commit, CommitResult, Outbox
from sensestream_consumer.cache.results import Cache
from sensestream_consumer.processing.attempts import DeliveryLost
from sensestream_consumer.processing.resolver import Resolution, Resolver
from sensestream_consumer.processing.slots import AtCapacity
from sensestream_consumer.telemetry.metrics import count_outcome
from sensestream_consumer.telemetry.request_log import bind_request, log_outcome
from sensestream_consumer.telemetry.stages import (
    Stage,
    StageTiming,
    begin_timings,
    now,
    picked_up_at,
    timed,
    timings,
)
from sensestream_consumer.telemetry.tracing import Tracing

__all__ = ["Handler"]

log = structlog.get_logger(__name__)


class Handler:
    """Gives every entry its outcome. One per worker; `handle` runs once for each entry held."""

    def __init__(
        self,
        answers: Resolver,
        outbox: Outbox,
        cache: Cache,
        *,
        clock: Callable[[], int],
        consumer: str,
        model: str,
        tracing: Tracing,
    ) -> None:
        self._answers = answers
        self._outbox = outbox
        self._cache = cache
        self._clock = clock
        self._consumer = consumer
        self._model = model
        self._tracing = tracing

    async def handle(self, held: Delivery) -> None:
        """Answer one entry with exactly one outcome.

        Raises `AtCapacity` when it must go back to the stream, `DeliveryLost` when another worker
        holds it now.
        """
        picked_up = self._clock()
        begin_timings()
        request = decode_request(held.entry, held.fields)
        bind_request(held.entry, request)
        if isinstance(request, BadRequest):
            await self._fail(held, request, request.error, picked_up)
            return
        try:
            answer = await self._answers.find(held, request)
        except RequestError as error:
            await self._fail(held, request, error, picked_up)
        except (AtCapacity, DeliveryLost):
            raise
        except Exception as error:
            log.exception("request_internal_error")
            await self._fail(held, request, _mistake(error), picked_up)
        else:
            await self._complete(held, request, answer, picked_up)

    def recall(self, entries: Iterable[Delivery]) -> tuple[list[Commit], list[Delivery]]:
        """Of a batch, the answers that this worker has given before, and the entries without one.

        Nothing is read for them but the entry itself.
        """
        picked_up = self._clock()
        known, others = [], []
        for held in entries:
            try:
                commit = self._recall(held, picked_up)
            except Exception:
                log.exception("recall_failed", entry=held.entry)  # its own task fails for itself
                commit = None
            if commit is None:
                others.append(held)
            else:
                known.append(commit)
        return known, others

    def _recall(self, held: Delivery, picked_up: int) -> Commit | None:
        if not held.fields.get(b"digest"):
            return None
        request = decode_request(held.entry, held.fields)
        if isinstance(request, BadRequest):
            return None
        answer = self._answers.recall(request)
        return self._completed(held, request, answer, picked_up) if answer else None

    async def repeat(self, commits: Sequence[Commit]) -> list[Delivery]:
        """Answer a batch as recalled, in one step; the entries that must go the usual way."""
        began = now()
        settled = await self._outbox.commit_all(commits)
        timings = [StageTiming(Stage.COMMIT, began, now())]
        left = []
        for commit, how in zip(commits, settled, strict=True):
            if how in (CommitResult.RESULT_CHANGED, CommitResult.REJECTED):
                left.append(commit.delivery)
            else:
                self._tell(
                    commit.delivery, commit.outcome, how is CommitResult.COMMITTED, began, timings
                )
        return left

    async def _complete(
        self, held: Delivery, request: Request, answer: Resolution, picked_up: int
    ) -> None:
        commit = self._completed(held, request, answer, picked_up)
        committed = False
        try:
            with timed(Stage.COMMIT):
                committed = await self._outbox.publish(commit)
        finally:
            if not committed and answer.lease is not None:
                await self._cache.release(answer.lease)
        self._tell(held, commit.outcome, committed, picked_up_at(), timings())

    def _completed(
        self, held: Delivery, request: Request | BadRequest, answer: Resolution, picked_up: int
    ) -> Commit:
        outcome = _outcome(
            held,
            request,
            Status.COMPLETED,
            **transcript_fields(answer.transcript),
            cache=answer.cache,
            digest=answer.digest,
            model=self._model,
            started_at=picked_up,
            finished_at=self._clock(),
            worker=self._consumer,
            attempt=held.attempt if answer.cache is CacheUse.MISS else 0,
        )
        return Commit(held, outcome, answer.keep, answer.lease, request.callback_url)

    async def _fail(
        self, held: Delivery, request: Request | BadRequest, error: RequestError, picked_up: int
    ) -> None:
        outcome = _outcome(
            held,
            request,
            Status.FAILED,
            error=error.code,
            # A file name that is no UTF-8 may stand in it, and could not be sent.
            message=error.message.encode("utf-8", "replace").decode(),
            digest=held.digest,
            started_at=picked_up,
            finished_at=self._clock(),
            worker=self._consumer,
            attempt=held.attempt,
        )
        with timed(Stage.COMMIT):
            committed = await self._outbox.commit(held, outcome, callback_url=request.callback_url)
        self._tell(held, outcome, committed, picked_up_at(), timings())

    def _tell(
        self,
        held: Delivery,
        outcome: Outcome,
        committed: bool,
        began: int,
        timings: Sequence[StageTiming],
    ) -> None:
        log_outcome(outcome, committed, timings)
        count_outcome(outcome, committed, timings)
        self._tracing.record(held.lane, outcome, began, timings)


def _mistake(error: Exception) -> RequestError:
    """What its sender is told of a fault of ours."""
    return RequestError(
        ErrorCode.INTERNAL,
        f"the worker failed on it ({type(error).__name__}): its log tells more; "
        "replay the dead letter once that is fixed",
    )


def _outcome(
    held: Delivery, request: Request | BadRequest, status: Status, **found: Any
) -> Outcome:
    """What was found, and what only echoes the request."""
    return Outcome(
        id=request.id,
        entry=held.entry,
        status=status,
        audio=redacted(request.audio),
        submitted_at=request.submitted_at,
        metadata=request.metadata,
        traceparent=request.traceparent,
        **found,
    )
