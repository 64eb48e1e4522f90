"""The fields of a job, read from a JSON object or from a form, and checked."""

from __future__ import annotations

import json
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sensestream_common.contract.request import MAX_TTL

from sensestream_producer.gateway.errors import ApiError
from sensestream_producer.gateway.uploads.multipart import Form, body_chunks
from sensestream_producer.submit.submission import Submission

__all__ = ["JobRequest", "form_fields", "json_object", "read_job", "read_json"]

Language = Literal["auto", "zh", "en", "yue", "ja", "ko", "nospeech"]


class JobRequest(BaseModel):
    """A recording by reference, and how to transcribe it: the fields of the contract's request."""

    model_config = ConfigDict(extra="forbid", title="JobRequest")

    audio: str = Field(
        max_length=790_000,
        pattern=r"^[A-Za-z][A-Za-z0-9+.\-]*:",
        description="Reference to the recording, such as https://…; the gateway's settings name "
        "the schemes that it takes.",
    )
    id: str = Field(
        "", max_length=200, description="Your own id; submitting it again adds nothing."
    )
    language: Language = "auto"
    itn: bool = Field(True, description="Punctuation and digits, or words as spoken.")
    ttl: int | None = Field(
        None, ge=0, le=MAX_TTL, description="Seconds to keep the result; 0 stores nothing."
    )
    metadata: Any = Field(None, description="Any JSON up to 64 KiB; it comes back as it was sent.")
    callback_url: str = Field("", max_length=8192, description="URL that the webhook goes to.")
    priority: Literal["normal", "high"] = "normal"
    deadline: int | None = Field(
        None,
        ge=0,
        lt=10**18,
        description="Milliseconds since the epoch after which the answer is worthless.",
    )
    digest: str = Field(
        "",
        pattern=r"^(sha256:[0-9a-f]{64})?$",
        description="sha256:… of the recording's bytes, if you know it.",
    )
    traceparent: str = Field("", max_length=512, description="W3C trace context.")

    def submission(self) -> Submission:
        """The submission that clients make of these fields.

        Raises `RequestError` for a value that no request takes.
        """
        fields = self.model_dump(exclude={"metadata"})
        text = "" if self.metadata is None else json.dumps(self.metadata, ensure_ascii=False)
        return Submission(**fields, metadata=text)


def read_job(fields: dict[str, Any]) -> JobRequest:
    """The job with these fields; `ApiError` (422) that names the first one that is wrong."""
    try:
        return JobRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ApiError(422, "bad_request", f"{where}: {first['msg']}", param=where) from None


def form_fields(form: Form, defaults: dict[str, str]) -> dict[str, Any]:
    """A job's fields in a form, and these defaults: without empty ones, with `metadata` parsed."""
    given = defaults | {name: form.text(name) for name in form.fields}
    fields: dict[str, Any] = {name: value for name, value in given.items() if value}
    if "metadata" in fields:
        try:
            fields["metadata"] = _parse(fields["metadata"])
        except (ValueError, RecursionError):
            message = 'metadata is not JSON, such as {"ticket": 7}'
            raise ApiError(422, "bad_request", message, param="metadata") from None
    return fields


def json_object(value: Any) -> dict[str, Any]:
    """The value itself; `ApiError` (422) when it is not an object."""
    if not isinstance(value, dict):
        raise ApiError(422, "bad_request", "a job is a JSON object with at least audio")
    return value


async def read_json(request: Request, pause: float) -> Any:
    """The JSON in a request's body; `pause` is the longest silence within it, in seconds.

    Raises `ApiError`: 400 for a body that is not JSON, 408 for one that comes too slowly.
    """
    body = b"".join([chunk async for chunk in body_chunks(request, pause)])
    try:
        return _parse(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "bad_request", f"the body is not JSON: {error}") from None


def _parse(text: str | bytes) -> Any:
    """`json.loads` without NaN and Infinity, which JSON does not have."""
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
