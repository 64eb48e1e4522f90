"""/v1/transcriptions: jobs, which are submitted now and whose outcome is fetched later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse
from sensestream_common.contract.errors import SensestreamError
from sensestream_common.contract.outcome import Outcome

from sensestream_producer.gateway.auth import Scope
from sensestream_producer.gateway.dependencies import AppState, State, require_scope
from sensestream_producer.gateway.errors import ApiError, problem_details, to_api_error
from sensestream_producer.gateway.openapi import JOB_ANSWERS, JOB_FOUND, JOBS, PROBLEMS
from sensestream_producer.gateway.routes.job_request import (
    form_fields,
    json_object,
    read_job,
    read_json,
)
from sensestream_producer.gateway.routes.params import require_scheme
from sensestream_producer.gateway.routes.waiting import until_stopping
from sensestream_producer.gateway.uploads.multipart import File, Form
from sensestream_producer.gateway.webhooks.targets import require_callback
from sensestream_producer.submit.submission import Receipt, RequestState, Submission

__all__ = ["router"]

_MAX_JOBS = 1000  # in one call

router = APIRouter(prefix="/v1/transcriptions", tags=["Jobs"], responses=PROBLEMS)

Wait = Annotated[
    float,
    Query(
        ge=0,
        le=3600,
        description="Seconds to wait for the outcome, within the gateway's own limit.",
    ),
]
_STATES = {RequestState.QUEUED: "queued", RequestState.STARTED: "processing"}

Result = Receipt | ApiError  # of one job in a call with several


@router.post(
    "",
    dependencies=[Depends(require_scope(Scope.SUBMIT))],
    openapi_extra=JOBS,
    status_code=202,
    summary="Submit one job or many",
    responses=JOB_ANSWERS,
)
async def create(
    request: Request,
    state: State,
    wait: Wait = 0,
    idempotency_key: Annotated[str, Header(max_length=200)] = "",
    traceparent: Annotated[str, Header(max_length=512)] = "",
) -> JSONResponse:
    """Answers 202 with the job's location, or 200 with its outcome when that is known already.

    A JSON array, or several files in a form, are as many jobs. The answer is then an array in the
    same order. Jobs that are refused have a problem in their place, and the status is 207.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    defaults = {"id": idempotency_key, "traceparent": traceparent}
    defaults = {name: value for name, value in defaults.items() if value}
    if kind == "multipart/form-data":
        async with state.form(request) as form:
            many, results = await _submit_form(state, form, defaults)
    elif kind == "application/json":
        body = await read_json(request, state.settings.receive_timeout)
        many, results = await _submit_json(state, body, defaults)
    else:
        message = "send application/json with a reference, or multipart/form-data with a file"
        raise ApiError(415, "unsupported_media_type", message)
    answers = await asyncio.gather(*(_answer(state, result, wait) for result in results))
    return _many(answers) if many else _one(answers[0])


@router.get(
    "/{id:path}",
    dependencies=[Depends(require_scope(Scope.READ))],
    summary="Get the status of a job",
    responses=JOB_FOUND,
)
async def read(id: str, state: State, wait: Wait = 0) -> JSONResponse:  # noqa: A002 - its name
    """The status is queued, processing, completed or failed. The outcome comes with it, for as
    long as it is kept.
    """
    found = await state.backend.status(id)
    if found is None:
        raise ApiError(
            404,
            "not_found",
            f"no job with the id {id!r:.220} is known: it was never submitted, or it was answered "
            "so long ago that its status has expired",
        )
    outcome, progress = found.outcome, found.state
    if progress != RequestState.DONE and wait:
        waiting = state.backend.wait(id, timeout=_bounded(state, wait))
        outcome = await until_stopping(state, waiting, grace=0)
        progress = RequestState.DONE if outcome else progress
    finished = (outcome or found).status if progress == RequestState.DONE else None
    return JSONResponse(_job(id, finished or _STATES.get(progress, progress), outcome))


async def _submit_json(
    state: AppState, body: Any, defaults: dict[str, str]
) -> tuple[bool, list[Result]]:
    """Whether the call has several jobs, and the result of each."""
    if not isinstance(body, list):
        return False, [await _submit_reference(state, body, defaults)]
    if not 1 <= len(body) <= _MAX_JOBS:
        raise ApiError(422, "bad_request", f"there are {len(body)} jobs: send 1 to {_MAX_JOBS}")
    defaults.pop("id", None)  # an Idempotency-Key names the call, and none of its jobs
    jobs = (_submit_reference(state, job, defaults) for job in body)
    return True, await asyncio.gather(*map(_result, jobs))


async def _submit_form(
    state: AppState, form: Form, defaults: dict[str, str]
) -> tuple[bool, list[Result]]:
    """Whether the call has several jobs, and the result of each."""
    fields = form_fields(form, defaults)
    if not form.files:
        if "audio" not in fields:
            message = "send a file in the field file, or a reference in audio"
            raise ApiError(422, "bad_request", message, param="file")
        return False, [await _submit_reference(state, fields, {})]
    if "audio" in fields:
        raise ApiError(422, "bad_request", "send a file or a reference, not both", param="audio")
    if any(file.field != "file" for file in form.files):
        raise ApiError(422, "bad_request", "send files in the form's field file", param="file")
    job = read_job({**fields, "audio": "upload:"})
    many = len(form.files) > 1
    if many and job.id:
        message = "one id cannot name several files: leave it out"
        raise ApiError(422, "bad_request", message, param="id")
    submission = replace(job.submission(), audio=b"")
    if not many:
        return False, [await _submit(state, submission, form.files[0])]
    return True, [await _result(_submit(state, submission, file)) for file in form.files]


async def _result(submit: Awaitable[Receipt]) -> Result:
    """A job's error as a value, so that the other jobs of the call go on."""
    try:
        return await submit
    except ApiError as error:
        return error
    except SensestreamError as error:
        return to_api_error(error)


async def _submit_reference(state: AppState, body: Any, defaults: dict[str, str]) -> Receipt:
    job = read_job(defaults | json_object(body))
    require_scheme(job.audio, state.settings.references)
    return await _submit(state, job.submission(), None)


async def _submit(state: AppState, submission: Submission, file: File | None) -> Receipt:
    if submission.callback_url:
        await require_callback(submission.callback_url, state.settings)
    return await state.backend.submit(submission, file)


async def _answer(state: AppState, result: Result, wait: float) -> tuple[int, dict[str, Any]]:
    """The status of one job's part of the answer, and the part."""
    if isinstance(result, ApiError):
        return result.status, {"error": problem_details(result)}
    progress, status = result.state, result.status
    outcome = state.backend.present(result.answer) if result.answer else None
    if outcome is None and (progress == RequestState.DONE or wait):
        waiting = state.backend.outcome(result, timeout=_bounded(state, wait))
        outcome = await until_stopping(state, waiting, grace=0)
    if outcome is not None:
        progress, status = RequestState.DONE, outcome.status
    finished = status if progress == RequestState.DONE else None
    job = _job(result.id, finished or _STATES.get(progress, progress), outcome)
    if result.duplicate:
        job["duplicate"] = True
    return (200 if progress == RequestState.DONE else 202), job


def _bounded(state: AppState, wait: float) -> float:
    return min(wait, state.settings.wait_timeout)


def _job(request_id: str, status: str, outcome: Outcome | None) -> dict[str, Any]:
    location = f"/v1/transcriptions/{quote(request_id, safe='')}"
    job: dict[str, Any] = {"id": request_id, "status": status, "location": location}
    if outcome is not None:
        job["outcome"] = outcome.to_json()
    return job


def _one(answer: tuple[int, dict[str, Any]]) -> JSONResponse:
    status, job = answer
    return JSONResponse(job, status, {"Location": job["location"]})


def _many(answers: list[tuple[int, dict[str, Any]]]) -> JSONResponse:
    status = max(status for status, _ in answers)
    return JSONResponse([job for _, job in answers], 207 if status >= 400 else status)
