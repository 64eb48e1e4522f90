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
from sensestream_producer.gateway.errors import ApiError, openai_error, refusal_of
from sensestream_producer.gateway.formats import FORMATS, body_of, events_of
from sensestream_producer.gateway.openapi import OPENAI_ERRORS, TRANSCRIPTION
from sensestream_producer.gateway.routes.params import flag, language_of, one_file
from sensestream_producer.gateway.routes.sse import COMMENT, encode, stream
from sensestream_producer.gateway.routes.waiting import awaited
from sensestream_producer.gateway.uploads.multipart import Form
from sensestream_producer.submit.submission import Receipt, Submission

__all__ = ["router"]

_HEADERS_AFTER = (
    5.0  # seconds until a stream begins without its outcome; before, errors have a status
)
_KEEP_ALIVE = 10.0  # seconds between signs of life, below the time-outs of usual proxies
_GRANULARITIES = ("segment", "word")

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=OPENAI_ERRORS)


@router.post(
    "/audio/transcriptions",
    dependencies=[Depends(require_scope(Scope.SUBMIT))],
    openapi_extra=TRANSCRIPTION,
    summary="Transcribe a recording",
)
async def transcriptions(request: Request, here: State) -> Response:
    """OpenAI's call, as its clients make it: a recording in, its transcript out."""
    async with here.form(request) as form:
        form_name = form.text("response_format") or "json"
        streamed = flag("stream", form.text("stream"), False)
        granularities = _granularities(form, form_name)
        receipt = await here.pipeline.submit(_submission(form), one_file(form))
    if streamed:
        return await _streamed(here, receipt)
    outcome = await awaited(here, receipt)
    return Response(
        body_of(outcome, form_name, granularities), headers=_about(outcome),
        media_type=FORMATS[form_name],
    )  # fmt: skip


@router.get(
    "/models", dependencies=[Depends(require_scope(None))], summary="The models that workers run"
)
async def models(here: State) -> dict[str, Any]:
    return {"object": "list", "data": await _models(here)}


@router.get(
    "/models/{model:path}", dependencies=[Depends(require_scope(None))], summary="One of them"
)
async def model(model: str, here: State) -> dict[str, Any]:
    for found in await _models(here):
        if found["id"] == model:
            return found
    raise ApiError(
        404, "model_not_found", f"no worker runs the model {model!r:.80}: see /v1/models",
        param="model",
    )  # fmt: skip


def _submission(form: Form) -> Submission:
    itn = flag("itn", form.text("itn"), True)
    priority = form.text("priority") or Lane.NORMAL
    return Submission(audio=b"", language=language_of(form), itn=itn, priority=priority)


def _granularities(form: Form, form_name: str) -> list[str]:
    if form_name not in FORMATS:
        raise ApiError(
            400, "bad_request",
            f"response_format={form_name!r:.80} is not one of {', '.join(FORMATS)}",
            param="response_format",
        )  # fmt: skip
    chosen = form.texts("timestamp_granularities")
    for one in chosen:
        if one not in _GRANULARITIES:
            raise ApiError(
                400, "bad_request",
                f"timestamp_granularities={one!r:.80} is not one of {', '.join(_GRANULARITIES)}",
                param="timestamp_granularities",
            )  # fmt: skip
    return chosen


async def _streamed(here: AppState, receipt: Receipt) -> Response:
    waiting = asyncio.create_task(awaited(here, receipt), name="gateway-transcription")
    done, _ = await asyncio.wait([waiting], timeout=_HEADERS_AFTER)
    if done:
        waiting.result()  # a refusal that comes soon has its status
    return stream(_events(waiting))


async def _events(waiting: asyncio.Task[Outcome]) -> AsyncIterator[bytes]:
    try:
        while not (await asyncio.wait([waiting], timeout=_KEEP_ALIVE))[0]:
            yield COMMENT
        try:
            outcome = waiting.result()
        except ApiError as refusal:
            yield encode(openai_error(refusal), event="error")
            return
        except SensestreamError as error:
            yield encode(openai_error(refusal_of(error)), event="error")
            return
        for event in events_of(outcome):
            yield encode(event, event=event["type"])
    finally:
        waiting.cancel()


def _about(outcome: Outcome) -> dict[str, str]:
    """What OpenAI's answers have no field for."""
    about = {"X-Request-Id": outcome.id, "X-Sensestream-Cache": outcome.cache or ""}
    return {name: value for name, value in about.items() if value.isascii() and value}


async def _models(here: AppState) -> list[dict[str, Any]]:
    workers = (await here.pipeline.pipeline_status()).workers
    since: dict[str, int] = {}
    for worker in workers:
        created = worker.since // 1000 or round(time.time())
        since[worker.model] = min(created, since.get(worker.model, created))
    return [
        {"id": name, "object": "model", "created": created, "owned_by": "sensestream"}
        for name, created in sorted(since.items())
    ]
