"""From a delivery to its outcome: decode the request, resolve it, commit, report.

handle             one delivery, in a task of its own
resolve_locally    the cache hits in a batch, as far as this worker remembers them
commit_hits        their commit, in one step
"""

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
    """Gives every delivery its outcome. One per worker."""

    def __init__(
        self,
        resolver: Resolver,
        outbox: Outbox,
        cache: Cache,
        *,
        clock: Callable[[], int],
        consumer: str,
        model: str,
        tracing: Tracing,
    ) -> None:
        """`clock` is in milliseconds since the epoch; `model` is the recogniser's name."""
        self._resolver = resolver
        self._outbox = outbox
        self._cache = cache
        self._clock = clock
        self._consumer = consumer
        self._model = model
        self._tracing = tracing

    async def handle(self, delivery: Delivery) -> None:
        """Answer one delivery with exactly one outcome.

        Raises `AtCapacity` when it must be handed back, `DeliveryLost` when another worker owns it
        now.
        """
        started_at = self._clock()
        begin_timings()
        request = decode_request(delivery.entry, delivery.fields)
        bind_request(delivery.entry, request)
        if isinstance(request, BadRequest):
            await self._fail(delivery, request, request.error, started_at)
            return
        try:
            resolution = await self._resolver.resolve(delivery, request)
        except RequestError as error:
            await self._fail(delivery, request, error, started_at)
        except (AtCapacity, DeliveryLost):
            raise
        except Exception as error:
            log.exception("request_internal_error")
            await self._fail(delivery, request, _internal(error), started_at)
        else:
            await self._complete(delivery, request, resolution, started_at)

    def resolve_locally(
        self, deliveries: Iterable[Delivery]
    ) -> tuple[list[Commit], list[Delivery]]:
        """Find the cache hits in a batch that this worker remembers, with no look-up in Redis.

        Returns their commits, and the deliveries that need more.
        """
        started_at = self._clock()
        commits, others = [], []
        for delivery in deliveries:
            try:
                commit = self._resolve_locally(delivery, started_at)
            except Exception:  # raised again, and answered, in the delivery's own task
                log.exception("local_lookup_failed", entry=delivery.entry)
                commit = None
            if commit is None:
                others.append(delivery)
            else:
                commits.append(commit)
        return commits, others

    def _resolve_locally(self, delivery: Delivery, started_at: int) -> Commit | None:
        if not delivery.fields.get(b"digest"):
            return None
        request = decode_request(delivery.entry, delivery.fields)
        if isinstance(request, BadRequest):
            return None
        hit = self._resolver.resolve_locally(request)
        return self._commit(delivery, request, hit, started_at) if hit else None

    async def commit_hits(self, commits: Sequence[Commit]) -> list[Delivery]:
        """Answer the cache hits of a batch in one step.

        Returns the deliveries that were not answered: Redis keeps another transcript, or none.
        """
        sent_at = now()
        results = await self._outbox.commit_all(commits)
        commit_timing = [StageTiming(Stage.COMMIT, sent_at, now())]
        unanswered = []
        for commit, result in zip(commits, results, strict=True):
            if result in (CommitResult.RESULT_CHANGED, CommitResult.REJECTED):
                unanswered.append(commit.delivery)
            else:
                committed = result is CommitResult.COMMITTED
                self._report(commit.delivery, commit.outcome, committed, sent_at, commit_timing)
        return unanswered

    async def _complete(
        self, delivery: Delivery, request: Request, resolution: Resolution, started_at: int
    ) -> None:
        commit = self._commit(delivery, request, resolution, started_at)
        committed = False
        try:
            with timed(Stage.COMMIT):
                committed = await self._outbox.publish(commit)
        finally:
            # The lease was handed over to this commit, which gives it up where it succeeds.
            if not committed and commit.lease is not None:
                await self._cache.release(commit.lease)
        self._report(delivery, commit.outcome, committed, picked_up_at(), timings())

    def _commit(
        self, delivery: Delivery, request: Request, resolution: Resolution, started_at: int
    ) -> Commit:
        outcome = _outcome(
            delivery,
            request,
            Status.COMPLETED,
            **transcript_fields(resolution.transcript),
            warnings=resolution.warnings,
            cache=resolution.cache,
            digest=resolution.digest,
            model=self._model,
            started_at=started_at,
            finished_at=self._clock(),
            worker=self._consumer,
            attempt=delivery.attempt if resolution.cache is CacheUse.MISS else 0,
        )
        return Commit(
            delivery, outcome, resolution.cache_write, resolution.lease, request.callback_url
        )

    async def _fail(
        self,
        delivery: Delivery,
        request: Request | BadRequest,
        error: RequestError,
        started_at: int,
    ) -> None:
        outcome = _outcome(
            delivery,
            request,
            Status.FAILED,
            error=error.code,
            # A file name that is no UTF-8 may stand in it, and could not be sent.
            message=error.message.encode("utf-8", "replace").decode(),
            digest=delivery.digest,
            started_at=started_at,
            finished_at=self._clock(),
            worker=self._consumer,
            attempt=delivery.attempt,
        )
        with timed(Stage.COMMIT):
            committed = await self._outbox.commit(
                delivery, outcome, callback_url=request.callback_url
            )
        self._report(delivery, outcome, committed, picked_up_at(), timings())

    def _report(
        self,
        delivery: Delivery,
        outcome: Outcome,
        committed: bool,
        began: int,
        stage_timings: Sequence[StageTiming],
    ) -> None:
        log_outcome(outcome, committed, stage_timings)
        count_outcome(outcome, committed, stage_timings)
        self._tracing.record(delivery.lane, outcome, began, stage_timings)


def _internal(error: Exception) -> RequestError:
    """The error that a sender is told of a fault in the worker."""
    return RequestError(
        ErrorCode.INTERNAL,
        f"the worker failed on it ({type(error).__name__}): its log tells more; "
        "replay the dead letter once that is fixed",
    )


def _outcome(
    delivery: Delivery, request: Request | BadRequest, status: Status, **found: Any
) -> Outcome:
    """An outcome of what was found, and of what only echoes the request."""
    return Outcome(
        id=request.id,
        entry=delivery.entry,
        status=status,
        audio=redacted(request.audio),
        submitted_at=request.submitted_at,
        metadata=request.metadata,
        traceparent=request.traceparent,
        **found,
    )
