"""One request's way through the worker, from its stream entry to its outcome."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from sensestream_common.errors import ErrorCode, RequestError
from sensestream_common.outcome import CacheUse, Outcome, Status, said
from sensestream_common.redaction import redacted
from sensestream_common.request import BadRequest, Request, decode_request

from sensestream_consumer.account import give_account, identify
from sensestream_consumer.answers import Answer, Answers
from sensestream_consumer.cache import Cache
from sensestream_consumer.holding import Held
from sensestream_consumer.metrics.counted import count_outcome
from sensestream_consumer.outbox import Outbox
from sensestream_consumer.room import NoRoom
from sensestream_consumer.stages import Stage, began, begin_laps, laps, stage
from sensestream_consumer.starts import EntryLost
from sensestream_consumer.tracing import Tracing

__all__ = ["Handler"]

log = structlog.get_logger(__name__)


class Handler:
    """Gives every entry its outcome. One per worker; `handle` runs once for each entry held."""

    def __init__(
        self,
        answers: Answers,
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

    async def handle(self, held: Held) -> None:
        """Answer one entry with exactly one outcome.

        Raises `NoRoom` when it must go back to the stream, `EntryLost` when it is another's now.
        """
        picked_up = self._clock()
        begin_laps()
        request = decode_request(held.entry, held.fields)
        identify(held, request)
        if isinstance(request, BadRequest):
            await self._fail(held, request, request.error, picked_up)
            return
        try:
            answer = await self._answers.find(held, request)
        except RequestError as error:
            await self._fail(held, request, error, picked_up)
        except (NoRoom, EntryLost):
            raise
        except Exception as error:
            log.exception("request_failed_inside")
            await self._fail(held, request, _mistake(error), picked_up)
        else:
            await self._complete(held, request, answer, picked_up)

    async def _complete(self, held: Held, request: Request, answer: Answer, picked_up: int) -> None:
        outcome = _outcome(
            held,
            request,
            Status.COMPLETED,
            **said(answer.transcript),
            cache=answer.cache,
            digest=answer.digest,
            model=self._model,
            started_at=picked_up,
            finished_at=self._clock(),
            worker=self._consumer,
            attempt=held.attempt if answer.cache is CacheUse.MISS else 0,
        )
        committed = False
        try:
            with stage(Stage.COMMIT):
                committed = await self._outbox.commit(
                    held,
                    outcome,
                    keep=answer.keep,
                    lease=answer.lease,
                    callback_url=request.callback_url,
                )
        finally:
            if not committed and answer.lease is not None:
                await self._cache.release(answer.lease)
        self._tell(held, outcome, committed)

    async def _fail(
        self, held: Held, request: Request | BadRequest, error: RequestError, picked_up: int
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
        with stage(Stage.COMMIT):
            committed = await self._outbox.commit(held, outcome, callback_url=request.callback_url)
        self._tell(held, outcome, committed)

    def _tell(self, held: Held, outcome: Outcome, committed: bool) -> None:
        give_account(outcome, committed)
        count_outcome(outcome, committed)
        self._tracing.tell(held, outcome, began(), laps())


def _mistake(error: Exception) -> RequestError:
    """What its sender is told of a fault of ours."""
    return RequestError(
        ErrorCode.INTERNAL,
        f"the worker failed on it ({type(error).__name__}): its log tells more; "
        "replay the dead letter once that is mended",
    )


def _outcome(held: Held, request: Request | BadRequest, status: Status, **found: Any) -> Outcome:
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
