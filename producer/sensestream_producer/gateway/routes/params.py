"""What a caller may ask for, read from the fields of a form or of a JSON object."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.request import LANGUAGES

from sensestream_producer.gateway.errors import ApiError
from sensestream_producer.gateway.uploads.multipart import File, Form

__all__ = ["flag", "language_of", "one_file", "require_scheme"]

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


def flag(name: str, value: Any, default: bool) -> bool:
    """A yes or no, as forms and JSON write it."""
    if value in (None, ""):
        return default
    word = str(value).lower()
    if word not in _TRUE + _FALSE:
        raise ApiError(400, "bad_request", f"{name}={value!r:.80} is not true or false", param=name)
    return word in _TRUE


def language_of(form: Form) -> str:
    """The language that a form asks for."""
    language = form.text("language").lower() or "auto"
    if language not in LANGUAGES:
        raise ApiError(
            400, ErrorCode.UNSUPPORTED_LANGUAGE.value,
            f"language={language!r:.80} is not one of {', '.join(LANGUAGES)}", param="language",
        )  # fmt: skip
    return language


def one_file(form: Form) -> File:
    """The recording in a form that takes one."""
    files = [file for file in form.files if file.field == "file"]
    if len(files) != 1:
        what = "the file is missing" if not files else f"there are {len(files)} files"
        raise ApiError(
            400, "bad_request", f"{what}: send one recording in the form's field file",
            param="file",
        )  # fmt: skip
    return files[0]


def require_scheme(reference: str, schemes: Collection[str]) -> None:
    """Refuse a reference that this gateway does not hand on."""
    scheme = reference.partition(":")[0].lower() if ":" in reference else ""
    if scheme not in schemes:
        raise RequestError(
            ErrorCode.AUDIO_FORBIDDEN,
            f"audio={scheme + ':…' if scheme else 'a name without a scheme'} is not taken here: "
            f"send the recording itself, or a reference that begins with {', '.join(schemes)}",
        )
