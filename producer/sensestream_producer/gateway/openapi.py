"""Parts of the OpenAPI document that FastAPI cannot derive: streamed bodies, and all answers."""

from __future__ import annotations

from typing import Any

from sensestream_common.contract.request import LANGUAGES

from sensestream_producer.gateway.formats import FORMATS

__all__ = [
    "EVENTS",
    "JOBS",
    "JOB_ANSWERS",
    "JOB_FOUND",
    "OPENAI_ERRORS",
    "PROBLEMS",
    "TRANSCRIPTION",
    "TUTORIAL",
    "TUTORIAL_ERRORS",
]

_ERRORS = {
    400: "A field has an invalid value.",
    401: "The key is missing or not known.",
    403: "The key lacks the scope, or the page's origin is not allowed.",
    404: "Not found.",
    408: "The body stopped coming.",
    413: "The body, or the recording, is too large.",
    415: "The content type is not supported.",
    421: "The host name is not this gateway's.",
    422: "A field is missing, or has the wrong type.",
    429: "The caller's rate is exceeded; Retry-After names the seconds to wait.",
    500: "The service failed.",
    503: "The queue is full or not available; Retry-After names the seconds to wait.",
}
_WAITING_ERRORS = _ERRORS | {504: "No transcript in time."}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "One sentence: the error and how to fix it."},
        "code": {"type": "string"},
        "param": {"type": "string", "description": "Name of the field that is wrong."},
    },
}
_OPENAI_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_TUTORIAL_ERROR = {
    "type": "object",
    "required": ["status", "data", "from_cache", "message"],
    "properties": {
        "status": {"type": "string", "enum": ["error"]},
        "data": {"type": "null"},
        "from_cache": {"type": "boolean"},
        "message": {"type": "string"},
    },
}
_JOB = {
    "type": "object",
    "required": ["id", "status", "location"],
    "properties": {
        "id": {"type": "string"},
        "status": {"type": "string", "enum": ["queued", "processing", "completed", "failed"]},
        "location": {"type": "string", "description": "Path of the job."},
        "duplicate": {"type": "boolean", "description": "The id was submitted before."},
        "outcome": {
            "type": "object",
            "description": "The outcome as in docs/contract.md, for as long as it is kept.",
        },
    },
}
_JOB_ERROR = {"type": "object", "required": ["error"], "properties": {"error": _PROBLEM}}
_FILE = {"type": "string", "format": "binary", "description": "The recording."}
_LANGUAGE = {
    "type": "string",
    "enum": list(LANGUAGES),
    "default": "auto",
    "description": "The language spoken.",
}


def _answers(schema: dict[str, Any], media_type: str, statuses: dict[int, str]) -> dict[Any, Any]:
    return {
        status: {"description": text, "content": {media_type: {"schema": schema}}}
        for status, text in statuses.items()
    }


PROBLEMS = _answers(_PROBLEM, "application/problem+json", _ERRORS)
OPENAI_ERRORS = _answers(_OPENAI_ERROR, "application/json", _WAITING_ERRORS)
TUTORIAL_ERRORS = _answers(_TUTORIAL_ERROR, "application/json", _WAITING_ERRORS)
EVENTS: dict[Any, Any] = {
    200: {
        "description": "An endless stream of events.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
JOB_FOUND = _answers(_JOB, "application/json", {200: "The job."})
JOB_ANSWERS = _answers(
    {"oneOf": [_JOB, {"type": "array", "items": {"anyOf": [_JOB, _JOB_ERROR]}}]},
    "application/json",
    {
        200: "The job is finished; its outcome is included.",
        202: "The job is queued.",
        207: "Several jobs, of which some were refused.",
    },
)


# Forms have no booleans: these values stand for them.
_YES_OR_NO: dict[str, Any] = {"enum": [True, False, 1, 0, "yes", "no", "on", "off"]}


def _form(properties: dict[str, Any], *either: str) -> dict[str, Any]:
    """The content of a body that is a form, and that needs one of these fields."""
    needed: Any = [{"required": [name]} for name in either]
    schema = {"type": "object", "properties": properties, "anyOf": needed}
    return {"multipart/form-data": {"schema": schema}}


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


TRANSCRIPTION: dict[str, Any] = _body(
    _form(
        {
            "file": _FILE,
            "model": {
                "type": "string",
                "description": "Ignored: the workers' model answers.",
            },
            "language": _LANGUAGE,
            "response_format": {"type": "string", "enum": list(FORMATS), "default": "json"},
            "timestamp_granularities[]": {
                "type": "array",
                "items": {"type": "string", "enum": ["segment", "word"]},
                "description": "word adds words to verbose_json; segments are always there.",
            },
            "stream": {
                **_YES_OR_NO,
                "default": False,
                "description": "Answer with server-sent events.",
            },
            "itn": {
                **_YES_OR_NO,
                "default": True,
                "description": "Not OpenAI's: punctuation and digits, or words as spoken.",
            },
        },
        "file",
    )
)

TUTORIAL: dict[str, Any] = _body(
    _form(
        {
            "file": _FILE,
            "language": _LANGUAGE,
            "use_itn": {**_YES_OR_NO, "default": True},
        },
        "file",
    )
)

_REFERENCE = {"$ref": "#/components/schemas/JobRequest"}
_REFERENCES = {"type": "array", "items": _REFERENCE, "minItems": 1, "maxItems": 1000}
JOBS: dict[str, Any] = _body(
    {"application/json": {"schema": {"oneOf": [_REFERENCE, _REFERENCES]}}}
    | _form(
        {
            "file": _FILE,
            "audio": {"type": "string", "description": "A reference instead of a file."},
            "id": {"type": "string", "maxLength": 200},
            "language": _LANGUAGE,
            "itn": {**_YES_OR_NO, "default": True},
            "ttl": {"type": "integer", "minimum": 0},
            "metadata": {"type": "string", "description": "Any JSON, as text."},
            "callback_url": {"type": "string"},
            "priority": {"type": "string", "enum": ["normal", "high"]},
        },
        "file",
        "audio",
    )
)
