"""What FastAPI cannot read from the code: bodies that are read as they come, and their answers."""

from __future__ import annotations

from typing import Any, Literal

from sensestream_common.contract.request import LANGUAGES

from sensestream_producer.gateway.formats import FORMATS

__all__ = [
    "EVENTS", "JOBS", "JOB_ANSWERS", "JOB_FOUND", "OPENAI_ERRORS", "PROBLEMS", "TRANSCRIPTION",
    "TUTORIAL", "TUTORIAL_ERRORS", "Language", "Priority",
]  # fmt: skip

Language = Literal["auto", "zh", "en", "yue", "ja", "ko", "nospeech"]
Priority = Literal["normal", "high"]

_REFUSED = {
    400: "A value that its field does not take.",
    401: "No key, or one that is not known.",
    403: "A key without the scope, or a page of another origin.",
    404: "There is no such thing.",
    408: "The body stopped coming.",
    413: "More than may be sent.",
    415: "Not a type of content that is taken here.",
    421: "Called by a name that is not this gateway's.",
    422: "A field that is missing, or of the wrong kind.",
    429: "Above the key's rate; Retry-After says until when.",
    500: "A fault of the service.",
    503: "The queue is full, or away; Retry-After says when to come again.",
}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "One sentence: what is wrong, and its fix."},
        "code": {"type": "string"},
        "param": {"type": "string", "description": "The field that is wrong."},
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
        "location": {"type": "string", "description": "Where to look again."},
        "duplicate": {"type": "boolean", "description": "The id stood there already."},
        "outcome": {
            "type": "object",
            "description": "The outcome as docs/contract.md has it, for as long as it is kept.",
        },
    },
}
_REFUSED_JOB = {"type": "object", "required": ["error"], "properties": {"error": _PROBLEM}}
_FILE = {"type": "string", "format": "binary", "description": "The recording."}
_LANGUAGE = {
    "type": "string", "enum": list(LANGUAGES), "default": "auto",
    "description": "What is spoken.",
}  # fmt: skip


def _answers(schema: dict[str, Any], media_type: str, statuses: dict[int, str]) -> dict[Any, Any]:
    return {
        status: {"description": text, "content": {media_type: {"schema": schema}}}
        for status, text in statuses.items()
    }


PROBLEMS = _answers(_PROBLEM, "application/problem+json", _REFUSED)
OPENAI_ERRORS = _answers(
    _OPENAI_ERROR, "application/json", _REFUSED | {504: "No transcript in time."}
)
TUTORIAL_ERRORS = _answers(
    _TUTORIAL_ERROR, "application/json", _REFUSED | {504: "No transcript in time."}
)
EVENTS: dict[Any, Any] = {
    200: {
        "description": "Events, without end.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
JOB_FOUND = _answers(_JOB, "application/json", {200: "The job."})
JOB_ANSWERS = _answers(
    {"oneOf": [_JOB, {"type": "array", "items": {"anyOf": [_JOB, _REFUSED_JOB]}}]},
    "application/json",
    {
        200: "Finished: with the outcome.",
        202: "Handed in.",
        207: "Several, of which some were refused.",
    },
)


# A form has no types: these are the words for them.
_YES_OR_NO: dict[str, Any] = {"enum": [True, False, 1, 0, "yes", "no", "on", "off"]}


def _form(properties: dict[str, Any], *either: str) -> dict[str, Any]:
    """A form that needs one of these fields."""
    needed: Any = [{"required": [name]} for name in either]
    return {"type": "object", "properties": properties, "anyOf": needed}


def _body(**schemas: Any) -> dict[str, Any]:
    content = {
        name.replace("__", "/").replace("_", "-"): {"schema": s} for name, s in schemas.items()
    }
    return {"requestBody": {"required": True, "content": content}}


TRANSCRIPTION: dict[str, Any] = _body(
    multipart__form_data=_form(
        {
            "file": _FILE,
            "model": {
                "type": "string",
                "description": "Any: the workers' model answers, whatever is named here.",
            },
            "language": _LANGUAGE,
            "response_format": {"type": "string", "enum": list(FORMATS), "default": "json"},
            "timestamp_granularities[]": {
                "type": "array",
                "items": {"type": "string", "enum": ["segment", "word"]},
                "description": "word adds words to verbose_json, which has segments always.",
            },
            "stream": {
                **_YES_OR_NO, "default": False,
                "description": "Answer with server-sent events.",
            },
            "itn": {
                **_YES_OR_NO, "default": True,
                "description": "Not OpenAI's: punctuation and digits, or words as spoken.",
            },
        },
        "file",
    )
)  # fmt: skip

TUTORIAL: dict[str, Any] = _body(
    multipart__form_data=_form(
        {
            "file": _FILE,
            "language": _LANGUAGE,
            "use_itn": {**_YES_OR_NO, "default": True},
        },
        "file",
    )
)

_REFERENCE = {"$ref": "#/components/schemas/JobRequest"}
JOBS: dict[str, Any] = _body(
    application__json={
        "oneOf": [
            _REFERENCE,
            {"type": "array", "items": _REFERENCE, "minItems": 1, "maxItems": 1000},
        ]
    },
    multipart__form_data=_form(
        {
            "file": _FILE,
            "audio": {"type": "string", "description": "A reference, in place of the file."},
            "id": {"type": "string", "maxLength": 200},
            "language": _LANGUAGE,
            "itn": {**_YES_OR_NO, "default": True},
            "ttl": {"type": "integer", "minimum": 0},
            "metadata": {"type": "string", "description": "As JSON."},
            "callback_url": {"type": "string"},
            "priority": {"type": "string", "enum": ["normal", "high"]},
        },
        "file",
        "audio",
    ),
)
