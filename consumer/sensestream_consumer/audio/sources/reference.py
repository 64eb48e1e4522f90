"""The `audio` field of a request: where the bytes are, and how to display it without secrets."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import quote

from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.redaction import redacted

__all__ = ["SCHEMES", "Reference", "parse_reference"]

SCHEMES = ("file", "http", "https", "s3", "redis", "data")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_LONGEST = 8192  # characters of a reference that does not carry its audio in itself
_LONGEST_DISPLAY = 300


@dataclass(frozen=True, slots=True)
class Reference:
    """One parsed reference. `uri` may hold secrets and is never shown; `display` holds none."""

    scheme: str
    uri: str = field(repr=False)
    display: str

    def __str__(self) -> str:
        return self.display

    @property
    def rest(self) -> str:
        """The part behind the scheme and its colon."""
        return self.uri[len(self.scheme) + 1 :]


def parse_reference(uri: str, schemes: Collection[str] = SCHEMES) -> Reference:
    """Parse `uri`; `bad_request` if it is no reference, or one of a scheme not in `schemes`."""
    match = _SCHEME.match(uri)
    if match is None:
        raise _bad(f"audio {_shown(redacted(uri))!r} has no scheme; {_taken(schemes)}")
    scheme = match[1].lower()
    if scheme not in schemes:
        raise _bad(f"audio has the scheme {_shown(scheme)!r}; {_taken(schemes)}")
    if scheme != "data" and len(uri) > _LONGEST:
        raise _bad(f"audio has {len(uri)} characters; a reference has at most {_LONGEST}")
    return Reference(scheme, uri, _shown(redacted(uri)))


def _shown(text: str) -> str:
    """`text` on one line, without control characters, cut to a length fit for a message."""
    if len(text) > _LONGEST_DISPLAY:
        text = text[:_LONGEST_DISPLAY] + "…"
    return "".join(c if c.isprintable() else quote(c, errors="replace") for c in text)


def _taken(schemes: Collection[str]) -> str:
    forms = {
        "file": "file:///path",
        "http": "http://…",
        "https": "https://…",
        "s3": "s3://bucket/key",
        "redis": "redis:<key>",
        "data": "data:audio/wav;base64,…",
    }
    return "taken are " + ", ".join(forms.get(scheme, f"{scheme}://…") for scheme in schemes)


def _bad(message: str) -> RequestError:
    return RequestError(ErrorCode.BAD_REQUEST, message)
