"""Parsing and checks of the parameters that several routes share."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.request import LANGUAGES

from sensestream_producer.gateway.errors import ApiError
from sensestream_producer.gateway.uploads.multipart import File, Form

__all__ = ["flag", "language_of", "one_file", "require_one_of", "require_scheme"]

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


def flag(name: str, value: Any, default: bool) -> bool:
    """A boolean, as forms and JSON write it; `default` for an empty one. `ApiError` for others."""
    if value in (None, ""):
        return default
    word = str(value).lower()
    if word not in _TRUE + _FALSE:
        raise ApiError(400, "bad_request", f"{name}={value!r:.80} is not true or false", param=name)
    return word in _TRUE


def require_one_of(
    name: str, value: str, choices: Collection[str], code: ErrorCode = ErrorCode.BAD_REQUEST
) -> None:
    """Raise `ApiError` (400, `code`) when the value of this field is not one of `choices`."""
    if value not in choices:
        message = f"{name}={value!r:.80} is not one of {', '.join(choices)}"
        raise ApiError(400, code.value, message, param=name)


def language_of(form: Form) -> str:
    """The form's language; auto when there is none. `ApiError` for an unsupported one."""
    language = form.text("language").lower() or "auto"
    require_one_of("language", language, LANGUAGES, ErrorCode.UNSUPPORTED_LANGUAGE)
    return language


def one_file(form: Form) -> File:
    """The only recording in a form; `ApiError` when there is none or more than one."""
    files = [file for file in form.files if file.field == "file"]
    if len(files) != 1:
        problem = "the file is missing" if not files else f"there are {len(files)} files"
        message = f"{problem}: send one recording in the form's field file"
        raise ApiError(400, "bad_request", message, param="file")
    return files[0]


def require_scheme(reference: str, schemes: Collection[str]) -> None:
    """Raise `RequestError` for a reference whose scheme this gateway does not take."""
    scheme = reference.partition(":")[0].lower() if ":" in reference else ""
    if scheme not in schemes:
        raise RequestError(
            ErrorCode.AUDIO_FORBIDDEN,
            f"audio={scheme + ':…' if scheme else 'a name without a scheme'} is not taken here: "
            f"send the recording itself, or a reference that begins with {', '.join(schemes)}",
        )
