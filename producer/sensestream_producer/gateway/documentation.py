"""What FastAPI cannot read from the code: bodies that are read as they come, and their answers."""

from __future__ import annotations

from typing import Any

from sensestream_common.request import LANGUAGES

from sensestream_producer.gateway.formats import FORMATS

__all__ = ["TRANSCRIPTION"]

_FILE = {"type": "string", "format": "binary", "description": "The recording."}
_LANGUAGE = {
    "type": "string", "enum": list(LANGUAGES), "default": "auto",
    "description": "What is spoken.",
}  # fmt: skip


def _form(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


TRANSCRIPTION: dict[str, Any] = {
    "requestBody": _form(
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
                "type": "boolean", "default": False,
                "description": "Answer with server-sent events.",
            },
            "itn": {
                "type": "boolean", "default": True,
                "description": "Not OpenAI's: punctuation and digits, or words as spoken.",
            },
        },
        ["file"],
    ),
}  # fmt: skip
