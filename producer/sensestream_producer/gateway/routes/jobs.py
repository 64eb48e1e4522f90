"""Jobs: handed in now, looked at later. /v1/transcriptions"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sensestream_common.contract.errors import SensestreamError
from sensestream_common.contract.outcome import Outcome
from sensestream_common.contract.request import MAX_TTL

from sensestream_producer.gateway import openapi as documented
from sensestream_producer.gateway.auth import Scope
from sensestream_producer.gateway.dependencies import AppState, State, require_scope
from sensestream_producer.gateway.errors import ApiError, problem_of, refusal_of
from sensestream_producer.gateway.routes.params import require_scheme
from sensestream_producer.gateway.routes.waiting import until_stopping
from sensestream_producer.gateway.uploads.multipart import File, Form, body_chunks
from sensestream_producer.gateway.webhooks.targets import require_callback
from sensestream_producer.submit.submission import Receipt, RequestState, Submission

__all__ = ["JobRequest", "router"]

MANY = 1000  # jobs in one call

router = APIRouter(prefix="/v1/transcriptions", tags=["Jobs"], responses=documented.PROBLEMS)

Wait = Annotated[
    float,
    Query(
        ge=0,
        le=3600,
        description="Seconds to wait for the outcome, within the gateway's own limit.",
    ),
]
_STATES = {RequestState.QUEUED: "queued", RequestState.STARTED: "processing"}


class JobRequest(BaseModel):
    """A recording by reference, and how to transcribe it: the fields of the contract's request."""

    model_config = ConfigDict(extra="forbid", title="JobRequest")

    audio: str = Field(
        max_length=790_000,
        pattern=r"^[A-Za-z][A-Za-z0-9+.\-]*:",
        description="A reference, such as https://…; the gateway's settings say which are taken.",
    )
    id: str = Field("", max_length=200, description="Your own; the same again adds nothing.")
    language: documented.Language = "auto"
    itn: bool = Field(True, description="Punctuation and digits, or words as spoken.")
    ttl: int | None = Field(
        None, ge=0, le=MAX_TTL, description="Seconds to keep the result; 0 stores nothing."
    )
    metadata: Any = Field(None, description="Any JSON up to 64 KiB; it comes back as it was sent.")
    callback_url: str = Field("", max_length=8192, description="Where a webhook goes.")
    priority: documented.Priority = "normal"
    deadline: int | None = Field(
        None,
        ge=0,
        lt=10**18,
        description="Milliseconds since the epoch after which the answer is worthless.",
    )
    digest: str = Field(
        "",
        pattern=r"^(sha256:[0-9a-f]{64})?$",
        description="sha256:… of the bytes, if you know it.",
    )
    traceparent: str = Field("", max_length=512, description="W3C trace context.")

    def submission(self) -> Submission:
        """As the clients hand it in; `RequestError` for a value that no request takes."""
        fields = self.model_dump(exclude={"metadata"})
        text = "" if self.metadata is None else json.dumps(self.metadata, ensure_ascii=False)
        return Submission(**fields, metadata=text)


@router.post("", dependencies=[Depends(require_scope(Scope.SUBMIT))], openapi_extra=documented.JOBS,
             status_code=202, summary="Hand in one recording, or many",
             responses=documented.JOB_ANSWERS)  # fmt: skip
async def create(
    request: Request,
    here: State,
    wait: Wait = 0,
    idempotency_key: Annotated[str, Header(max_length=200)] = "",
    traceparent: Annotated[str, Header(max_length=512)] = "",
) -> JSONResponse:
    """Answers 202 and where the job is to be found; 200 when its outcome is there already.

    A JSON array, or several files in a form, are as many jobs: the answer is an array in the same
    order, with a problem for each that was refused (and status 207 if there is one).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    defaults = {"id": idempotency_key, "traceparent": traceparent}
    defaults = {name: value for name, value in defaults.items() if value}
    if kind == "multipart/form-data":
        async with here.form(request) as form:
            many, results = await _submit_form(here, form, defaults)
    elif kind == "application/json":
        body = await _json(request, here)
        many, results = await _submit_json(here, body, defaults)
    else:
        raise ApiError(
            415, "unsupported_media_type",
            "send application/json with a reference, or multipart/form-data with a file",
        )  # fmt: skip
    answers = await asyncio.gather(*(_answer(here, result, wait) for result in results))
    return _many(answers) if many else _one(answers[0])


@router.get("/{id:path}", dependencies=[Depends(require_scope(Scope.READ))],
            summary="Where a job stands", responses=documented.JOB_FOUND)  # fmt: skip
async def look(id: str, here: State, wait: Wait = 0) -> JSONResponse:  # noqa: A002 - its name
    """queued, processing, completed or failed; with its outcome, for as long as that is kept."""
    status = await here.pipeline.status(id)
    if status is None:
        raise ApiError(
            404, "not_found",
            f"no job with the id {id!r:.220} is known: it was never handed in, or was answered so "
            "long ago that it is forgotten",
        )  # fmt: skip
    outcome, state = status.outcome, status.state
    if state != RequestState.DONE and wait:
        outcome = await _within(here, id, wait)
        state = RequestState.DONE if outcome else state
    finished = (outcome or status).status if state == RequestState.DONE else None
    word = finished.value if finished else _STATES.get(state, state)
    return JSONResponse(_job(id, word, outcome))


async def _submit_json(
    here: AppState, body: Any, defaults: dict[str, str]
) -> tuple[bool, list[Receipt | ApiError]]:
    if not isinstance(body, list):
        return False, [await _submit_reference(here, _read({**defaults, **_object(body)}))]
    if not 1 <= len(body) <= MANY:
        raise ApiError(422, "bad_request", f"there are {len(body)} jobs: send 1 to {MANY}")
    defaults.pop("id", None)  # a key for the whole call names none of its jobs

    async def one(item: Any) -> Receipt | ApiError:
        try:
            return await _submit_reference(here, _read({**defaults, **_object(item)}))
        except ApiError as refusal:
            return refusal
        except SensestreamError as error:
            return refusal_of(error)

    return True, list(await asyncio.gather(*map(one, body)))


async def _submit_reference(here: AppState, job: JobRequest) -> Receipt:
    require_scheme(job.audio, here.settings.references)
    return await _submit(here, job.submission(), None)


async def _submit_form(
    here: AppState, form: Form, defaults: dict[str, str]
) -> tuple[bool, list[Receipt | ApiError]]:
    fields: dict[str, Any] = {**defaults, **{name: form.text(name) for name in form.fields}}
    fields = {name: value for name, value in fields.items() if value != ""}
    if "metadata" in fields:
        fields["metadata"] = _metadata(fields["metadata"])
    if not form.files:
        if "audio" not in fields:
            raise ApiError(
                422, "bad_request", "send a file in the field file, or a reference in audio",
                param="file",
            )  # fmt: skip
        return False, [await _submit_reference(here, _read(fields))]
    if "audio" in fields:
        raise ApiError(422, "bad_request", "send a file or a reference, not both", param="audio")
    if any(file.field != "file" for file in form.files):
        raise ApiError(422, "bad_request", "send files in the form's field file", param="file")
    job = _read({**fields, "audio": "upload:"})
    many = len(form.files) > 1
    if many and job.id:
        raise ApiError(
            422, "bad_request", "one id cannot name several files: leave it out", param="id"
        )
    submission = replace(job.submission(), audio=b"")

    async def one(file: File) -> Receipt | ApiError:
        try:
            return await _submit(here, submission, file)
        except (ApiError, SensestreamError) as error:
            if not many:
                raise
            return error if isinstance(error, ApiError) else refusal_of(error)

    return many, [await one(file) for file in form.files]


async def _submit(here: AppState, submission: Submission, file: File | None) -> Receipt:
    if submission.callback_url:
        await require_callback(submission.callback_url, here.settings)
    return await here.pipeline.submit(submission, file)


async def _answer(
    here: AppState, result: Receipt | ApiError, wait: float
) -> tuple[int, dict[str, Any]]:
    """The status of one job's part of the answer, and the part."""
    if isinstance(result, ApiError):
        return result.status, {"error": problem_of(result)}
    state, status = result.state, result.status
    outcome = here.pipeline.present(result.answer) if result.answer else None
    if outcome is None and (state == RequestState.DONE or wait):
        outcome = await until_stopping(
            here, here.pipeline.outcome(result, timeout=_bounded(here, wait)), grace=0
        )
    if outcome is not None:
        state, status = RequestState.DONE, outcome.status
    word = status.value if state == RequestState.DONE and status else _STATES.get(state, state)
    job = _job(result.id, word, outcome)
    if result.duplicate:
        job["duplicate"] = True
    return (200 if state == RequestState.DONE else 202), job


async def _within(here: AppState, request_id: str, wait: float) -> Outcome | None:
    waiting = here.pipeline.wait(request_id, timeout=_bounded(here, wait))
    return await until_stopping(here, waiting, grace=0)


def _bounded(here: AppState, wait: float) -> float:
    return min(wait, here.settings.wait_timeout)


def _job(request_id: str, status: str, outcome: Outcome | None) -> dict[str, Any]:
    job: dict[str, Any] = {"id": request_id, "status": status, "location": _location(request_id)}
    if outcome is not None:
        job["outcome"] = outcome.to_json()
    return job


def _one(answer: tuple[int, dict[str, Any]]) -> JSONResponse:
    status, job = answer
    return JSONResponse(job, status, {"Location": job["location"]})


def _many(answers: list[tuple[int, dict[str, Any]]]) -> JSONResponse:
    statuses = {status for status, _ in answers}
    if max(statuses) >= 400:
        return JSONResponse([job for _, job in answers], 207)
    return JSONResponse([job for _, job in answers], max(statuses))


def _location(request_id: str) -> str:
    return f"/v1/transcriptions/{quote(request_id, safe='')}"


def _read(fields: dict[str, Any]) -> JobRequest:
    try:
        return JobRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ApiError(422, "bad_request", f"{where}: {first['msg']}", param=where) from None


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ApiError(422, "bad_request", "a job is a JSON object with at least audio")
    return value


def _metadata(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ApiError(
            422, "bad_request", 'metadata is not JSON, such as {"ticket": 7}', param="metadata"
        ) from None


async def _json(request: Request, here: AppState) -> Any:
    body = b"".join([chunk async for chunk in body_chunks(request, here.settings.receive_timeout)])
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "bad_request", f"the body is not JSON: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
