"""What a caller may ask for, read from the fields of a form or of a JSON object."""

from __future__ import annotations

from typing import Any

from sensestream_producer.gateway.refusals import Refusal

__all__ = ["flag"]

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


def flag(name: str, value: Any, default: bool) -> bool:
    """A yes or no, as forms and JSON write it."""
    if value in (None, ""):
        return default
    word = str(value).lower()
    if word not in _TRUE + _FALSE:
        raise Refusal(400, "bad_request", f"{name}={value!r:.80} is not true or false", param=name)
    return word in _TRUE
