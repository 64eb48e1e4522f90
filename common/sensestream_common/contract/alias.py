"""The alias of some bytes: which audio is in them, and what their sender should know about it.

Warnings belong to the bytes. A damaged file and a clean one may give the same samples, and so share
a result, but only one of them has lost something.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sensestream_common.contract.identity import is_identity
from sensestream_common.contract.transcript import MALFORMED

__all__ = [
    "Alias",
    "AudioWarning",
    "is_decode_revision",
    "read_alias",
    "read_warnings",
    "warnings_from_json",
    "write_warnings",
]

_REVISION = re.compile(r"[A-Za-z0-9._-]{1,100}")
_write = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class AudioWarning:
    """One thing that was lost or guessed in a recording that was transcribed all the same.

    Attributes:
        code: such as `audio_truncated` (`docs/audio-sources.md`); codes may be added.
        message: a sentence for a person: what was lost or guessed, from where, how much.
    """

    code: str
    message: str

    def to_json(self) -> dict[str, Any]:
        """The warning as a JSON object."""
        return {"code": self.code, "message": self.message}


@dataclass(frozen=True, slots=True)
class Alias:
    """The identity of the audio in some bytes, and the warnings about those bytes."""

    audio: str
    warnings: tuple[AudioWarning, ...] = ()

    def encode(self) -> str:
        """The value of the key: the identity, and behind a space the warnings, if there are any."""
        if not self.warnings:
            return self.audio
        return f"{self.audio} {write_warnings(self.warnings)}"


def read_alias(value: bytes) -> Alias | None:
    """The alias that a key holds; `None` for a value that no worker writes."""
    identity, space, warnings = value.partition(b" ")
    if not is_identity(identity):
        return None
    if not space:
        return Alias(identity.decode())
    try:
        found = read_warnings(warnings.decode())
    except MALFORMED:
        return None
    return Alias(identity.decode(), found) if found else None


@lru_cache(maxsize=256)  # a damaged recording that is asked for often
def write_warnings(warnings: tuple[AudioWarning, ...]) -> str:
    """The JSON list of some warnings."""
    return _write([each.to_json() for each in warnings])


@lru_cache(maxsize=256)
def read_warnings(text: str) -> tuple[AudioWarning, ...]:
    """The warnings in a JSON list; one of `MALFORMED` if it is none."""
    return warnings_from_json(json.loads(text))


def warnings_from_json(listed: Any) -> tuple[AudioWarning, ...]:
    """The warnings in a list of JSON objects; one of `MALFORMED` if it is none."""
    if not isinstance(listed, list):
        raise TypeError(f"{listed!r:.80} is no JSON list")
    return tuple(AudioWarning(_text(each["code"]), _text(each["message"])) for each in listed)


def is_decode_revision(text: str) -> bool:
    """Whether this can be the name of a decode revision: it becomes a part of keys."""
    return bool(_REVISION.fullmatch(text))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    value.encode()  # the JSON decoder lets surrogates through, which cannot be sent on
    return value
