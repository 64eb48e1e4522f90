"""OpenAI's transcription API: /v1/audio/transcriptions and /v1/models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from sensestream_common.contract.errors import SensestreamError
from sensestream_common.contract.keys import Lane
from sensestream_common.contract.outcome import Outcome

from sensestream_producer.gateway.auth import Scope
from sensestream_producer.gateway.dependencies import AppState, State, require_scope
from sensestream_producer.gateway.errors import ApiError, openai_error, to_api_error
from sensestream_producer.gateway.formats import FORMATS, body_of, events_of
from sensestream_producer.gateway.openapi import OPENAI_ERRORS, TRANSCRIPTION
from sensestream_producer.gateway.routes.params import flag, language_of, one_file, require_one_of
from sensestream_producer.gateway.routes.sse import COMMENT, encode, stream
from sensestream_producer.gateway.routes.waiting import completed_outcome
from sensestream_producer.gateway.uploads.multipart import Form
from sensestream_producer.submit.submission import Receipt, Submission

__all__ = ["router"]

# Seconds until a stream begins without its outcome. Errors within them have a status of their own.
_HEADERS_AFTER = 5.0
_KEEP_ALIVE = 10.0  # seconds between two signs of life, below the time-outs of usual proxies
_GRANULARITIES = ("segment", "word")

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=OPENAI_ERRORS)


@router.post(
    "/audio/transcriptions",
    dependencies=[Depends(require_scope(Scope.SUBMIT))],
    openapi_extra=TRANSCRIPTION,
    summary="Transcribe a recording",
)
async def transcriptions(request: Request, state: State) -> Response:
    """OpenAI's call: takes a recording, and answers with its transcript."""
    async with state.form(request) as form:
        response_format = form.text("response_format") or "json"
        streamed = flag("stream", form.text("stream"), False)
        require_one_of("response_format", response_format, FORMATS)
        granularities = _granularities(form)
        receipt = await state.backend.submit(_submission(form), one_file(form))
    if streamed:
        return await _streamed(state, receipt)
    outcome = await completed_outcome(state, receipt)
    body = body_of(outcome, response_format, granularities)
    return Response(body, headers=_headers(outcome), media_type=FORMATS[response_format])


@router.get("/models", dependencies=[Depends(require_scope(None))], summary="List models")
async def models(state: State) -> dict[str, Any]:
    """The models that living workers run."""
    return {"object": "list", "data": await _models(state)}


@router.get(
    "/models/{model:path}", dependencies=[Depends(require_scope(None))], summary="Get a model"
)
async def model(model: str, state: State) -> dict[str, Any]:
    """A model that a living worker runs."""
    for found in await _models(state):
        if found["id"] == model:
            return found
    message = f"no worker runs the model {model!r:.80}: see /v1/models"
    raise ApiError(404, "model_not_found", message, param="model")


def _submission(form: Form) -> Submission:
    itn = flag("itn", form.text("itn"), True)
    priority = form.text("priority") or Lane.NORMAL
    return Submission(audio=b"", language=language_of(form), itn=itn, priority=priority)


def _granularities(form: Form) -> list[str]:
    chosen = form.texts("timestamp_granularities")
    for granularity in chosen:
        require_one_of("timestamp_granularities", granularity, _GRANULARITIES)
    return chosen


async def _streamed(state: AppState, receipt: Receipt) -> Response:
    waiting = asyncio.create_task(completed_outcome(state, receipt), name="gateway-transcription")
    done, _ = await asyncio.wait([waiting], timeout=_HEADERS_AFTER)
    if done:
        waiting.result()  # raises the error of a job that failed by now
    return stream(_events(waiting))


async def _events(waiting: asyncio.Task[Outcome]) -> AsyncIterator[bytes]:
    try:
        while not (await asyncio.wait([waiting], timeout=_KEEP_ALIVE))[0]:
            yield COMMENT
        try:
            outcome = waiting.result()
        except ApiError as error:
            yield encode(openai_error(error), event="error")
            return
        except SensestreamError as error:
            yield encode(openai_error(to_api_error(error)), event="error")
            return
        for event in events_of(outcome):
            yield encode(event, event=event["type"])
    finally:
        waiting.cancel()


def _headers(outcome: Outcome) -> dict[str, str]:
    """Headers for facts that OpenAI's answers have no field for."""
    headers = {"X-Request-Id": outcome.id, "X-Sensestream-Cache": outcome.cache or ""}
    return {name: value for name, value in headers.items() if value.isascii() and value}


async def _models(state: AppState) -> list[dict[str, Any]]:
    workers = (await state.backend.pipeline_status()).workers
    since: dict[str, int] = {}
    for worker in workers:
        created = worker.since // 1000 or round(time.time())
        since[worker.model] = min(created, since.get(worker.model, created))
    return [
        {"id": name, "object": "model", "created": created, "owned_by": "sensestream"}
        for name, created in sorted(since.items())
    ]
