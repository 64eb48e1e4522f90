"""A request as it stands in the stream: a frozen value with `encode` and `decode`.

Decoding never raises: an entry with a bad field becomes a `BadRequest` that keeps what could be
read, so that one bad field spoils one request only and its sender still gets an outcome.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.redaction import redacted

__all__ = [
    "LANGUAGES",
    "MAX_CALLBACK_LENGTH",
    "MAX_DATA_BYTES",
    "MAX_FIELDS",
    "MAX_METADATA_BYTES",
    "MAX_TTL",
    "VERSION",
    "BadRequest",
    "Request",
    "decode_request",
]

VERSION = "1"
LANGUAGES = ("auto", "zh", "en", "yue", "ja", "ko", "nospeech")
MAX_TTL = 10 * 365 * 86400  # seconds: ten years
MAX_METADATA_BYTES = 64 * 1024
MAX_DATA_BYTES = 256 * 1024  # of a data: URL, decoded
# The longest reference is a data: URL with every byte percent-encoded, and its media type.
_MAX_AUDIO_LENGTH = 3 * MAX_DATA_BYTES + 1024
MAX_CALLBACK_LENGTH = 8192
# Of one entry, unknown ones included: a script cannot pass on thousands of values at once.
MAX_FIELDS = 256
_MAX_ID_LENGTH = 200
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_WEB = re.compile(r"https?://[^\s/?#]\S*")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request for a transcript.

    `ttl` is in seconds, `deadline` and `submitted_at` in milliseconds since the epoch; `None` or
    an empty string is an absent field. `metadata` is JSON text, handed through untouched.
    """

    audio: str
    id: str = ""
    language: str = "auto"
    itn: bool = True
    digest: str = ""
    ttl: int | None = None
    deadline: int | None = None
    callback_url: str = ""
    metadata: str = ""
    submitted_at: int | None = None
    traceparent: str = ""
    v: str = VERSION

    def __post_init__(self) -> None:
        """Raise `RequestError` for a value that its field does not take."""
        _check_audio(self.audio)
        if self.id:
            _check_id(self.id)
        if self.language not in LANGUAGES:
            raise RequestError(
                ErrorCode.UNSUPPORTED_LANGUAGE,
                f"language={_show(self.language)} is not one of {', '.join(LANGUAGES)}",
            )
        if self.digest and not _DIGEST.fullmatch(self.digest):
            raise _bad("digest", self.digest, "sha256: and 64 lower-case hexadecimal digits")
        if self.ttl is not None and not 0 <= self.ttl <= MAX_TTL:
            raise _bad("ttl", str(self.ttl), f"whole seconds from 0 to {MAX_TTL}")
        if self.deadline is not None and self.deadline < 0:
            raise _bad("deadline", str(self.deadline), "milliseconds since the epoch")
        if self.callback_url:
            _check_callback(self.callback_url)
        if self.metadata:
            _check_metadata(self.metadata)
        if self.traceparent:
            _check_traceparent(self.traceparent)
        if self.v != VERSION:
            raise _bad("v", self.v, f"the contract's version, {VERSION}")

    def encode(self) -> dict[str, str]:
        """The fields of the stream entry; a field that has its default is left out."""
        entry = {"v": self.v, "audio": self.audio}
        for name in ("id", "digest", "callback_url", "metadata", "traceparent"):
            if value := getattr(self, name):
                entry[name] = value
        for name in ("ttl", "deadline", "submitted_at"):
            if (number := getattr(self, name)) is not None:
                entry[name] = str(number)
        if self.language != "auto":
            entry["language"] = self.language
        if not self.itn:
            entry["itn"] = "0"
        return entry


@dataclass(frozen=True, slots=True)
class BadRequest:
    """An entry that is no request: why, and what of it can be echoed in its failed outcome."""

    error: RequestError
    id: str
    audio: str = ""
    metadata: str = ""
    traceparent: str = ""
    callback_url: str = ""
    submitted_at: int | None = None


def decode_request(entry: str, raw: Mapping[bytes, bytes]) -> Request | BadRequest:
    """The request in the stream entry with the id `entry`, its defaults filled in.

    Unknown fields are ignored (the dead letter keeps them: it is written from `raw`).
    """
    values, broken = _texts(raw)
    try:
        if len(raw) > MAX_FIELDS:
            raise RequestError(
                ErrorCode.BAD_REQUEST,
                f"it has {len(raw)} fields: a request has at most {MAX_FIELDS}, "
                "known and unknown; put what is your own into metadata",
            )
        if broken:
            raise RequestError(
                ErrorCode.BAD_REQUEST,
                f"the field {broken!r} is not UTF-8: send every value as a UTF-8 string",
            )
        return _decode(entry, values)
    except RequestError as error:
        return _echo(entry, values, error)


def _decode(entry: str, values: dict[str, str]) -> Request:
    if not values.get("audio"):
        raise RequestError(
            ErrorCode.BAD_REQUEST,
            "the field audio is missing: name the recording, such as audio=file:///data/a.wav",
        )
    given = {name: value for name, value in values.items() if name in _FIELDS and value != ""}
    changed: dict[str, Any] = dict(given)
    for name in ("ttl", "deadline", "submitted_at"):
        if name in given:
            changed[name] = _integer(name, given[name])
    if "itn" in given:
        changed["itn"] = _flag("itn", given["itn"])
    changed.setdefault("id", entry)
    changed.setdefault("submitted_at", _entry_time(entry))
    return Request(**changed)


_FIELDS = frozenset(field.name for field in fields(Request))


def _texts(raw: Mapping[bytes, bytes]) -> tuple[dict[str, str], str]:
    """The fields as text, and the name of the first known one that is not UTF-8."""
    values: dict[str, str] = {}
    broken = ""
    for name_bytes, value_bytes in raw.items():
        name = name_bytes.decode("utf-8", "replace")
        try:
            values[name] = value_bytes.decode("utf-8")
        except UnicodeDecodeError:
            if name in _FIELDS:
                broken = broken or name
    return values, broken


def _echo(entry: str, values: dict[str, str], error: RequestError) -> BadRequest:
    """What the failed outcome may repeat: only values that are themselves sound."""
    return BadRequest(
        error=error,
        id=_sound(_check_id, values.get("id", "")) or entry,
        audio=_sound(_check_audio, values.get("audio", "")),
        metadata=_sound(_check_metadata, values.get("metadata", "")),
        traceparent=_sound(_check_traceparent, values.get("traceparent", "")),
        callback_url=_sound(_check_callback, values.get("callback_url", "")),
        submitted_at=_entry_time(entry),
    )


def _sound(check: Any, value: str) -> str:
    try:
        if value:
            check(value)
    except RequestError:
        return ""
    return value


def _check_id(value: str) -> None:
    if not (1 <= len(value) <= _MAX_ID_LENGTH and value.isprintable()):
        raise _bad("id", value, f"1 to {_MAX_ID_LENGTH} printable characters")


def _check_audio(value: str) -> None:
    if not value:
        raise RequestError(ErrorCode.BAD_REQUEST, "audio is empty: name the recording")
    if len(value) > _MAX_AUDIO_LENGTH:
        raise _bad(
            "audio", redacted(value), f"a reference of at most {_MAX_AUDIO_LENGTH} characters"
        )
    if not _SCHEME.match(value) or not _encodable(value):
        raise _bad(
            "audio", redacted(value), "a reference with its scheme, such as file:///data/a.wav"
        )


def _check_callback(value: str) -> None:
    if len(value) > MAX_CALLBACK_LENGTH or not _WEB.fullmatch(value) or not _encodable(value):
        raise _bad("callback_url", redacted(value), "an http:// or https:// URL with a host")
    if not _can_be_reached(value):
        raise _bad(
            "callback_url", redacted(value), "a URL with a valid host name and a port of 1 to 65535"
        )


def _can_be_reached(url: str) -> bool:
    """Whether a look-up and a connection can be tried: others fail late, and as our own fault."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host.encode("idna")  # the length of its labels
        for label in host.split("."):
            if label.startswith("xn--"):
                label.removeprefix("xn--").encode().decode("punycode")
        return host != "" and "xn--" not in host.split(".") and parts.port != 0
    except ValueError:
        return False


def _check_traceparent(value: str) -> None:
    if len(value) > 512 or not value.isascii():
        raise _bad("traceparent", value, "a W3C trace context")


def _check_metadata(value: str) -> None:
    if len(value.encode("utf-8", "surrogatepass")) > MAX_METADATA_BYTES:
        raise _bad("metadata", value, f"JSON of at most {MAX_METADATA_BYTES} bytes")
    try:
        _JSON.decode(value)
        value.encode("utf-8")
    except (ValueError, RecursionError):
        raise _bad("metadata", value, 'JSON, such as {"ticket": 7}') from None


def _encodable(value: str) -> bool:
    """Whether UTF-8 can carry it: a lone surrogate (an undecodable file name) cannot be sent."""
    if value.isascii():
        return True
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are Python's, not JSON's: other languages choke


_JSON = json.JSONDecoder(parse_constant=_no_constant)


def _integer(name: str, value: str) -> int:
    if not _INTEGER.fullmatch(value):
        raise _bad(name, value, "a whole number")
    return int(value)


def _flag(name: str, value: str) -> bool:
    if value not in ("0", "1"):
        raise _bad(name, value, "1 or 0")
    return value == "1"


def _entry_time(entry: str) -> int:
    return int(entry.partition("-")[0])


def _bad(name: str, value: str, wanted: str) -> RequestError:
    return RequestError(ErrorCode.BAD_REQUEST, f"{name}={_show(value)} is not {wanted}")


def _show(value: str) -> str:
    """The value as it may stand in a message: short, on one line, without secrets."""
    shown = repr(value if len(value) <= 80 else value[:77] + "…")
    return re.sub(r"//[^/@'\"]*@", "//…@", re.sub(r"\?[^'\"]*", "?…", shown))
